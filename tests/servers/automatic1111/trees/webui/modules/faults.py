# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults on purpose, for the tests of whoever watches this server: fault.json in the data directory names them.

Read when the server starts, and used up one start at a time:

    {"exit_at_start": 20}          so many starts end with exit status 1
    {"port_in_use": 1}             so many starts end as Gradio's do when the port is taken
    {"start_seconds": 220}         this start takes so long, reading and computing a little all the time

Taken by the running server as soon as the file is there, until this process ends:

    {"block": true}                nobody is answered any more, and nothing is computed
    {"spin_seconds": 30}           nobody is answered for so long, and half a core computes
    {"hang_at_step": 2}            the next job stays at this step for ever, without any work
    {"cuda_error": true}           every job fails with an error that only a new process clears
    {"cuda_oom": 3}                so many jobs fail because the card's memory is full
    {"eat_mib_a_second": 400}      memory is taken until somebody ends it
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import threading
import time
from typing import Any

from .paths_internal import data_path

FILE = os.path.join(data_path, "fault.json")
LOOK_SECONDS = 0.1
START = {"exit_at_start", "port_in_use", "start_seconds"}
# As PyTorch 2.1 words them.
ILLEGAL_ACCESS = (
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be"
    " incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1.\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacty of 1.95 GiB of which 31.12 MiB is free."
    " Including non-PyTorch memory, this process has 1.90 GiB memory in use."
)


class OutOfMemoryError(RuntimeError):
    """As torch.cuda names it."""


_active: dict[str, Any] = {}
_hoard: list[bytearray] = []
# The server's event loop, once it has answered something.
_loops: list[asyncio.AbstractEventLoop] = []


def remember_loop() -> None:
    """Called in the event loop."""
    if not _loops:
        _loops.append(asyncio.get_running_loop())


def _read() -> dict[str, Any]:
    """What the file asks for; nothing where it is not whole yet."""
    try:
        with open(FILE, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(asked: dict[str, Any]) -> None:
    """What is left to do."""
    if not asked:
        os.unlink(FILE)
        return
    with open(f"{FILE}.part", "w", encoding="utf-8") as file:
        json.dump(asked, file)
    os.replace(f"{FILE}.part", FILE)


def at_start() -> None:
    """Before anything heavy is imported; then the file is looked at all the time."""
    asked = _read()
    for name in ("exit_at_start", "port_in_use"):
        if asked.get(name):
            asked[name] -= 1
            _write({key: value for key, value in asked.items() if value})
            if name == "port_in_use":
                raise OSError("Cannot find empty port in range: 7860-7860. You can specify a different port.")
            print("This start fails on purpose.", file=sys.stderr, flush=True)
            sys.exit(1)
    if asked.get("start_seconds"):
        until = time.monotonic() + asked.pop("start_seconds")
        _write(asked)
        print("This start takes long on purpose.", flush=True)
        while time.monotonic() < until:
            with open(sys.executable, "rb") as file:
                hashlib.sha256(file.read()).hexdigest()
            time.sleep(0.05)
    threading.Thread(target=_look, daemon=True).start()


def _look() -> None:
    """Take what a running server can do out of the file."""
    while True:
        time.sleep(LOOK_SECONDS)
        asked = _read()
        now = {key: value for key, value in asked.items() if key not in START}
        if not now:
            continue
        _write({key: value for key, value in asked.items() if key in START})
        _active.update(now)
        print(f"Faulty on purpose from now on: {', '.join(now)}.", flush=True)
        for name, function in (("block", _block), ("spin_seconds", _spin), ("eat_mib_a_second", _eat)):
            if name in now:
                threading.Thread(target=function, args=(now[name],), daemon=True).start()


def _block(_wanted: bool) -> None:
    """The event loop does nothing any more."""
    _loops[0].call_soon_threadsafe(time.sleep, 1e6)


def _compute(seconds: float) -> None:
    """Half a core."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pause = time.monotonic() + 0.05
        while time.monotonic() < pause:
            hashlib.sha256(bytes(65536)).digest()
        time.sleep(0.05)


def _spin(seconds: float) -> None:
    """The event loop computes."""
    _loops[0].call_soon_threadsafe(_compute, seconds)


def _eat(mib_a_second: float) -> None:
    """Memory that is written to, so that it is really taken."""
    while True:
        _hoard.append(bytearray(b"\1") * (16 * 2**20))
        time.sleep(16 / mib_a_second)


def before_step(step: int) -> None:
    """What a job runs into."""
    if _active.get("hang_at_step") == step:
        del _active["hang_at_step"]
        threading.Event().wait()
    if _active.get("cuda_error"):
        raise RuntimeError(ILLEGAL_ACCESS)
    if _active.get("cuda_oom", 0) > 0:
        _active["cuda_oom"] -= 1
        raise OutOfMemoryError(OUT_OF_MEMORY)
