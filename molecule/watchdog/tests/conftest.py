# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All faults, begun at once: each host has its own row of them, and a test waits for the one that it is about."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
# A real engine, its host; faults inside the web UI, of its card and its people. The guide's hosts have one fault each.
ROWS = {
    "sd-watchdog": (
        "begin",
        "sigkill",
        "sigstop",
        "supervisor_killed",
        "supervisor_stopped",
        "asked",
        "port_taken",
        "reboot",
        "candidate",
        "absent",
    ),
    "sd-watchdog-host": (
        "begin",
        "idle",
        "read_only",
        "disk_full",
        "clock_jump",
        "crash_loop",
    ),
    "sd-watchdog-a1111": (
        "begin_card",
        "sigkill",
        "sigstop",
        "blocked_loop",
        "hung_job",
        "cuda_error",
        "cuda_out_of_memory",
        "memory_hog",
        "reset",
    ),
    "sd-watchdog-card": (
        "begin_card",
        "idle",
        "profile_switch",
        "queue_of_sixty",
        "spin",
        "maintenance",
        "xid_45",
        "ladder",
        "xid_79",
        "alerts",
    ),
    "sd-cron-kill": ("guide_sigkill",),
    "sd-cron-kill-other": ("guide_sigkill_other",),
    "sd-cron-stop": ("guide_sigstop",),
    "sd-cron-block": ("guide_blocked_loop",),
}
PYTHON = "python3"
# The guide's script looks for any python3, so whoever watches it has another name there.
WATCHER = "PYTHONHOME=/usr /opt/chaos/watcher"
# What is done from here, and no fault on the host.
HERE = ("reboot", "candidate", "absent", "reset")
LOOK = Path(__file__).resolve().parents[1] / "look.py"
LEFT = 'find /etc /usr/local /var/lib /run -name "*watchdog*" -not -path "/run/lock/*"'


class Chaos:
    """What became of each fault, by host and name."""

    def __init__(self, playbook: Callable[..., Any]) -> None:
        self._playbook = playbook
        entries = yaml.safe_load(Path(os.environ["MOLECULE_INSTANCE_CONFIG"]).read_text(encoding="utf-8"))
        self._logins = {entry["instance"]: entry for entry in entries}
        self._pools = {host: ThreadPoolExecutor(1) for host in ROWS}
        self.begun = time.monotonic()
        self.futures: dict[tuple[str, str], Future[dict[str, Any]]] = {
            (host, name): self._pools[host].submit(self._make, host, name) for host, row in ROWS.items() for name in row
        }

    def on(self, host: str, command: str, stdin: str = "", timeout: float = 400) -> str:
        """The output of a command on a host, as root."""
        login = self._logins[host]
        ssh = ["ssh", "-i", login["identity_file"], "-o", "StrictHostKeyChecking=no"]
        ssh += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"{login['user']}@{login['address']}"]
        done = subprocess.run(
            [*ssh, f"sudo sh -c '{command}'"],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{host}: {command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def _make(self, host: str, name: str) -> dict[str, Any]:
        if name in HERE:
            return {**getattr(self, name)(host), "finished": round(time.monotonic() - self.begun)}
        python = WATCHER if host.startswith("sd-cron") else PYTHON
        return {**self._tell(host, name, python), "finished": round(time.monotonic() - self.begun)}

    def _tell(self, host: str, name: str, python: str = PYTHON) -> dict[str, Any]:
        """What the host says about a fault."""
        found: dict[str, Any] = json.loads(self.on(host, f"cd /opt && {python} -B -m chaos {name}"))
        return found

    def _look(self, host: str) -> dict[str, Any]:
        """The web UI's unit and the files around it."""
        script = LOOK.read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(self.on(host, "python3 -", stdin=script))
        return found

    def reboot(self, host: str) -> dict[str, Any]:
        """Plugged out and in again."""
        before = self._tell(host, "told")
        subprocess.run([str(ROOT / "tests/testbed/testbed"), "restart", host], check=True, timeout=180)
        begun = time.monotonic()
        after = self._tell(host, "after_reboot")
        return {"before": before, **after, "ready": round(time.monotonic() - begun, 1)}

    def candidate(self, host: str) -> dict[str, Any]:
        """Settings with which the engine does not start: tried, and taken back."""
        before = self._tell(host, "told")
        run = self._playbook("playbooks/update.yml", host, sd_webui_extra_args=["--no-such-flag"])
        return {"before": before, "after": self._tell(host, "told"), "rc": run.returncode, "message": run.message}

    def absent(self, host: str) -> dict[str, Any]:
        """The watchdog is taken away from a server that runs."""
        run = self._playbook("molecule/watchdog/watchdog.yml", host, watchdog_state="absent")
        again = self._playbook("molecule/watchdog/watchdog.yml", host, watchdog_state="absent")
        plain: dict[str, Any] = json.loads(self.on(host, "cat /root/plain.json"))
        running = self.on(host, "python3 -Es /opt/sd-webui/libexec/check_running.py && echo it runs")
        found = {"rc": run.returncode, "again": again.changed, "output": run.output, "running": running}
        return {**found, "plain": plain, "now": self._look(host)}

    def reset(self, host: str) -> dict[str, Any]:
        """Everything is taken away."""
        run = self._playbook("playbooks/reset.yml", host)
        return {"rc": run.returncode, "output": run.output, "left": self.on(host, LEFT)}

    def __call__(self, host: str, name: str) -> dict[str, Any]:
        """What became of it; waits for it."""
        found = self.futures[host, name].result(600)
        print(json.dumps(found, indent=1))
        return found

    def end(self) -> None:
        """Begin nothing more."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)


@pytest.fixture(scope="session")
def chaos(playbook: Callable[..., Any]) -> Iterator[Chaos]:
    """Begun with the first test that asks for one of the faults."""
    found = Chaos(playbook)
    yield found
    found.end()
