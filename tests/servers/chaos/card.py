# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The card's kernel log and its tool, the ladder of profiles, and what people do and are told."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from chaos import observe
from chaos.engine import begin
from chaos.fault import Jobs, Observed, difference, fault, picture, settle, until, write_fault


@fault
def begin_card() -> dict[str, Any]:
    """The inventory wishes a profile of the card; the kernel's log begins, and somebody takes the alerts."""
    Path("/opt/chaos/kernel.log").touch()
    Path("/etc/sd-webui/profile").write_text("gpu_lowvram\n", encoding="utf-8")
    command = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--unit=alert-sink",
        "/usr/bin/python3",
        "/opt/chaos/alert_sink.py",
    ]
    observe.run(*command)
    return {**begin(), "command_line": observe.command_line(observe.engine())}


@fault
def profile_switch() -> dict[str, Any]:
    """sd-profile restarts the server, as a person wishes."""
    settle()
    before = observe.restarts()
    said = observe.run("sd-profile", "cpu", "--for", "1h", "--reason", "a large ControlNet", "--drain", "10")
    there = observe.command_line(observe.engine())
    shown = observe.run("sd-watchdog", "status", check=False)
    observe.run("sd-profile", "clear", "--drain", "10")
    back = observe.command_line(observe.engine())
    return {"said": said, "there": there, "shown": shown, "back": back, "counted": difference(before)}


@fault
def queue_of_sixty() -> dict[str, Any]:
    """More requests than threads, a card whose tool hangs, and Python programs that come and go: nobody is killed."""
    settle()
    before, engine, supervisor = observe.restarts(), observe.engine(), observe.supervisor()
    Path("/opt/chaos/nvidia-smi.hangs").touch()
    jobs = Jobs().ask(60, steps=12)
    failed, hanging, most, cards = 0, 0, 0, set()
    until_time = time.monotonic() + 30
    number = 0
    while time.monotonic() < until_time:
        number += 1
        observe.run("python3", "-c", "print(1)")
        if number == 4:
            observe.run(
                "systemd-run",
                "--quiet",
                "--collect",
                "--unit=bpytop",
                "/usr/bin/python3",
                "-c",
                "import time; time.sleep(60)",
            )
        if number == 12:
            observe.run("systemctl", "stop", "bpytop")
        failed += observe.ask(observe.engine_file()["health_path"], timeout=1)[0] != 200
        hanging = len([pid for pid in observe.unit_pids() if "/opt/chaos/nvidia-smi" in observe.command_line(pid)])
        most = max(most, hanging)
        cards.add(str((observe.status().get("gpu") or {}).get("said")))
        time.sleep(0.5)
    busy = observe.status()
    Path("/opt/chaos/nvidia-smi.hangs").unlink()
    jobs.wait()
    same = (observe.engine(), observe.supervisor()) == (engine, supervisor)
    return {
        "jobs": jobs.told(),
        "same": same,
        "counted": difference(before),
        "failed": failed,
        "most_hanging": most,
        "cards": sorted(cards),
        "busy": busy,
    }


@fault
def maintenance() -> dict[str, Any]:
    """Somebody works on the host: nothing is done until that has ended."""
    settle()
    before = observe.restarts()
    observe.run("sd-watchdog", "maintenance", "on", "--for", "10m", "--reason", "another power supply")
    until(lambda: observe.status().get("state") == "maintenance", 15)
    shown = observe.run("sd-watchdog", "status", check=False)
    engine = observe.engine()
    os.kill(engine, signal.SIGKILL)
    time.sleep(6)
    untouched = observe.engine() == 0
    seen = Observed()
    observe.run("sd-watchdog", "maintenance", "off")
    return {**seen.recovered(40), "shown": shown, "untouched": untouched, "counted": difference(before)}


def kernel_says(line: str) -> None:
    """As the driver writes it."""
    with Path("/opt/chaos/kernel.log").open("a", encoding="ascii") as file:
        file.write(f"[{time.clock_gettime(time.CLOCK_BOOTTIME):12.6f}] {line}\n")


@fault
def xid_45() -> dict[str, Any]:
    """What the driver says after every kill is no fault of the card."""
    settle()
    seen = Observed()
    os.kill(observe.engine(), signal.SIGKILL)
    kernel_says("NVRM: Xid (PCI:0000:03:00): 45, pid=1234, name=python, Ch 00000010")
    result = seen.recovered()
    read = until(lambda: (observe.status().get("xid_total") or {}).get("45"), 30)
    time.sleep(3)
    return {**result, "read": read, "total": observe.restarts(), "command_line": observe.command_line(observe.engine())}


@fault
def xid_79() -> dict[str, Any]:
    """The card has fallen off the bus: the processor serves."""
    observe.run("sd-profile", "clear", "--drain", "5")
    settle()
    seen = Observed()
    kernel_says("NVRM: GPU at PCI:0000:03:00: GPU-01234567-89ab-cdef-0123-456789abcdef")
    kernel_says("NVRM: Xid (PCI:0000:03:00): 79, pid=1234, GPU has fallen off the bus.")
    result = seen.recovered(60)
    return {
        **result,
        **profile_told(),
        "gpu": json.loads(Path("/run/sd-watchdog-root/gpu.json").read_text(encoding="utf-8")),
    }


def profile_told() -> dict[str, Any]:
    """Which profile runs, and where a person reads why."""
    return {
        "command_line": observe.command_line(observe.engine()),
        "sd_profile": observe.run("sd-profile", "status"),
        "shown": observe.run("sd-watchdog", "status", check=False),
    }


@fault
def ladder() -> dict[str, Any]:
    """A profile of the card with which it does not start any more."""
    observe.run("sd-profile", "clear", "--drain", "5")
    settle()
    before = observe.command_line(observe.engine())
    write_fault(exit_at_start=3)
    seen = Observed()
    os.kill(observe.engine(), signal.SIGKILL)
    return {"before": before, **seen.recovered(90), **profile_told(), "picture": picture()}


@fault
def alerts() -> dict[str, Any]:
    """What has come, once the last one is there."""
    path = Path("/run/alerts.jsonl")

    def come() -> list[dict[str, Any]]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    settle()
    until(lambda: not os.listdir("/var/lib/sd-watchdog/outbox"), 60)
    return {"alerts": come(), "left": os.listdir("/var/lib/sd-watchdog/outbox")}
