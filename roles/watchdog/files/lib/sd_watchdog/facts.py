# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the supervisor tells people and machines: status.json and metrics.prom, and whether there is maintenance."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from sd_watchdog import ladder, paths, report, store

if TYPE_CHECKING:
    from sd_watchdog.supervisor import Supervisor

# Written so often while nothing changes, and so often while only the words do.
WRITE_SECONDS, WORDS_SECONDS = 5.0, 1.0


class Facts:
    """The supervisor's view of itself."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._state = self._said = ""
        self._since = time.time()
        self._written = -1e9
        self._maintenance: dict[str, Any] | None = None
        self._maintenance_mtime = -1.0

    def maintenance(self) -> dict[str, Any] | None:
        """The maintenance that is on, or None."""
        try:
            mtime = paths.MAINTENANCE.stat().st_mtime
        except OSError:
            self._maintenance_mtime = -1.0
            return None
        if mtime != self._maintenance_mtime:
            self._maintenance_mtime = mtime
            self._maintenance = store.read(paths.MAINTENANCE)
        found = self._maintenance
        if found is None or found.get("boot_id") != self._supervisor.boot_id:
            return None
        until = found.get("until_boottime")
        if isinstance(until, (int, float)) and until <= self._supervisor.proc.boottime():
            return None
        return found

    def write(self, state: str, said: str, now: float | None = None) -> None:
        """Tell it, at once when it is something new; not to be able to is no reason to end."""
        now = time.monotonic() if now is None else now
        pause = WRITE_SECONDS if said == self._said else WORDS_SECONDS
        if state == self._state and now - self._written < pause:
            return
        if state != self._state:
            self._since = time.time()
        self._state, self._said, self._written = state, said, now
        facts = self._collect(state, said, now)
        for path, text in ((paths.STATUS, report.render_status(facts)), (paths.METRICS, report.render_metrics(facts))):
            with contextlib.suppress(OSError):
                part = path.with_name(f"{path.name}.part")
                part.write_text(text, encoding="utf-8")
                part.chmod(0o644)
                part.replace(path)

    def _collect(self, state: str, said: str, now: float) -> dict[str, Any]:
        """Everything that is known, plain."""
        one = self._supervisor
        look, process, memory = one.look, one.process, one.memory
        activity = look.activity if look is not None else None
        gpu = look.gpu if look is not None else None
        return {
            "schema": 1,
            "host": one.config.host,
            "unit": one.engine.unit,
            "engine": one.engine.engine,
            "release": one.engine.release,
            "address": one.engine.address,
            "port": one.engine.port,
            "state": state,
            "since": self._since,
            "written": time.time(),
            "said": said,
            "profile": one.profiles.active,
            "desired_profile": one.profiles.desired,
            "profile_reason": one.profiles.reason,
            "supervisor_pid": os.getpid(),
            "engine_pid": process.pid if process is not None and process.ended() is None else None,
            "uptime": now - one.ready_at if one.ready_at is not None else None,
            "ready_after": one.ready_at - memory.started if one.ready_at is not None else None,
            "queue": activity.queue if activity is not None else None,
            "job": (activity.name or "a picture") if activity is not None and activity.job else None,
            "step": activity.step if activity is not None and activity.job else None,
            "steps": activity.steps if activity is not None and activity.job else None,
            "cores": look.cores if look is not None else None,
            "memory_mib": _mib(look.memory) if look is not None else None,
            "memory_limit_mib": _mib(look.memory_limit) if look is not None else None,
            "probe_seconds": look.answer.seconds if look is not None and look.answer is not None else None,
            "gpu": {
                "utilization": gpu.utilization,
                "memory_used_mib": gpu.memory_used_mib,
                "temperature": gpu.temperature,
                "said": gpu.said,
            }
            if gpu is not None
            else None,
            "restarts_total": one.state.restarts_total,
            "restarts": one.state.history[-10:],
            "failures": one.state.failures,
            "next_start_in": max(0.0, one.next_start - now) if one.next_start is not None else None,
            "rung": ladder.rung(
                one.state,
                one.config,
                profile=one.profiles.active,
                desired=one.profiles.desired,
                override_is_ours=one.profiles.is_ours,
            ),
            "healthy_seconds": one.state.healthy,
            "outage_seconds_total": one.state.outage_seconds_total,
            "xid_total": look.xid_counts if look is not None else {},
            "reboots_total": int((store.read(paths.ROOT_FILE) or {}).get("reboots_total") or 0),
            "maintenance": self.maintenance(),
            "problems": list(one.warned.values()),
        }


def _mib(value: int | None) -> int | None:
    """Bytes as people read them."""
    return None if value is None else round(value / 2**20)
