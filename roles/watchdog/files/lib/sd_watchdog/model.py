# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of the engine, and what is concluded from it: the words of judge.py, ladder.py and supervisor.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Activity:
    """What the engine says about its work. `place` changes with every step."""

    job: bool
    queue: int = 0
    name: str = ""
    step: int = 0
    steps: int = 0
    number: int = 0

    @property
    def place(self) -> tuple[str, int, int]:
        """Where the work is: two looks at the same place have seen no step between them."""
        return (self.name, self.number, self.step)


@dataclass(frozen=True)
class Seen:
    """One look at the engine. Times are monotonic seconds; None is "not known", or "no news since the last look"."""

    now: float
    # The main process: a letter of /proc/PID/stat.
    state: str | None
    # A health request that has ended since the last look, and what it said.
    healthy: bool | None = None
    health_said: str = ""
    # Over the last seconds: cores, bytes read and major page faults a second, per cent of the card.
    cores: float | None = None
    read_rate: float = 0.0
    fault_rate: float = 0.0
    gpu_percent: float | None = None
    activity: Activity | None = None
    # Kinds of lines in the engine's log since the last look (log_lines.py), and how many lines there were in all.
    log: tuple[str, ...] = ()
    lines: int = 0
    # Verdicts of new Xids (xid.py) with what they say.
    xids: tuple[tuple[str, str], ...] = ()
    # Bytes in use that cannot be given back, and what there is.
    memory: int | None = None
    memory_limit: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What to do with the engine: nothing, end it now, or end it as soon as it makes no picture."""

    action: str = "none"
    reason: str = ""
    said: str = ""

    @property
    def urgent(self) -> bool:
        """Is it to be ended now?"""
        return self.action == "end"


FINE = Verdict()

# Why an engine ended, or was ended.
KILLED, CRASHED, EXITED, OOM = "killed", "crashed", "exited", "oom"
STOPPED, HUNG, STALLED_JOB = "stopped", "hung", "stalled_job"
STALLED_START, SLOW_START = "stalled_start", "slow_start"
CUDA_ERROR, CUDA_OOM, MEMORY_ERROR, MEMORY_GROWTH = "cuda_error", "cuda_oom", "memory_error", "memory_growth"
XID = "xid"
CONFIG, PORT_TAKEN, DISK_FULL, READ_ONLY = "config", "port_taken", "disk_full", "read_only"
SUPERVISOR, ASKED, STEP_UP, REPAIR = "supervisor", "asked", "step_up", "repair"

# Ends that are no fault: nothing is counted, nothing waits.
PLANNED = frozenset({ASKED, MEMORY_GROWTH, STEP_UP, REPAIR})
# Faults that a smaller profile or another start cannot mend: only what is said can.
OUTSIDE = frozenset({CONFIG, PORT_TAKEN, DISK_FULL, READ_ONLY})
# Faults of the card itself.
OF_THE_CARD = frozenset({CUDA_ERROR, CUDA_OOM, XID})
# Faults for which a profile that asks less of the card is worth a try.
CLIMBING = OF_THE_CARD | {CRASHED, EXITED, HUNG, STALLED_JOB, STALLED_START, SLOW_START}


def parse_activity(body: bytes) -> Activity | None:
    """From the activity route, or from A1111's /sdapi/v1/progress; None when it says nothing about work."""
    try:
        data = json.loads(body)
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    try:
        if "job" in data and "last_step_seconds" in data:
            return Activity(
                bool(data["job"]),
                _count(data.get("queue")),
                str(data.get("name") or "")[:100],
                _count(data.get("step")),
                _count(data.get("steps")),
                _count(data.get("job_number")),
            )
        state = data.get("state")
        if isinstance(state, dict):
            # job_count is -1 at the very beginning of a job.
            job = bool(state.get("job_count") or state.get("job") or data.get("current_task"))
            return Activity(
                job,
                0,
                str(data.get("current_task") or state.get("job") or "")[:100],
                _count(state.get("sampling_step")),
                _count(state.get("sampling_steps")),
                _count(state.get("job_no")),
            )
    except (TypeError, ValueError):
        return None
    return None


def _count(value: Any) -> int:
    """A number that an engine tells; nothing counts as 0."""
    return int(value or 0)
