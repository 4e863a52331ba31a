# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ladder, with a made-up clock: backoff, rungs down and up, releases, the card."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from sd_watchdog import ladder, model
from sd_watchdog.config import Config
from sd_watchdog.ladder import NOTHING, State, Step

CONFIG = Config()
PROFILES = ("cpu", "gpu_lowvram", "gpu_medvram")


def fault(state: State, reason: str = model.EXITED, at: float = 0.0, **options: Any) -> None:
    """An engine of release r1 has ended."""
    ladder.note_end(state, reason, f"it {reason}", at, 1e9 + at, **{"ready": True, "release": "r1", **options})


def before_start(state: State, profile: str = "gpu_medvram", config: Config = CONFIG, **options: Any) -> Step:
    """What the ladder asks for before the next start."""
    known: dict[str, Any] = {"desired": "gpu_medvram", "profiles": PROFILES, "release": "r1", **options}
    return ladder.step_before_start(state, config, profile=profile, **known)


def while_idle(state: State, profile: str = "cpu", config: Config = CONFIG, ours: bool = True) -> Step:
    """What it asks for while nobody waits for a picture."""
    return ladder.step_while_idle(
        state, config, profile=profile, desired="gpu_medvram", profiles=PROFILES, override_is_ours=ours
    )


# --- the backoff


def test_a_crash_at_each_start() -> None:
    """At most ten restarts in the first ten minutes, then one in five minutes."""
    state, now, starts = State(boot_id="b"), 0.0, []
    for _crash in range(20):
        fault(state, model.EXITED, now, ready=False)
        now += ladder.wait_before_start(state, CONFIG, now) + 0.1
        starts.append(now)
    assert starts[0] == pytest.approx(1.1)
    assert len([start for start in starts if start <= 600]) <= 10
    assert [round(later - earlier) for earlier, later in zip(starts[-4:], starts[-3:])] == [300, 300, 300]


def test_ten_healthy_minutes_begin_anew() -> None:
    state = State(boot_id="b")
    for at in range(6):
        fault(state, at=float(at))
    assert ladder.backoff(state, CONFIG) == 32
    ladder.note_health(state, CONFIG, 10, 590, "r1")
    assert ladder.backoff(state, CONFIG) == 32
    ladder.note_health(state, CONFIG, 10, 600, "r1")
    assert ladder.backoff(state, CONFIG) == 0
    assert state.good_release == "r1"


def test_time_that_has_passed_meanwhile_counts() -> None:
    state = State(boot_id="b")
    for _fault in range(4):
        fault(state, at=100.0)
    assert ladder.wait_before_start(state, CONFIG, 103.0) == 5
    assert ladder.wait_before_start(state, CONFIG, 200.0) == 0


def test_a_person_need_not_wait() -> None:
    state = State(boot_id="b")
    for _fault in range(9):
        fault(state)
    ladder.note_stop(state)
    assert ladder.wait_before_start(state, CONFIG, 0.0) == 0
    assert before_start(state) == NOTHING
    assert sum(state.restarts_total.values()) == 9


def test_a_planned_restart_waits_for_nothing_and_counts_as_no_fault() -> None:
    state = State(boot_id="b")
    fault(state, model.MEMORY_GROWTH)
    assert (state.failures, ladder.wait_before_start(state, CONFIG, 0.0)) == (0, 0)
    assert state.restarts_total == {model.MEMORY_GROWTH: 1}


def test_another_boot_has_other_seconds() -> None:
    """The old one's would be far in the future, or long past."""
    state = State(boot_id="b")
    for _fault in range(9):
        fault(state, at=9e6)
    state.repair, state.running = "reboot", "123"
    assert ladder.enter_boot(state, "c")
    assert ladder.wait_before_start(state, CONFIG, 5.0) == 0
    assert (state.repair, state.running, state.failures) == ("", "", 0)
    assert len(state.history) == 9
    assert not ladder.enter_boot(state, "c")


# --- down


def test_three_faults_and_the_next_profile() -> None:
    state, profile, seen = State(boot_id="b"), "gpu_medvram", []
    for count in range(12):
        fault(state, model.CUDA_OOM, float(count))
        step = before_start(state, profile)
        if step.action:
            assert step.action == "profile" and "3 faults with" in step.reason
            ladder.note_step(state, step)
            profile = step.profile
            seen.append((count + 1, profile))
    assert seen == [(3, "gpu_lowvram"), (6, "cpu")]


@pytest.mark.parametrize(
    "reason",
    [model.CONFIG, model.PORT_TAKEN, model.DISK_FULL, model.READ_ONLY, model.OOM, model.KILLED, model.SUPERVISOR],
)
def test_what_another_profile_cannot_mend(reason: str) -> None:
    state = State(boot_id="b")
    for _fault in range(9):
        fault(state, reason)
        assert before_start(state) == NOTHING


def test_a_lost_card_goes_to_the_processor_first() -> None:
    """Xid 79: at once; and the host is restarted only if that is allowed, from the processor, when nobody waits."""
    state = State(boot_id="b")
    ladder.demand(state, "cpu_then_reboot")
    fault(state, model.XID)
    step = before_start(state)
    assert (step.action, step.profile) == ("profile", "cpu")
    ladder.note_step(state, step)
    assert while_idle(state) == NOTHING
    allowed = dataclasses.replace(CONFIG, reboot=True)
    assert while_idle(state, config=allowed).action == "reboot"
    assert while_idle(state, config=allowed, ours=False) == NOTHING


def test_a_reset_is_a_reload_of_the_driver_once() -> None:
    state = State(boot_id="b")
    ladder.demand(state, "reset")
    step = while_idle(state)
    assert step.action == "reload_driver"
    assert while_idle(state, "gpu_lowvram") == NOTHING
    assert while_idle(state, config=dataclasses.replace(CONFIG, driver_reload=False)) == NOTHING
    ladder.note_step(state, step)
    assert while_idle(state) == NOTHING


@pytest.mark.parametrize("verdict", ["ignore", "restart"])
def test_other_xids_ask_for_nothing_of_the_card(verdict: str) -> None:
    state = State(boot_id="b")
    ladder.demand(state, verdict)
    assert state.repair == ""


def test_reboot_is_the_last_rung_and_off_by_default() -> None:
    state = State(boot_id="b")
    allowed = dataclasses.replace(CONFIG, reboot=True)
    asked = []
    for count in range(1, 26):
        fault(state, ready=False)
        assert before_start(state, "cpu", desired="cpu", profiles=("cpu",)) == NOTHING
        if before_start(state, "cpu", allowed, desired="cpu", profiles=("cpu",)).action == "reboot":
            asked.append(count)
    # Not at every start: each question is answered by the root part, which has its own limits.
    assert asked == [10, 20]


# --- up


def test_an_engine_that_cannot_be_killed() -> None:
    """It keeps its port until the host restarts, whatever the profile."""
    state = State(boot_id="b", stuck=True)
    fault(state, model.PORT_TAKEN)
    assert before_start(state, "cpu") == NOTHING
    allowed = dataclasses.replace(CONFIG, reboot=True)
    assert before_start(state, "cpu", allowed).action == "reboot"
    ladder.enter_boot(state, "another")
    assert before_start(state, "cpu", allowed) == NOTHING


def test_a_day_of_health_is_one_rung() -> None:
    state = State(boot_id="b")
    ladder.note_health(state, CONFIG, 86399, 86399, "r1")
    assert while_idle(state) == NOTHING
    ladder.note_health(state, CONFIG, 1, 86400, "r1")
    assert while_idle(state, ours=False) == NOTHING
    step = while_idle(state)
    assert (step.action, step.profile) == ("profile", "gpu_lowvram")
    ladder.note_step(state, step, up=True)
    assert while_idle(state, "gpu_lowvram") == NOTHING
    ladder.note_health(state, CONFIG, 86400, 86400, "r1")
    assert while_idle(state, "gpu_lowvram").action == "clear_profile"


def test_a_step_up_that_fails_is_taken_back_at_once() -> None:
    state = State(boot_id="b")
    ladder.note_step(state, Step("profile", "gpu_lowvram"), up=True)
    fault(state, model.CUDA_OOM)
    step = before_start(state, "gpu_lowvram")
    assert (step.action, step.profile) == ("profile", "cpu") and "step up" in step.reason


def test_a_step_up_that_has_proven_itself_is_like_any_other() -> None:
    state = State(boot_id="b")
    ladder.note_step(state, Step("profile", "gpu_lowvram"), up=True)
    ladder.note_health(state, CONFIG, 600, 600, "r1")
    fault(state, model.CUDA_OOM)
    assert before_start(state, "gpu_lowvram") == NOTHING


def test_profiles_that_an_engine_lacks_are_left_out() -> None:
    assert ladder.lower("gpu_full", ("cpu", "gpu_lowvram")) == "gpu_lowvram"
    assert ladder.lower("cpu", PROFILES) == ""
    assert ladder.higher("cpu", "gpu_full", ("cpu", "gpu_full")) == "gpu_full"
    assert ladder.higher("gpu_full", "cpu", PROFILES) == ""


# --- releases


def test_a_release_that_never_answers_gives_way_to_the_last_good_one() -> None:
    state = State(boot_id="b", good_release="r1")
    for count in range(3):
        assert before_start(state, "cpu", release="r2") == NOTHING
        fault(state, model.EXITED, float(count), ready=False, release="r2")
    step = before_start(state, "cpu", release="r2")
    assert step.action == "roll_back" and "r2 has not answered in 3 starts" in step.reason
    ladder.note_step(state, step)
    assert before_start(state, "cpu", release="r1") == NOTHING


@pytest.mark.parametrize("good", ["", "r2"])
def test_there_is_nothing_to_go_back_to(good: str) -> None:
    state = State(boot_id="b", good_release=good)
    for _fault in range(5):
        fault(state, ready=False, release="r2")
    assert before_start(state, "cpu", release="r2") == NOTHING


def test_faults_after_the_first_answer_are_none_of_the_release() -> None:
    state = State(boot_id="b", good_release="r1")
    for _fault in range(5):
        fault(state, ready=True, release="r2")
    assert before_start(state, "cpu", release="r2") == NOTHING


def test_a_full_disk_is_no_reason_to_go_back() -> None:
    state = State(boot_id="b", good_release="r1")
    for _fault in range(5):
        fault(state, model.DISK_FULL, ready=False, release="r2")
    assert before_start(state, "cpu", release="r2") == NOTHING


# --- outages, and the file


def test_an_outage_lasts_from_the_first_fault_to_the_first_answer() -> None:
    state = State(boot_id="b")
    fault(state, at=100.0)
    fault(state, at=110.0, ready=False)
    assert ladder.note_ready(state, 125.0) == 25
    assert state.outage_seconds_total == 25
    assert state.history[-1]["ready_after"] == 25
    assert ladder.note_ready(state, 130.0) is None


def test_the_state_survives_its_file() -> None:
    state = State(boot_id="b")
    fault(state, at=3.5, evidence=["a line"])
    assert ladder.load(json.loads(json.dumps(vars(state)))) == state


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        {},
        {"failures": "many", "history": [1, "x"], "restarts_total": {"a": "b"}, "automatic": 1, "outage": "x"},
        {"healthy": None, "boot_id": 7, "repair": ["x"], "failures": True},
    ],
)
def test_a_damaged_state_is_a_new_one(damaged: Any) -> None:
    assert ladder.load(damaged) == State()


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity", "-5", "1e300", "9" * 400])
def test_odd_numbers_of_a_damaged_state_are_left_out(odd: str) -> None:
    names = ("failures", "on_rung", "failed_starts", "ended", "outage", "healthy", "outage_seconds_total", "xid_number")
    state = ladder.load(
        json.loads(f'{{"automatic": true, {", ".join(f"{json.dumps(name)}: {odd}" for name in names)}}}')
    )
    assert state == State(automatic=True)


def test_an_end_that_is_still_to_come_is_not_waited_for() -> None:
    state = ladder.load({"boot_id": "b", "automatic": True, "failures": 3, "ended": 1e9, "reason": model.EXITED})
    assert ladder.wait_before_start(state, CONFIG, 100.0) == 4


def test_the_history_does_not_grow_for_ever() -> None:
    state = State(boot_id="b")
    for _fault in range(200):
        fault(state)
    assert len(state.history) == ladder.HISTORY
    assert state.restarts_total == {model.EXITED: 200}


@pytest.mark.parametrize(
    ("profile", "repair", "ours", "rung"),
    [
        ("gpu_medvram", "", False, "restart"),
        ("cpu", "", False, "restart"),
        ("gpu_lowvram", "", True, "profile"),
        ("cpu", "", True, "cpu"),
        ("cpu", "reset", True, "driver_reload"),
        ("cpu", "reboot", True, "reboot"),
    ],
)
def test_where_it_stands(profile: str, repair: str, ours: bool, rung: str) -> None:
    state = State(boot_id="b", repair=repair)
    assert ladder.rung(state, CONFIG, profile=profile, desired="gpu_medvram", override_is_ours=ours) == rung


def test_a_driver_that_may_not_be_reloaded_leaves_a_restart_of_the_host() -> None:
    config = dataclasses.replace(CONFIG, driver_reload=False)
    state = State(boot_id="b", repair="reset")
    assert ladder.rung(state, config, profile="cpu", desired="gpu_full", override_is_ours=True) == "reboot"
