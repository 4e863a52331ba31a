# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the probes of the graphics cards share. Private to this collection: not an interface for others."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

# A probe prints a few lines; whoever prints more than this is not what was asked for.
OUTPUT_LIMIT = 1024 * 1024
# How long a killed child may take to disappear before it is left alone.
_GRACE = 0.5

# A child that does not die must not be waited for when Python tidies up either.
_abandoned: list[subprocess.Popen[bytes]] = []


class Gpu(TypedDict):
    """One card as one source sees it; None is what the source does not tell."""

    index: int | None
    pci_address: str
    pci_id: str | None
    name: str | None
    uuid: str | None
    compute_capability: str | None
    vram_mib: int | None
    bound_driver: str | None


class Source(TypedDict):
    """What one source answered; ``problem`` is one sentence, or None."""

    source: str
    problem: str | None
    driver_version: str | None
    gpus: list[Gpu]


@dataclass(frozen=True)
class Outcome:
    """How a child ended. Without a return code it was killed: it hung, or printed too much."""

    returncode: int | None
    output: str
    errors: str
    hung: bool = False
    # Not even SIGKILL ended it: it is in the kernel, in the state D.
    undead: bool = False


def signal_name(number: int) -> str:
    """SIGKILL for 9; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def normal_address(address: str) -> str:
    """A PCI address as sysfs writes it: the driver's "00000000:03:00.0" and lspci's "03:00.0" -> "0000:03:00.0".

    Raises ValueError for anything else.
    """
    rest, _dot, function = address.strip().lower().rpartition(".")
    bus, slot = rest.rsplit(":", 2)[-2:]
    domain = rest[: -len(f"{bus}:{slot}")].rstrip(":") or "0"
    return f"{int(domain, 16):04x}:{int(bus, 16):02x}:{int(slot, 16):02x}.{int(function, 16):x}"


def run_disposable(command: Sequence[str], timeout: float) -> Outcome:
    """Runs a command that may never end, in a session of its own, and is back soon after ``timeout`` seconds.

    A process that waits for a driver in trouble (state D) ignores even SIGKILL, so it is killed, but never waited for.
    Raises OSError when the command cannot be started.
    """
    deadline = time.monotonic() + timeout
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "LC_ALL": "C"},
    )
    streams = [stream for stream in (child.stdout, child.stderr) if stream is not None]
    texts = {stream.fileno(): bytearray() for stream in streams}
    try:
        flooded = _read_until(child, texts, deadline)
        hung = child.returncode is None and not flooded
        if child.returncode is None:
            _kill(child)
        output, errors = (text[:OUTPUT_LIMIT].decode(errors="replace") for text in texts.values())
        killed = hung or flooded
        return Outcome(None if killed else child.returncode, output, errors, hung, child.returncode is None)
    finally:
        for stream in streams:
            stream.close()


def _read_until(child: subprocess.Popen[bytes], texts: dict[int, bytearray], deadline: float) -> bool:
    """Collects what the child prints until it ends, floods or is late; says whether it flooded.

    Its end is what counts, not that of its output: a process that it leaves behind may keep that open.
    """
    with selectors.DefaultSelector() as selector:
        for descriptor in texts:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            ended = child.poll() is not None
            # Short rests, because nothing wakes this loop up when the child ends.
            ready = selector.select(0 if ended else 0.01)
            for key, _events in ready:
                block = os.read(key.fd, 65536)
                texts[key.fd] += block
                if not block:
                    selector.unregister(key.fd)
                if len(texts[key.fd]) > OUTPUT_LIMIT:
                    return True
            if (ended and not ready) or time.monotonic() >= deadline:
                return False


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    patience = time.monotonic() + _GRACE
    while child.poll() is None:
        if time.monotonic() >= patience:
            _abandoned.append(child)
            return
        time.sleep(0.01)
