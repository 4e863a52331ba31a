# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be seen from outside: processes and when they started, answers, the journal, the watchdog's own word."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

UNIT = "sd-webui.service"
STATUS = Path("/run/sd-watchdog/status.json")
PROCESS_INTERVAL, HEALTH_INTERVAL = 0.05, 0.2
TICKS = os.sysconf("SC_CLK_TCK")
# The guide's web UI, where no role has been.
GUIDE = {"engine": "guide", "address": "127.0.0.1", "port": 7860, "health_path": "/internal/ping"}
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def run(*command: str, check: bool = True) -> str:
    """The output of a command."""
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stdout.strip()}")
    return done.stdout.strip()


def engine_file() -> dict[str, Any]:
    """What runs here and how to ask it."""
    try:
        found: dict[str, Any] = json.loads(Path("/etc/sd-webui/engine.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return GUIDE
    return found


def status() -> dict[str, Any]:
    """What the supervisor says about itself; nothing where it has said nothing yet."""
    try:
        found: dict[str, Any] = json.loads(STATUS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def restarts() -> dict[str, int]:
    """Restarts by the watchdog so far, by reason."""
    return dict(status().get("restarts_total") or {})


def ask(path: str, body: Any = None, timeout: float = 60) -> tuple[int, bytes]:
    """Status and body of an answer; status 0 where there is none."""
    engine = engine_file()
    headers = {"Content-Type": "application/json"}
    if engine.get("auth_file"):
        login = Path(engine["auth_file"]).read_bytes().strip()
        headers["Authorization"] = "Basic " + base64.b64encode(login).decode("ascii")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{engine['address']}:{engine['port']}{path}", data, headers)
    try:
        with OPENER.open(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, ValueError, urllib.error.URLError):
        return 0, b""


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent …; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def started(pid: int) -> float | None:
    """When a process was started, by the wall clock."""
    fields = stat_fields(pid)
    if not fields or fields[0] == "Z":
        return None
    boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - (boottime - int(fields[19]) / TICKS)


def command_line(pid: int) -> str:
    """Its words, separated by blanks."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def unit_pids() -> list[int]:
    """The processes of the unit; systemd's own tree lies elsewhere in each version of control groups."""
    found: set[int] = set()
    for tree in ("", "systemd", "unified"):
        with contextlib.suppress(OSError, ValueError):
            listed = Path("/sys/fs/cgroup", tree, "system.slice", UNIT, "cgroup.procs").read_text(encoding="ascii")
            found |= {int(pid) for pid in listed.split()}
    return sorted(found)


def supervisor() -> int:
    """Its process, 0 when there is none."""
    return next((pid for pid in unit_pids() if "supervise.py" in command_line(pid).split("sd-watchdog/")[-1]), 0)


def engine() -> int:
    """The engine's process, 0 when there is none: a child of the supervisor, or the guide's."""
    if engine_file() is GUIDE:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and command_line(int(entry.name)).startswith("python3 -u launch.py"):
                return int(entry.name)
        return 0
    parent = supervisor()
    for pid in unit_pids():
        fields = stat_fields(pid)
        if fields and fields[0] != "Z" and int(fields[1]) == parent and "/opt/sd-webui/" in command_line(pid):
            return pid
    return 0


class Recorder:
    """Notes which engines there were, since when and until when, and which health requests were answered."""

    def __init__(self) -> None:
        self.engines: dict[int, dict[str, float]] = {}
        self.healthy: list[float] = []
        self._end = threading.Event()
        self._path = engine_file()["health_path"]
        for function in (self._watch_processes, self._watch_health):
            threading.Thread(target=function, daemon=True).start()

    def _watch_processes(self) -> None:
        while not self._end.wait(PROCESS_INTERVAL):
            pid = engine()
            if pid and pid not in self.engines:
                begun = started(pid)
                if begun is not None:
                    self.engines[pid] = {"started": begun}
            for known, seen in self.engines.items():
                if "gone" not in seen and stat_fields(known)[:1] in ([], ["Z"]):
                    seen["gone"] = time.time()

    def _watch_health(self) -> None:
        while not self._end.wait(HEALTH_INTERVAL):
            asked = time.time()
            # A stopped process accepts and never answers; its end is felt at once.
            if ask(self._path, timeout=2)[0] == 200:
                self.healthy.append(asked)

    def stop(self) -> None:
        """Watch no longer."""
        self._end.set()

    def ready(self, since: float, other_than: int) -> tuple[int, float] | None:
        """The engine that answers now and was not there before, and when it did so first."""
        for pid, seen in list(self.engines.items()):
            if pid == other_than or "gone" in seen or seen["started"] < since - 0.1:
                continue
            answers = [asked for asked in self.healthy if asked > seen["started"]]
            if answers:
                return pid, answers[0]
        return None


def journal(since: float) -> list[dict[str, Any]]:
    """The unit's lines: those of its processes and those of systemd about it."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", f"--unit={UNIT}", f"--since=@{since:.3f}"]
    listed = run(*command, check=False)
    found = []
    for line in listed.splitlines():
        entry = json.loads(line)
        message = entry.get("MESSAGE")
        # A line with control characters comes as a list of its bytes.
        message = bytes(message).decode(errors="replace") if isinstance(message, list) else message
        if message:
            wall = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
            found.append({"wall": wall, "by": entry.get("SYSLOG_IDENTIFIER", ""), "message": message})
    return found
