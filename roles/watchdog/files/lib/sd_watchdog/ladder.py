# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows a fault: the rungs from a restart to a reboot, and the way back up. No clock, no file, no process.

The state is kept in /var/lib between one life of the engine and the next. Its times are seconds since boot, which no
change of the wall clock moves; a state of an earlier boot counts no seconds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from sd_watchdog import model, report
from sd_watchdog.config import Config

# From the profile that asks the most of a card to the one that asks nothing.
ORDER = ("gpu_full", "gpu_medvram", "gpu_lowvram", "cpu")
HISTORY = 50
# More than any count or time here.
MOST = 1e12
# A host where nothing else has helped may be restarted, if that is allowed, after each so many faults in a row.
REBOOT_FAULTS = 10


@dataclass
class State:
    """What is remembered across restarts of the server and of the host."""

    boot_id: str = ""
    # Faults since the last healthy ten minutes, and since the last change of the profile.
    failures: int = 0
    on_rung: int = 0
    # The last fault: seconds since boot. `automatic`: systemd starts the next life because of it.
    ended: float | None = None
    reason: str = ""
    said: str = ""
    automatic: bool = False
    # Since when people wait for the server (seconds since boot, wall clock), and why.
    outage: float | None = None
    outage_wall: float | None = None
    outage_reason: str = ""
    # Starts in a row of one release that never answered, and the last release that did for ten minutes.
    failed_starts: int = 0
    failed_release: str = ""
    good_release: str = ""
    # Seconds of health since the last fault, as far as the ladder has been left alone.
    healthy: float = 0.0
    # The last change of the profile was a step up, which has not yet proven itself.
    probation: bool = False
    # What the card asks for: "", reset or reboot; and whether its driver has been reloaded for it.
    repair: str = ""
    reloaded: bool = False
    xid_number: int = 0
    # The last engine could not even be killed: it hangs in the kernel, and holds its port and its card.
    stuck: bool = False
    # The supervisor's own process while it lives.
    running: str = ""
    restarts_total: dict[str, int] = field(default_factory=dict)
    outage_seconds_total: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def load(data: dict[str, Any] | None) -> State:
    """From the file, as far as it makes sense: the server starts in any case."""
    state = State()
    for entry in dataclasses.fields(State):
        value = (data or {}).get(entry.name)
        default = getattr(state, entry.name)
        if value is None or isinstance(value, bool) != isinstance(default, bool):
            continue
        if isinstance(value, (int, float)) and not 0 <= value < MOST:
            # Damaged: JSON knows numbers that no count and no time ever reaches, and NaN.
            continue
        if isinstance(default, (float, type(None))) and isinstance(value, (int, float)):
            setattr(state, entry.name, float(value))
        elif default is not None and isinstance(value, type(default)):
            setattr(state, entry.name, value)
    state.history = [entry for entry in state.history if isinstance(entry, dict)][-HISTORY:]
    state.restarts_total = {
        str(reason): count for reason, count in state.restarts_total.items() if isinstance(count, int)
    }
    return state


def enter_boot(state: State, boot_id: str) -> bool:
    """A new boot: its seconds are others, and nothing has to be waited for. True when it is one."""
    if state.boot_id == boot_id:
        return False
    known = bool(state.boot_id)
    state.boot_id = boot_id
    state.ended = None
    state.automatic = False
    state.running = ""
    state.failures = state.on_rung = 0
    # The card has been reset by the boot itself.
    state.repair = ""
    state.reloaded = False
    state.xid_number = 0
    state.stuck = False
    if state.outage is not None:
        # How long it was off, nobody has counted.
        state.outage = 0.0
    return known


def backoff(state: State, config: Config) -> float:
    """Seconds between the last fault and the next start: 1, 2, 4 … as many as allowed."""
    if state.failures <= 0:
        return 0.0
    return float(min(2.0 ** min(state.failures - 1, 20), config.backoff_max))


def wait_before_start(state: State, config: Config, boottime: float) -> float:
    """What of the backoff is still to come."""
    if not state.automatic or state.ended is None or state.reason in model.PLANNED:
        return 0.0
    wait = backoff(state, config)
    # Never longer than that, should the file tell of an end that is still to come.
    return min(wait, max(0.0, state.ended + wait - boottime))


def note_end(
    state: State,
    reason: str,
    said: str,
    boottime: float,
    wall: float,
    *,
    ready: bool,
    release: str,
    evidence: list[str] | None = None,
) -> None:
    """An engine has ended. `ready`: it had answered in this life."""
    planned = reason in model.PLANNED
    state.ended, state.reason, state.said, state.automatic = boottime, reason, said, True
    state.restarts_total[reason] = state.restarts_total.get(reason, 0) + 1
    state.history = [
        *state.history,
        {"wall": wall, "reason": reason, "said": said, "evidence": evidence or [], "ready_after": None},
    ][-HISTORY:]
    if state.outage is None:
        state.outage, state.outage_wall, state.outage_reason = boottime, wall, reason
    if planned:
        return
    state.failures += 1
    state.healthy = 0.0
    if reason in model.CLIMBING:
        state.on_rung += 1
    if ready or reason in model.OUTSIDE:
        state.failed_starts = 0
    elif release == state.failed_release:
        state.failed_starts += 1
    else:
        state.failed_starts, state.failed_release = 1, release


def note_ready(state: State, boottime: float) -> float | None:
    """The server answers. Seconds that people have waited, or None when nobody had to."""
    state.failed_starts = 0
    if state.outage is None:
        return None
    seconds = max(0.0, boottime - state.outage)
    state.outage_seconds_total += seconds
    if state.history and state.history[-1].get("ready_after") is None:
        state.history[-1]["ready_after"] = round(seconds, 1)
    state.outage = state.outage_wall = None
    state.outage_reason = ""
    return seconds


def note_health(state: State, config: Config, seconds: float, uptime: float, release: str) -> None:
    """So many more healthy seconds, after so many seconds since the server answered for the first time."""
    state.healthy += seconds
    if uptime >= config.healthy_seconds:
        state.failures = state.on_rung = 0
        state.good_release = release
        state.probation = False


def note_stop(state: State) -> None:
    """A person has stopped or restarted the service: whatever comes next starts at once."""
    state.automatic = False
    state.failures = state.on_rung = state.failed_starts = 0
    state.outage = state.outage_wall = None
    state.outage_reason = ""


@dataclass(frozen=True)
class Step:
    """What to ask of the root part: nothing, another profile, the desired one, a reload, a reboot, the last release."""

    action: str = ""
    profile: str = ""
    reason: str = ""


NOTHING = Step()


def lower(profile: str, profiles: tuple[str, ...]) -> str:
    """The next profile that asks less of the card; "" when there is none."""
    if profile not in ORDER:
        return ""
    below = ORDER[ORDER.index(profile) + 1 :]
    return next((name for name in below if name in profiles), "")


def higher(profile: str, desired: str, profiles: tuple[str, ...]) -> str:
    """One rung back up, at most to the desired one; "" when it is reached."""
    if profile not in ORDER or desired not in ORDER or ORDER.index(profile) <= ORDER.index(desired):
        return ""
    between = [name for name in ORDER[ORDER.index(desired) : ORDER.index(profile)] if name in profiles]
    return between[-1] if between else ""


def step_before_start(
    state: State, config: Config, *, profile: str, desired: str, profiles: tuple[str, ...], release: str
) -> Step:
    """What has to change before the engine is started again."""
    if state.automatic and state.stuck and config.reboot:
        return Step("reboot", "", "the last engine hangs in the kernel and cannot be killed")
    if not state.automatic or state.reason in model.PLANNED or state.reason in model.OUTSIDE:
        return NOTHING
    why = f"{state.reason}: {state.said}"
    if (
        state.failed_starts >= config.failed_starts
        and state.failed_release == release
        and state.good_release not in ("", release)
    ):
        return Step("roll_back", "", f"{release} has not answered in {state.failed_starts} starts; {why}")
    if profile.startswith("gpu_"):
        if state.repair and "cpu" in profiles:
            return Step("profile", "cpu", why)
        next_one = lower(profile, profiles)
        if state.reason in model.CLIMBING and next_one:
            if state.probation:
                return Step("profile", next_one, f"the step up to {profile} has failed; {why}")
            if state.on_rung >= config.restarts_per_rung:
                return Step("profile", next_one, f"{state.on_rung} faults with {profile}; at last {why}")
        return NOTHING
    if config.reboot and state.failures and not state.failures % REBOOT_FAULTS and state.reason in model.CLIMBING:
        return Step("reboot", "", f"{state.failures} faults in a row; at last {why}")
    return NOTHING


def note_step(state: State, step: Step, up: bool = False) -> None:
    """The root part has done it."""
    if step.action in ("profile", "clear_profile"):
        state.on_rung = 0
        state.healthy = 0.0
        state.probation = up
        if up:
            # What the card needed a day ago is forgotten: if it still needs it, it will say so again.
            state.repair = ""
            state.reloaded = False
    elif step.action == "roll_back":
        state.failed_starts = 0
        state.good_release = ""
    elif step.action in ("reload_driver", "reboot"):
        state.repair = ""
        state.reloaded = False


def demand(state: State, verdict: str) -> None:
    """A verdict about an Xid that no restart of the program clears: what the card needs once the CPU serves."""
    if verdict in ("reboot", "cpu_then_reboot"):
        state.repair = "reboot"
    elif verdict == "reset" and state.repair != "reboot":
        state.repair = "reset"
        state.reloaded = False


def step_while_idle(
    state: State,
    config: Config,
    *,
    profile: str,
    desired: str,
    profiles: tuple[str, ...],
    override_is_ours: bool,
) -> Step:
    """What may be done for a server that answers and makes no picture: repair the card, or one rung back up."""
    if not override_is_ours or profile == desired:
        return NOTHING
    if profile == "cpu" and state.repair:
        if state.repair == "reset" and config.driver_reload and not state.reloaded:
            return Step("reload_driver", "", "the card needs a reset, and the processor serves meanwhile")
        if config.reboot:
            return Step("reboot", "", "the card needs a restart of the host, and nobody waits for a picture")
    if state.healthy >= config.step_up_seconds:
        healthy = report.duration(config.step_up_seconds)
        target = higher(profile, desired, profiles)
        if target == desired:
            return Step("clear_profile", desired, f"{profile} has been healthy for {healthy}")
        if target:
            return Step("profile", target, f"{profile} has been healthy for {healthy}; one rung back up")
    return NOTHING


def rung(state: State, config: Config, *, profile: str, desired: str, override_is_ours: bool) -> str:
    """On which rung the server stands."""
    if not override_is_ours or profile == desired:
        return "restart"
    if state.repair == "reset" and config.driver_reload:
        return "driver_reload"
    if state.repair:
        # Where the driver is not to be touched, a restart of the host resets the card too.
        return "reboot"
    return "cpu" if profile == "cpu" else "profile"
