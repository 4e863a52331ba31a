# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the running server: does it answer, is it busy, which process is it."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import settings

# No proxy: the server is on this very host.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# A generation keeps at least one core busy; an idle server uses next to none.
BUSY_CORES = 0.2
BUSY_SAMPLE_SECONDS = 2.0


def base_url(config: dict[str, Any]) -> str:
    """Where this host reaches its own server."""
    address = _WILDCARDS.get(config["address"], config["address"])
    return f"http://[{address}]:{config['port']}" if ":" in address else f"http://{address}:{config['port']}"


def get(config: dict[str, Any], path: str, timeout: float) -> bytes | None:
    """The body of a 200, or None for any other answer or none. A login in front is an answer as well (empty body)."""
    try:
        with _OPENER.open(base_url(config) + path, timeout=timeout) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as error:
        return b"" if error.code == 401 else None
    except (OSError, ValueError):
        return None


def main_pid() -> int:
    """The service's main process, 0 when it does not run."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=MainPID", "--value", settings.UNIT],
        check=False,
        capture_output=True,
        text=True,
    )
    return int(shown.stdout.strip() or 0)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_busy(config: dict[str, Any], paths: dict[str, Any]) -> bool:
    """Does a generation run? By the engine's own progress where it has one, else by its processor time."""
    if paths["progress"]:
        body = get(config, paths["progress"], 5)
        if body:
            state = json.loads(body).get("state", {})
            return bool(state.get("job_count") or state.get("job"))
    pid = main_pid()
    if not pid:
        return False
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(BUSY_SAMPLE_SECONDS)
    return (cpu_seconds(pid) - before) / (time.monotonic() - start) > BUSY_CORES
