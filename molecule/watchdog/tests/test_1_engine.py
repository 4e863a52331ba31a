# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine fails, in each of the ways that are known: how long until it answers again?

A figure is an aim; what fails a test is three times as much, because the machine that runs the tests has other work.
"""

from __future__ import annotations

from typing import Any

import pytest

SLACK = 3
# Seconds after the fault: first word about it, end of the old engine, start of the new one, its first answer.
AIMS = {
    "sigkill": {"detected": 2, "restarted": 3},
    "sigstop": {"ended": 30},
    "blocked_loop": {"restarted": 45},
    "supervisor_killed": {"ready": 30},
    "supervisor_stopped": {"ready": 30},
}
REAL, HOST, STAND_IN, CARD = "sd-watchdog", "sd-watchdog-host", "sd-watchdog-a1111", "sd-watchdog-card"
COST = {"cpu_percent": 1, "root_cpu_percent": 1, "peak": 30}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (REAL, "sigkill"),
        (REAL, "sigstop"),
        (REAL, "supervisor_killed"),
        (REAL, "supervisor_stopped"),
        (STAND_IN, "sigkill"),
        (STAND_IN, "sigstop"),
        (STAND_IN, "blocked_loop"),
    ],
)
def test_is_back_in_time(chaos: Any, host: str, name: str) -> None:
    found = chaos(host, name)
    for what, aim in AIMS[name].items():
        assert found[what] is not None and found[what] < SLACK * aim, f"{what}: {found[what]} s, the aim is {aim} s"
    assert found["ready"] is not None and found["starts"] == 1


@pytest.mark.parametrize(
    ("host", "name", "reason", "word"),
    [
        (REAL, "sigkill", "killed", "SIGKILL"),
        (REAL, "sigstop", "stopped", "state T"),
        (REAL, "supervisor_killed", "supervisor", "without a word"),
        (REAL, "supervisor_stopped", "supervisor", "without a word"),
        (STAND_IN, "sigkill", "killed", "SIGKILL"),
        (STAND_IN, "sigstop", "stopped", "state T"),
        (STAND_IN, "blocked_loop", "hung", "health requests in a row"),
        (STAND_IN, "hung_job", "stalled_job", "step 2 of 10"),
        (STAND_IN, "cuda_error", "cuda_error", "only a new process clears"),
        (STAND_IN, "cuda_out_of_memory", "cuda_oom", "3 jobs"),
        (STAND_IN, "memory_hog", "oom", "lack of memory"),
    ],
)
def test_says_why(chaos: Any, host: str, name: str, reason: str, word: str) -> None:
    """Once, in the status and in the journal."""
    found = chaos(host, name)
    assert {key: count for key, count in found["counted"].items() if count} == {reason: 1}
    entry = found["restarts"][-1]
    assert entry["reason"] == reason and word in entry["said"]
    assert any(word in line for line in found["said"])
    assert found["ready"] is not None


def test_a_hung_job_ends_after_the_configured_time(chaos: Any) -> None:
    """watchdog_stall_seconds is 30 in this scenario."""
    found = chaos(STAND_IN, "hung_job")
    assert 25 < found["detected"] < 3 * 30
    assert found["jobs"] == {"asked": 1, "lost": 1}


def test_a_poisoned_server_is_started_anew_at_once_when_it_is_idle(chaos: Any) -> None:
    found = chaos(STAND_IN, "cuda_error")
    assert found["detected"] < 30 and found["jobs"] == {"asked": 1, "lost": 1}
    assert found["picture"]


def test_two_pictures_that_are_too_large_are_the_users_affair(chaos: Any) -> None:
    found = chaos(STAND_IN, "cuda_out_of_memory")
    assert found["same"] and found["detected"] < 30
    assert found["picture"]


def test_the_supervisor_outlives_a_memory_hog(chaos: Any) -> None:
    found = chaos(STAND_IN, "memory_hog")
    assert found["detected"] < 60
    assert not any("without a word" in line for line in found["said"])


def test_crashes_at_start_are_few(chaos: Any) -> None:
    """A minute of the real clock; ten minutes of a made-up one: tests/unit/roles/test_watchdog_ladder.py."""
    found = chaos(HOST, "crash_loop")
    assert 3 <= len(found["at"]) <= 6, found["at"]
    pauses = [round(after - before) for before, after in zip(found["at"], found["at"][1:])]
    # A start takes its time on a busy machine; the waiting before it is never shorter than it should be.
    assert all(wait <= pause <= wait + 12 for wait, pause in zip((2, 4, 8, 16, 32), pauses)), pauses
    assert found["waiting"]["state"] == "waiting" and "next start" in found["waiting"]["said"]
    assert found["waiting"]["next_start_in"] is not None
    # Who has repaired it does not wait.
    assert found["ready"] is not None and found["ready"] < 90


def test_a_server_that_computes_is_not_dead(chaos: Any) -> None:
    """Nobody is answered for 25 seconds: busy."""
    found = chaos(CARD, "spin")
    assert found["failed"] >= 5
    assert found["same"] and found["answered"] and found["counted"] == {}
    assert "works on" in found["unhealthy"]["said"]


def test_what_a_person_does_is_respected(chaos: Any) -> None:
    found = chaos(REAL, "asked")
    assert found["stopped"] == ["inactive", 0]
    assert found["counted"] == {} and found["picture"]


@pytest.mark.parametrize("host", [HOST, CARD])
def test_costs_next_to_nothing(chaos: Any, host: str) -> None:
    """Per cent of a core and MB; tests/bench/watchdog_cost takes a minute for it."""
    found = chaos(host, "idle")
    for what, aim in COST.items():
        assert found[what] < SLACK * aim, f"{what}: {found[what]}, the aim is {aim}"
