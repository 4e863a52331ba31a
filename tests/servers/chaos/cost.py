#!/usr/bin/env python3
# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watchdog costs while nobody asks for a picture: cost.py [SECONDS]. Run on the host, as root; prints JSON."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
TIMER_SECONDS = 15


def shown(unit: str, name: str) -> str:
    """A property of a unit."""
    command = ["systemctl", "show", f"--property={name}", "--value", unit]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def used(pid: int) -> float:
    """Processor time of a process and of those that it has waited for, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def waited_for(pid: int) -> float:
    """Of that, what the processes that it has waited for have used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(int(field) for field in fields[13:15]) / TICKS


def memory(pid: int) -> dict[str, float]:
    """MB in use and at most, and MB that it shares with nobody."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    lines += Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    found = {line.partition(":")[0]: line.split() for line in lines}
    names = {"rss": "VmRSS", "peak": "VmHWM", "pss": "Pss"}
    return {name: int(found[field][1]) * 1024 / 1e6 for name, field in names.items()}


def one_run(unit: str) -> float:
    """Processor time of what a unit runs, in seconds: run once more, and waited for."""
    command = re.search(r"argv\[\]=(.*?) ;", shown(unit, "ExecStart"))
    if command is None:
        return 0.0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command[1].split(), check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(seconds: float) -> dict[str, float]:
    """Per cent of a core, and MB, over so many seconds."""
    pid = int(shown("sd-webui.service", "MainPID"))
    begun, before = time.monotonic(), used(pid) - waited_for(pid)
    time.sleep(seconds)
    spent, over = used(pid) - waited_for(pid) - before, time.monotonic() - begun
    timer = shown("sd-watchdog-root.timer", "ActiveState") == "active"
    return {
        "seconds": over,
        "cpu_percent": 100 * spent / over,
        # One run of the root part, each 15 s where there is a card to look after.
        "root_cpu_percent": 100 * one_run("sd-watchdog-root.service") / TIMER_SECONDS if timer else 0.0,
        **memory(pid),
    }


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)))
