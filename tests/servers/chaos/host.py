# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host is in the way: its port, its disk, its clock."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos import observe
from chaos.fault import Observed, difference, fault, settle, until


@fault
def port_taken() -> dict[str, Any]:
    """Another program has the port when the server is started; it is named, and nothing loops."""
    settle()
    engine = observe.engine_file()
    observe.run("systemctl", "stop", observe.UNIT)
    # Shared, or the connections of the engine's last life, which are still closing, would be in its way.
    listen = (
        "import socket,sys,time;s=socket.create_server((sys.argv[1],int(sys.argv[2])),reuse_port=True);time.sleep(600)"
    )
    squatter = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--unit=squatter",
        "--uid=nobody",
        "/usr/bin/python3",
        "-c",
        listen,
    ]
    observe.run(*squatter, engine["address"], str(engine["port"]))
    time.sleep(0.5)
    seen = Observed()
    observe.run("systemctl", "start", "--no-block", observe.UNIT)
    named = until(lambda: "squatter.service" in str(observe.status().get("said")) and observe.status()["said"], 40)
    # Long enough for a person's start to be refused and an automatic one to wait.
    time.sleep(16)
    named_after = round(time.time() - seen.at - 16, 2)
    waiting = observe.status()
    tries = len([line for line in observe.journal(seen.at) if line["message"].startswith("starting ")])
    observe.run("systemctl", "stop", "squatter")
    seen.now()
    result = seen.recovered(60)
    return {**result, "detected": named_after, "named": named, "waiting": waiting, "tries": tries}


def blocked_disk(spoil: Callable[[], None], repair: Callable[[], None], word: str) -> dict[str, Any]:
    """A running server is left alone and people are told; a new start waits until it can work."""
    settle()
    engine, at = observe.engine(), time.time()
    spoil()
    try:
        warned = until(lambda: [said for said in observe.status().get("problems") or [] if word in said], 30)
        warned_after = round(time.time() - at, 2)
        untouched = observe.engine() == engine
        seen = Observed()
        os.kill(engine, signal.SIGKILL)
        time.sleep(4)
        waiting = until(lambda: waits_for(word), 20)
        tries = len([line for line in observe.journal(seen.at) if line["message"].startswith("starting ")])
    finally:
        repair()
    seen.now()
    result = seen.recovered(90)
    return {
        **result,
        "detected": warned_after,
        "warned": warned,
        "untouched": untouched,
        "waiting": waiting,
        "tries": tries,
    }


def waits_for(word: str) -> dict[str, Any]:
    """What the supervisor says while a start waits for that."""
    said = observe.status()
    return said if said.get("state") == "waiting" and word in str(said.get("said")) else {}


@fault
def read_only() -> dict[str, Any]:
    """As ext4 does after an error of the disk."""
    folder = observe.engine_file()["outputs_dir"]
    return blocked_disk(
        lambda: void(observe.run("mount", "-o", "remount,ro", folder)),
        lambda: void(observe.run("mount", "-o", "remount,rw", folder)),
        "cannot be written",
    )


@fault
def disk_full() -> dict[str, Any]:
    """Pictures, pictures, pictures."""
    filler = Path(observe.engine_file()["outputs_dir"], "filler.png")

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()

    return blocked_disk(fill, filler.unlink, "free")


def void(_value: Any) -> None:
    """For functions whose answer nobody wants."""


@fault
def clock_jump() -> dict[str, Any]:
    """The wall clock of the watchdog goes a year ahead and back, and it kills nobody for it."""
    settle()
    folder, clock = Path(f"/run/systemd/system/{observe.UNIT}.d"), Path("/run/chaos-clock")
    folder.mkdir(parents=True, exist_ok=True)
    set_clock(clock, "+0")
    library = next(Path("/usr/lib").rglob("libfaketime.so.1"))
    settings = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": clock,
        "FAKETIME_NO_CACHE": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        "DONT_FAKE_MONOTONIC": 1,
    }
    lines = [f"Environment={name}={value}" for name, value in settings.items()]
    dropin = folder / "90-clock.conf"
    dropin.write_text("\n".join(["[Service]", *lines]) + "\n", encoding="utf-8")
    observe.run("systemctl", "daemon-reload")
    observe.run("systemctl", "restart", observe.UNIT)
    settle()
    try:
        pids, before, states = (observe.engine(), observe.supervisor()), observe.restarts(), []
        for jump in ("+365d", "-365d", "+0"):
            set_clock(clock, jump)
            time.sleep(4)
            states.append(observe.status().get("state"))
        same, counted = (observe.engine(), observe.supervisor()) == pids, difference(before)
        set_clock(clock, "+365d")
        time.sleep(2)
        seen = Observed()
        os.kill(pids[0], signal.SIGKILL)
        found = seen.recovered(60)
        # Its own word, with its own clock.
        ahead = found["restarts"][-1]["wall"] - time.time() if found["restarts"] else 0
        return {**found, "states": states, "same": same, "counted": counted, "jumped": ahead > 300 * 86400}
    finally:
        dropin.unlink()
        observe.run("systemctl", "daemon-reload")
        observe.run("systemctl", "restart", observe.UNIT)


def set_clock(path: Path, text: str) -> None:
    """What libfaketime adds to the clock."""
    part = path.with_suffix(".part")
    part.write_text(f"{text}\n", encoding="utf-8")
    part.replace(path)
