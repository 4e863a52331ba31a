# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at the engine: its process, its control group, its answers, its card. Nothing here waits."""

from __future__ import annotations

import collections
import os
import time
from pathlib import Path

from sd_watchdog import model, paths, store
from sd_watchdog.config import Config, Engine
from sd_watchdog.engine_process import EngineProcess
from sd_watchdog.gpu_query import Gpu, GpuQuery
from sd_watchdog.http_probe import Answer, HttpProbe
from sd_watchdog.proc import Cgroup, Proc

# Cores are an average over so many seconds: one look at a busy loop and one beside it tell the same.
SAMPLE_SECONDS = 5.0
# Readiness is asked for often: an answer that is late is time that people wait.
READINESS_INTERVAL = 0.5
# An engine's progress costs it a preview, so it is asked for once in so many health requests.
PROGRESS_EVERY = 6
# A line so shortly before the end tells why.
LAST_WORDS_SECONDS = 30.0


def login() -> str | None:
    """user:password, as systemd gives it to this service."""
    try:
        text = Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent", "login").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return text.rstrip("\r\n") or None


class Look:
    """The eyes of one life of the engine."""

    def __init__(self, config: Config, engine: Engine, process: EngineProcess, card: bool) -> None:
        # Another one when the settings are read again.
        self.config = config
        self._engine, self._process = engine, process
        self._proc = Proc()
        self._cgroup = Cgroup(self._proc, os.getpid())
        # In a cgroup of somebody else (a terminal, a test) only the engine's own processes count.
        self._own_cgroup = _is_in_unit(engine.unit)
        self._http = HttpProbe(engine.address, engine.port, login(), os.getuid(), self._proc)
        self._query = GpuQuery([config.nvidia_smi], config.gpu_deadline) if card and config.gpu else None
        self._machine_memory = self._proc.meminfo().get("total")
        self._samples: collections.deque[tuple[float, float, int, int]] = collections.deque()
        self._asked = -1e9
        self._count = 0
        self._gpu_asked = -1e9
        self._gpu_mtime = -1.0
        self._kinds: dict[str, float] = {}
        self._oom_kills = self._cgroup.oom_kills() or 0
        self.card = card
        # What the driver said of a program before this one began, it said of another.
        self._began = self._proc.boottime()
        self.ready = False
        self.failing = False
        self.answer: Answer | None = None
        self.gpu: Gpu | None = None
        self.activity: model.Activity | None = None
        self.cores: float | None = None
        self.memory: int | None = None
        self.memory_limit: int | None = None
        # What the kernel log says of the card, as the root part has judged it.
        self.xid_counts: dict[str, int] = {}
        self.xid_number = 0
        self.new_repairs: list[str] = []

    def ask(self, now: float) -> None:
        """Send the next request, when its time has come and none is on its way."""
        wait = self.config.health_interval if self.ready else READINESS_INTERVAL
        if self._http.outstanding or now - self._asked < wait:
            return
        self._asked = now
        self._count += 1
        self._http.ask(self._path(), self.config.health_timeout)

    def _path(self) -> str:
        """What to ask for: readiness, then what tells the most."""
        engine = self._engine
        if not self.ready:
            return engine.readiness_path
        if engine.activity_path:
            return engine.activity_path
        if engine.progress_path and self._count % PROGRESS_EVERY == 0 and not self.failing:
            return engine.progress_path
        return engine.health_path

    def is_ready(self) -> bool:
        """Has the readiness request been answered? Asks anew when not."""
        answer = self._http.answer()
        if answer is not None:
            self.answer = answer
            if answer.ok and answer.path == self._engine.readiness_path:
                self.ready = True
                self._asked = -1e9
        return self.ready

    def look(self, now: float) -> model.Seen:
        """All that is known now."""
        healthy, said, activity = self._health()
        kinds = self._new_kinds(now)
        cores, read_rate, fault_rate = self._sample(now)
        self._ask_card(now)
        self.cores = cores
        self.memory, self.memory_limit = self._cgroup_memory()
        return model.Seen(
            now=now,
            state=self._proc.state(self._process.pid),
            healthy=healthy,
            health_said=said,
            cores=cores,
            read_rate=read_rate,
            fault_rate=fault_rate,
            gpu_percent=self._gpu_percent(),
            activity=activity,
            log=kinds,
            lines=self._process.lines,
            xids=self._xids(),
            memory=self.memory,
            memory_limit=self.memory_limit,
        )

    def _health(self) -> tuple[bool | None, str, model.Activity | None]:
        """The answer that has come since the last look. Any answer at all is one of a server that lives."""
        answer = self._http.answer()
        if answer is None:
            return None, "", None
        self.answer = answer
        self.failing = answer.status is None
        activity = model.parse_activity(answer.body) if answer.ok else None
        if activity is not None:
            self.activity = activity
        return answer.status is not None, answer.said, activity

    def _sample(self, now: float) -> tuple[float | None, float, float]:
        """Cores, bytes read and major faults a second over the last seconds, the supervisor's own left out."""
        pids = [self._process.pid, *self._proc.descendants(self._process.pid)]
        used = self._cgroup.cpu_seconds() if self._own_cgroup else None
        used = sum(map(self._proc.cpu_seconds, pids)) if used is None else used - time.process_time()
        last = (now, used, sum(map(self._proc.read_bytes, pids)), sum(map(self._proc.major_faults, pids)))
        self._samples.append(last)
        while len(self._samples) > 2 and now - self._samples[1][0] >= SAMPLE_SECONDS:
            self._samples.popleft()
        first = self._samples[0]
        seconds = now - first[0]
        if seconds < 1:
            return None, 0.0, 0.0
        # A process that has ended takes its numbers with it.
        cores, read_rate, fault_rate = (max(0.0, (last[n] - first[n]) / seconds) for n in (1, 2, 3))
        return cores, read_rate, fault_rate

    def _cgroup_memory(self) -> tuple[int | None, int | None]:
        """Bytes in use, and the limit: the unit's, or the machine's."""
        total = self._machine_memory
        if not self._own_cgroup:
            return self._proc.rss(self._process.pid), total
        limit = self._cgroup.limit()
        limits = [value for value in (limit, total) if value]
        return self._cgroup.memory(), min(limits) if limits else None

    def _ask_card(self, now: float) -> None:
        """Ask nvidia-smi now and then, and more often while there is no answer."""
        if self._query is None:
            return
        result = self._query.poll(now)
        if result is not None:
            self.gpu = result
        interval = self.config.health_interval if self.failing else self.config.gpu_interval
        if now - self._gpu_asked >= interval and self._query.start(now):
            self._gpu_asked = now

    def _gpu_percent(self) -> float | None:
        """How busy the card is; a card whose own tool hangs does nothing for anybody."""
        if self._query is not None and self._query.hangs:
            return 0.0
        return self.gpu.utilization if self.gpu is not None else None

    def _xids(self) -> tuple[tuple[str, str], ...]:
        """New verdicts of the root part."""
        try:
            mtime = paths.GPU.stat().st_mtime
        except OSError:
            return ()
        if mtime == self._gpu_mtime:
            return ()
        self._gpu_mtime = mtime
        data = store.read(paths.GPU) or {}
        if data.get("boot_id") != self._proc.boot_id():
            return ()
        self.xid_counts = {str(xid): int(count) for xid, count in dict(data.get("counts") or {}).items()}
        found = []
        for entry in data.get("xids") or []:
            if int(entry.get("number", 0)) > self.xid_number:
                self.xid_number = int(entry["number"])
                verdict, at = str(entry.get("verdict")), entry.get("boottime")
                if verdict == "restart" and isinstance(at, (int, float)) and at < self._began:
                    continue
                found.append((verdict, str(entry.get("said"))))
                self.new_repairs.append(verdict)
        return tuple(found) if self.card else ()

    def _new_kinds(self, now: float) -> tuple[str, ...]:
        """What its new lines are about. On the processor, words about a card that is missing are just words."""
        kinds = tuple(kind for kind, _line in self._process.events() if self.card or kind != "cuda_error")
        self._kinds.update(dict.fromkeys(kinds, now))
        return kinds

    def recent_kinds(self, now: float) -> set[str]:
        """What its last lines were about."""
        self._new_kinds(now)
        return {kind for kind, seen in self._kinds.items() if now - seen < LAST_WORDS_SECONDS}

    def oom_killed(self) -> bool:
        """Has the kernel killed one of ours for lack of memory in this life?"""
        return self._own_cgroup and (self._cgroup.oom_kills() or 0) > self._oom_kills


def _is_in_unit(unit: str) -> bool:
    """Does systemd keep this process in a control group of the unit's own?"""
    try:
        return f"/{unit}" in Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return False
