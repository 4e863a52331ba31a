# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine or its supervisor is killed or stopped, or the engine ends at once; on any engine."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from chaos import cost, observe
from chaos.fault import Jobs, Observed, difference, fault, picture, settle, until


@fault
def begin() -> dict[str, Any]:
    """Times that are no part of what is measured are made short: faults are forgotten soon, the card is asked often."""
    path = Path("/etc/sd-watchdog/config.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    config.update(healthy_seconds=1, gpu_interval=3)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(config), encoding="utf-8")
    part.replace(path)
    observe.run("systemctl", "restart", observe.UNIT)
    settle()
    return {"picture": picture(), "restarts_total": observe.restarts()}


@fault
def sigkill() -> dict[str, Any]:
    """The engine is killed in the middle of a picture."""
    settle()
    jobs = Jobs().ask(steps=100)
    time.sleep(1)
    seen = Observed(jobs)
    os.kill(observe.engine(), signal.SIGKILL)
    return seen.recovered()


@fault
def sigstop() -> dict[str, Any]:
    """The engine is stopped: it accepts connections, and answers nobody."""
    settle()
    seen = Observed()
    os.kill(observe.engine(), signal.SIGSTOP)
    return seen.recovered()


@fault
def supervisor_killed() -> dict[str, Any]:
    """Who watches the watchdog? systemd."""
    settle()
    seen = Observed()
    os.kill(observe.supervisor(), signal.SIGKILL)
    return seen.recovered()


@fault
def supervisor_stopped() -> dict[str, Any]:
    """It sends no more word to systemd."""
    settle()
    seen = Observed()
    os.kill(observe.supervisor(), signal.SIGSTOP)
    return seen.recovered()


@fault
def crash_loop() -> dict[str, Any]:
    """The engine ends at once, again and again, for a minute."""
    settle()
    binary = str(Path("/opt/sd-webui/current/bin/sd-server").resolve())
    before = observe.restarts()
    observe.run("mount", "--bind", "/usr/bin/false", binary)
    seen = Observed()
    os.kill(observe.engine(), signal.SIGKILL)
    try:
        time.sleep(60)
        lines = observe.journal(seen.at)
        starts = [round(line["wall"] - seen.at, 1) for line in lines if line["message"].startswith("starting ")]
        waiting = observe.status()
    finally:
        observe.run("umount", binary)
    counted = difference(before)
    # A person who has repaired it does not wait.
    seen.now()
    observe.run("systemctl", "restart", observe.UNIT)
    return {**seen.recovered(40), "at": starts, "counted": counted, "waiting": waiting}


@fault
def asked() -> dict[str, Any]:
    """What a person does with systemctl is no fault, and stays as it is."""
    settle()
    before = observe.restarts()
    observe.run("systemctl", "restart", observe.UNIT)
    first = observe.engine()
    observe.run("systemctl", "stop", observe.UNIT)
    time.sleep(4)
    stopped = (observe.run("systemctl", "is-active", observe.UNIT, check=False), observe.engine())
    observe.run("systemctl", "start", observe.UNIT)
    settle()
    return {"first": first, "stopped": stopped, "counted": difference(before), "picture": picture()}


@fault
def after_reboot() -> dict[str, Any]:
    """What is known, once the server answers again."""
    until(lambda: observe.status().get("state") == "ready", 90)
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return {"status": observe.status(), "uptime": uptime, "picture": picture()}


@fault
def idle() -> dict[str, Any]:
    """What the watchdog costs while nothing happens; tests/bench/watchdog_cost takes a minute for it."""
    settle()
    return dict(cost.measure(12))


@fault
def told() -> dict[str, Any]:
    """What the supervisor says about itself now."""
    return observe.status()
