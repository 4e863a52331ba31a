# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the running server: does it answer, is it busy, which process is it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import settings

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# A generation keeps at least one core busy; an idle server uses next to none.
BUSY_CORES = 0.2
BUSY_SAMPLE_SECONDS = 2.0


def base_url(config: dict[str, Any]) -> str:
    """Where this host reaches its own server."""
    address = _WILDCARDS.get(config["address"], config["address"])
    return f"http://[{address}]:{config['port']}" if ":" in address else f"http://{address}:{config['port']}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The login goes to this host's server and to nobody else."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Take the redirect for the answer."""


# No proxy: the server is on this very host.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def ask(config: dict[str, Any], path: str, timeout: float, login: str | None = None) -> tuple[str, bytes | None]:
    """What the server answers, in words, and the body of a 200."""
    headers = {}
    if login is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode("ascii")
    try:
        request = urllib.request.Request(base_url(config) + path, headers=headers)
        with _OPENER.open(request, timeout=timeout) as answer:
            body: bytes = answer.read()
            return f"HTTP {answer.status}", body if answer.status == 200 else None
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}", None
    except urllib.error.URLError as error:
        return str(error.reason), None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__, None


def listeners(port: int) -> set[int]:
    """The users whose programs listen on a TCP port."""
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        # A host without IPv6 has no second one.
        with contextlib.suppress(OSError):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                # Local address, state (0A: listens) and owner.
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(int(fields[7]))
    return found


def is_ours(port: int) -> bool:
    """Is it the service that listens there, and not a program of somebody who waits for the login?"""
    try:
        owner = os.stat(f"/proc/{int(os.environ.get('MAINPID') or main_pid())}").st_uid
    except (OSError, ValueError):
        return False
    return listeners(port) == {owner}


def ask_with_login(config: dict[str, Any], path: str, timeout: float) -> tuple[str, bytes | None]:
    """The same, with the login if it is known; if it is not, its being asked for is an answer (empty body)."""
    login = settings.load_login()
    told = login if login is None or is_ours(int(config["port"])) else None
    said, body = ask(config, path, timeout, told)
    if told != login:
        return "a program of somebody else" if said.startswith("HTTP") else said, None
    return said, b"" if said == "HTTP 401" and login is None else body


def get(config: dict[str, Any], path: str, timeout: float) -> bytes | None:
    """The body of a 200, or None for any other answer or none."""
    return ask_with_login(config, path, timeout)[1]


def main_pid() -> int:
    """The service's main process, 0 when it does not run."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=MainPID", "--value", settings.UNIT],
        check=False,
        capture_output=True,
        text=True,
    )
    return int(shown.stdout.strip() or 0)


def processes() -> list[int]:
    """The processes of the service; its main process may be one that only looks after the engine."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=ControlGroup", "--value", settings.UNIT],
        check=False,
        capture_output=True,
        text=True,
    )
    group = shown.stdout.strip().lstrip("/")
    found: list[int] = []
    # Where systemd keeps its own tree: cgroup v2, v1, and both at once.
    for tree in ("", "systemd", "unified") if group else ():
        for listed in sorted((settings.ROOT / "sys/fs/cgroup" / tree / group).rglob("cgroup.procs")):
            with contextlib.suppress(OSError, ValueError):
                found += [int(pid) for pid in listed.read_text(encoding="ascii").split()]
    return list(dict.fromkeys(found)) or [pid for pid in (main_pid(),) if pid]


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def says_busy(body: bytes) -> bool | None:
    """What an engine's answer about its progress means; None when it means nothing."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    if "job" in answer and "queue" in answer:
        return bool(answer["job"] or answer["queue"])
    state = answer.get("state")
    if not isinstance(state, dict):
        return None
    # job_count is -1 at the very beginning.
    return bool(state.get("job_count") or state.get("job") or answer.get("current_task"))


def is_busy(config: dict[str, Any], paths: dict[str, Any]) -> bool:
    """Does a generation run? By the engine's own progress where it has one, else by its processor time."""
    # What tells about the queue, too, and costs nothing, goes first.
    for path in (paths.get("activity"), paths["progress"]):
        if path:
            # Without the picture so far, which takes as long as one more step.
            said = says_busy(get(config, path + ("" if "?" in path else "?skip_current_image=true"), 5) or b"")
            if said is not None:
                return said
    pids = processes()
    if not pids:
        return False
    before, start = {pid: cpu_seconds(pid) for pid in pids}, time.monotonic()
    time.sleep(BUSY_SAMPLE_SECONDS)
    # One that has ended meanwhile counts for nothing.
    used = sum(max(0.0, cpu_seconds(pid) - seconds) for pid, seconds in before.items())
    return used / (time.monotonic() - start) > BUSY_CORES
