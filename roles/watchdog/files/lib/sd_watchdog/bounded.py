# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a program that may hang where no signal reaches it: it is never waited for longer than allowed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

MOST_BYTES = 65536


@dataclass(frozen=True)
class Done:
    """How it ended: its status, None when it was still running or said too much, and what it said."""

    status: int | None
    output: bytes

    @property
    def ok(self) -> bool:
        """Has it done what it was told?"""
        return self.status == 0

    def last_line(self) -> str:
        """The last thing it said, as one printable line."""
        lines = self.output.decode("utf-8", "replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "")
        return " ".join("".join(letter if letter.isprintable() else " " for letter in said[:600]).split())[:300]


def run(command: Sequence[str], seconds: float, most: int = MOST_BYTES, errors: bool = True) -> Done:
    """Run it for at most so many seconds and bytes; `errors`: its standard error is part of what it says."""
    try:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        return Done(127, f"{command[0]} cannot be run ({error.strerror})".encode())
    until = time.monotonic() + seconds
    output = _listen(child, until, most)
    if len(output) <= most:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, until - time.monotonic()))
    if child.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1)
        return Done(None, bytes(output[:most]))
    return Done(child.returncode, bytes(output[:most]))


def _listen(child: subprocess.Popen[bytes], until: float, most: int) -> bytearray:
    """What it says until it ends, or its time is over, or it has said more than that."""
    output = bytearray()
    if child.stdout is None:
        return output
    with child.stdout as pipe:
        while len(output) <= most:
            left = until - time.monotonic()
            if select.select([pipe], [], [], max(0.0, min(left, 0.05)))[0]:
                part = os.read(pipe.fileno(), 65536)
                output += part
                if not part:
                    break
            elif child.poll() is not None or left <= 0:
                # Not the end of the pipe, which a process that it has left behind may keep open.
                break
    return output
