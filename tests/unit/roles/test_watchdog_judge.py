# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hung or busy, with a made-up clock: hours of a server's life in milliseconds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sd_watchdog import judge, model
from sd_watchdog.config import Config
from sd_watchdog.model import Activity, Seen, Verdict

CONFIG = Config()
MIB = 2**20
JOB = Activity(True, 1, "scripts_txt2img", 3, 20, 0)
NOBODY = Activity(False)
# What a look shows at a time; a health request is answered or not each five seconds.
View = Callable[[float], dict[str, Any]]


def life(
    view: View,
    seconds: float,
    *,
    config: Config = CONFIG,
    card: bool = False,
    ready: float | None = 0.0,
    start_timeout: float = 600.0,
    candidate: bool = False,
    tick: float = 1.0,
) -> Iterator[tuple[float, judge.Memory, Verdict]]:
    """Look each second from the start on, as the supervisor does; `ready`: when it answers for the first time."""
    memory = judge.begin(0.0, candidate)
    now = 0.0
    while now <= seconds:
        if ready is not None and memory.ready is None and now >= ready:
            memory = judge.became_ready(memory, now)
        shown = {"state": "S", "cores": 0.0, **view(now)}
        asked = now > 0 and now % CONFIG.health_interval == 0
        shown["healthy"] = shown.get("healthy", True) if asked and memory.ready is not None else None
        memory, verdict = judge.judge(memory, Seen(now=now, **shown), config, card)
        if memory.ready is None and verdict.action == "none":
            verdict = judge.over_budget(memory, now, start_timeout)
        yield now, memory, verdict
        now += tick


def end(view: View, seconds: float, **options: Any) -> tuple[float, Verdict] | None:
    """The first verdict to act upon, and when: a planned one counts once the server is idle."""
    for now, memory, verdict in life(view, seconds, **options):
        if verdict.urgent or (verdict.action == "when_idle" and judge.is_idle(memory, now)):
            return now, verdict
    return None


def always(**shown: Any) -> View:
    """The same at every look."""
    return lambda _now: shown


# --- what is busy, and not hung


def test_a_job_of_twelve_minutes_on_the_processor() -> None:
    """Two steps a minute, and between them nothing but work."""

    def view(now: float) -> dict[str, Any]:
        if now > 720:
            return {"activity": NOBODY}
        return {"cores": 1.9, "activity": dataclasses.replace(JOB, step=int(now / 30))}

    assert end(view, 900) is None


def test_sixty_queued_requests_fill_the_thread_pool() -> None:
    """Four hours without one answer, and the processor works: an engine without a route of its own."""
    assert end(always(healthy=False, health_said="timed out", cores=1.8), 4 * 3600) is None


def test_sixty_queued_requests_on_a_card() -> None:
    """The processor waits, the card works."""
    assert end(always(healthy=False, cores=0.05, gpu_percent=97.0), 3 * 3600, card=True) is None


def test_a_start_of_220_seconds() -> None:
    assert end(always(cores=0.9), 230, ready=220.0) is None


def test_a_start_that_only_reads() -> None:
    """An old disk: half an hour, far beyond the usual budget, and it reads all the time."""
    assert end(always(cores=0.01, read_rate=30e6), 1900, ready=1850.0, start_timeout=600.0) is None


def test_a_start_that_only_writes_lines() -> None:
    lines = iter(range(10**6))
    assert end(lambda _now: {"lines": next(lines)}, 590, ready=580.0) is None


def test_loading_a_checkpoint_of_seven_gigabytes() -> None:
    """In the middle of its life, mapped into memory from a slow disk: no answer, hardly any processor time."""

    def view(now: float) -> dict[str, Any]:
        loads = 100 <= now < 280
        return {"healthy": not loads, "cores": 0.06, "read_rate": 40e6 if loads else 0.0}

    assert end(view, 600) is None


def test_an_idle_server_that_comes_back_from_the_swap() -> None:
    """No answer, no processor time, hardly a byte by read(): only its pages come, one by one."""

    def view(now: float) -> dict[str, Any]:
        swaps = 100 <= now < 400
        return {"healthy": not swaps, "cores": 0.03, "fault_rate": 90.0 if swaps else 0.0}

    assert end(view, 600) is None
    assert end(always(healthy=False, cores=0.03, fault_rate=0.2), 600) is not None


def test_an_idle_server_for_a_day() -> None:
    assert end(always(activity=NOBODY, memory=4000 * MIB, memory_limit=7000 * MIB), 86400) is None


def test_two_lost_answers_are_no_hang() -> None:
    assert end(lambda now: {"healthy": now % 15 == 0}, 3600) is None


def test_what_the_processor_does_is_not_known() -> None:
    """Nothing is ended on a guess."""
    assert end(always(healthy=False, cores=None), 3600) is None


def test_stopped_for_a_moment() -> None:
    assert end(lambda now: {"state": "T" if now % 20 < 8 else "S"}, 600) is None


def test_held_by_a_debugger() -> None:
    """State t is somebody who looks into it."""
    assert end(always(state="t", cores=0.3), 600) is None


# --- what is hung


def test_a_blocked_event_loop_of_an_idle_server() -> None:
    found = end(lambda now: {"healthy": now < 100, "health_said": "timed out"}, 300)
    assert found is not None
    when, verdict = found
    assert verdict.reason == model.HUNG and "3 health requests in a row had no answer (timed out)" in verdict.said
    # The bar is 45 s, and the request that is on its way may take its five.
    assert when - 100 <= 30


def test_a_stopped_process() -> None:
    found = end(lambda now: {"state": "T" if now >= 50 else "S", "healthy": now < 50}, 200)
    assert found is not None and found[1].reason == model.STOPPED
    assert 10 <= found[0] - 50 <= 12


def test_a_card_of_which_nothing_is_known_gets_more_patience() -> None:
    view = always(healthy=False)
    alone, with_card = end(view, 600), end(view, 600, card=True)
    assert alone is not None and with_card is not None
    assert with_card[0] >= alone[0] + 40


def test_a_loop_that_turns_for_ever() -> None:
    """Full of work and no answer: busy, for six hours and no longer."""
    found = end(always(healthy=False, cores=1.0, health_said="timed out"), 7 * 3600)
    assert found is not None and found[1].reason == model.HUNG
    assert CONFIG.busy_seconds <= found[0] <= CONFIG.busy_seconds + 60


def test_a_job_without_a_step_and_without_work() -> None:
    found = end(lambda now: {"activity": JOB, "cores": 0.9 if now < 60 else 0.0}, 1200)
    assert found is not None and found[1].reason == model.STALLED_JOB
    assert "step 3 of 20" in found[1].said
    assert 600 <= found[0] - 59 <= 605


def test_a_job_without_a_step_that_works() -> None:
    """A step may take long; the processor shows that it is at it."""
    assert end(always(activity=JOB, cores=0.9), 3 * 3600) is None


@pytest.mark.parametrize(
    ("view", "reason", "earliest"),
    [(always(), model.STALLED_START, 120), (always(cores=0.5), model.SLOW_START, 3600)],
)
def test_a_start_that_never_ends(view: View, reason: str, earliest: float) -> None:
    found = end(view, 5000, ready=None)
    assert found is not None and found[1].reason == reason
    assert earliest <= found[0] <= earliest + 2


def test_a_candidate_gets_its_budget_and_no_more() -> None:
    found = end(always(cores=1.0), 100, ready=None, start_timeout=12.0, candidate=True)
    assert found is not None and found[1].reason == model.SLOW_START and found[0] == 12


# --- what lives and is of no use


def test_one_cuda_error_waits_for_the_end_of_the_picture() -> None:
    def view(now: float) -> dict[str, Any]:
        return {"activity": JOB if now < 40 else NOBODY, "cores": 0.9, "log": ("cuda_error",) if now == 10 else ()}

    found = end(view, 100)
    assert found is not None and found[1].reason == model.CUDA_ERROR and found[0] == 40


def test_what_an_engine_said_half_a_minute_ago_is_no_promise() -> None:
    """An engine that is asked for its progress now and then: a picture may have been begun since."""

    def view(now: float) -> dict[str, Any]:
        return {
            "activity": NOBODY if now in (30, 120) else None,
            "cores": 0.9 if 40 <= now < 100 else 0.0,
            "log": ("cuda_error",) if now == 60 else (),
        }

    found = end(view, 300)
    assert found is not None and found[0] == 120


def test_a_picture_that_was_begun_since_the_engine_said_that_it_makes_none() -> None:
    def view(now: float) -> dict[str, Any]:
        works = 47 <= now < 200
        said = (JOB if works else NOBODY) if now % 5 == 0 else None
        return {"activity": said, "cores": 0.9 if works else 0.0, "log": ("cuda_error",) if now == 48 else ()}

    found = end(view, 300)
    assert found is not None and found[0] == 200


def test_jobs_that_fail_one_after_the_other_are_not_waited_for() -> None:
    def view(now: float) -> dict[str, Any]:
        return {"activity": JOB, "cores": 0.9, "log": ("cuda_error",) if now in (10, 30) else ()}

    found = end(view, 100)
    assert found is not None and found[1].urgent and found[0] == 30


def test_one_failure_prints_its_error_many_times() -> None:
    looks = life(lambda now: {"activity": JOB, "cores": 1.0, "log": ("cuda_error",) if now < 2 else ()}, 60, tick=0.25)
    assert not any(verdict.urgent for _now, _memory, verdict in looks)


def test_a_picture_too_large_is_an_answer() -> None:
    assert end(lambda now: {"log": ("cuda_oom",) if now in (10, 900) else (), "activity": NOBODY}, 1800) is None


def test_memory_that_runs_out_again_and_again_is_a_state() -> None:
    found = end(lambda now: {"log": ("cuda_oom",) if now in (10, 60, 110) else (), "activity": NOBODY}, 300)
    assert found is not None and found[0] == 110 and found[1].reason == model.CUDA_OOM


def test_growth_toward_the_limit_is_given_back_while_nobody_waits() -> None:
    """From 3 GB to 6.2 of 7, as A1111 does when models are switched; a job runs when the line is crossed."""

    def view(now: float) -> dict[str, Any]:
        job = 4000 <= now < 4300
        used = 3000 if now < 2000 else 6200
        return {
            "memory": used * MIB,
            "memory_limit": 7000 * MIB,
            "activity": dataclasses.replace(JOB, step=int(now)) if job else NOBODY,
            "cores": 1.0 if job else 0.0,
        }

    found = end(view, 5000)
    assert found is not None and found[1].reason == model.MEMORY_GROWTH
    assert 2060 <= found[0] <= 2065
    busy = end(lambda now: {**view(now), "activity": JOB, "cores": 1.0} if now >= 2000 else view(now), 5000)
    assert busy is None


def test_an_engine_that_always_needs_that_much_is_left_alone() -> None:
    assert end(always(memory=6300 * MIB, memory_limit=7000 * MIB, activity=NOBODY), 7200) is None


@pytest.mark.parametrize(
    ("verdict", "urgent"), [("ignore", None), ("restart", False), ("reset", True), ("cpu_then_reboot", True)]
)
def test_xids(verdict: str, urgent: bool | None) -> None:
    """45 follows our own kill and is ignored by the table; 79 is not waited for."""
    looks = life(lambda now: {"xids": ((verdict, "Xid n"),) if now == 20 else (), "activity": JOB, "cores": 1.0}, 30)
    last = [found for _now, _memory, found in looks][-1]
    assert last.action == {None: "none", False: "when_idle", True: "end"}[urgent]


ROUTE = {"job": True, "queue": 2, "name": "a", "step": 3, "steps": 20, "job_number": 1, "last_step_seconds": 0.1}
PROGRESS = {"job": "", "job_count": 0, "job_no": 0, "sampling_step": 0, "sampling_steps": 20}


@pytest.mark.parametrize(
    ("said", "activity"),
    [
        (ROUTE, Activity(True, 2, "a", 3, 20, 1)),
        ({"state": PROGRESS, "progress": 0}, Activity(False, 0, "", 0, 20, 0)),
        # The very beginning of a job.
        ({"state": {**PROGRESS, "job_count": -1}}, Activity(True, 0, "", 0, 20, 0)),
        ({"sd_model_checkpoint": "x"}, None),
        ({**ROUTE, "step": "x"}, None),
        ([], None),
    ],
)
def test_what_an_engine_says_of_itself(said: Any, activity: Activity | None) -> None:
    assert model.parse_activity(json.dumps(said).encode()) == activity


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b""])
def test_an_answer_that_says_nothing_about_work(body: bytes) -> None:
    assert model.parse_activity(body) is None
