# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same for the guide's script, which cron runs each minute."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos import observe
from chaos.fault import LIMIT, Observed, fault, until


def guide_fault(inject: Callable[[int], None]) -> dict[str, Any]:
    """Begun by cron itself; whatever comes of it."""
    pid = until(lambda: observe.ask("/internal/ping", timeout=2)[0] == 200 and observe.engine(), 90)
    if not pid:
        raise RuntimeError("the guide's web UI does not start")
    # The engine is the one thing called python3 here, as on the guide's own host.
    python = [
        command
        for command in (
            observe.command_line(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()
        )
        if "python3" in command
    ]
    seen = Observed()
    inject(pid)
    return {**seen.recovered(LIMIT), "python": python}


@fault
def guide_sigkill() -> dict[str, Any]:
    """What the script is for."""
    return guide_fault(lambda pid: os.kill(pid, signal.SIGKILL))


@fault
def guide_sigkill_other() -> dict[str, Any]:
    """The same while bpytop, unattended-upgrades or Ansible run."""

    def inject(pid: int) -> None:
        observe.run("systemd-run", "--quiet", "--unit=bpytop", "/usr/bin/python3", "-c", "import time; time.sleep(1e6)")
        os.kill(pid, signal.SIGKILL)

    return guide_fault(inject)


@fault
def guide_sigstop() -> dict[str, Any]:
    """A stopped python3 is a python3."""
    return guide_fault(lambda pid: os.kill(pid, signal.SIGSTOP))


@fault
def guide_blocked_loop() -> dict[str, Any]:
    """So is one that answers nobody."""
    return guide_fault(lambda pid: os.kill(pid, signal.SIGUSR1))
