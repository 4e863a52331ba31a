# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the card is doing, asked of nvidia-smi in a child that may hang.

With a broken card or driver it enters a sleep that no signal ends (leptonai/gpud 117), so it is never waited for, and
there is at most one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass

MOST_BYTES = 65536
_FIELDS = ("utilization.gpu", "memory.used", "memory.total", "temperature.gpu")
# What a card says for what it cannot measure; anything else in brackets is about the card itself.
_UNKNOWN = ("", "n/a", "[n/a]", "[not supported]", "[unknown error]", "not supported")


@dataclass(frozen=True)
class Gpu:
    """The figures of the busiest card; said is empty when all is well, else a sentence."""

    utilization: float | None
    memory_used_mib: int | None
    memory_total_mib: int | None
    temperature: float | None
    said: str


class GpuQuery:
    """One question at a time."""

    def __init__(self, command: list[str], deadline: float) -> None:
        self._command = [*command, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
        self._name = os.path.basename(command[0])
        self._deadline = deadline
        self._child: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._output = b""
        self._told = False
        self._failed: Gpu | None = None
        self.hangs = False

    def start(self, now: float) -> bool:
        """Ask; False while the last child is there, one that was killed and does not end included."""
        self._clear_away()
        if self._child is not None:
            return False
        self._started, self._output, self._told, self._failed = now, b"", False, None
        try:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self.hangs = False
            self._failed = _nothing(f"{self._name} cannot be run ({error.strerror}); install it or set gpu to false.")
            return True
        if self._child.stdout is not None:
            os.set_blocking(self._child.stdout.fileno(), False)
        return True

    def poll(self, now: float) -> Gpu | None:
        """The answer, once; never waits. A child beyond its deadline is killed."""
        if self._failed is not None:
            found, self._failed = self._failed, None
            return found
        if self._child is None or self._told:
            self._clear_away()
            return None
        code = self._child.poll()
        self._drain(self._child)
        if code is not None:
            self._close(self._child)
            self.hangs = False
            return _judge(self._name, code, self._output)
        if now - self._started < self._deadline:
            return None
        # The child's own session, so that what it has started ends as well.
        with contextlib.suppress(OSError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self.hangs = self._told = True
        return _nothing(f"{self._name} has not answered for {self._deadline:g} s; the card or its driver hangs.")

    def _drain(self, child: subprocess.Popen[bytes]) -> None:
        """Take what is there, so that a child that says much does not wait for us."""
        while child.stdout is not None:
            try:
                part = os.read(child.stdout.fileno(), MOST_BYTES)
            except OSError:
                return
            if not part:
                return
            self._output = (self._output + part)[:MOST_BYTES]

    def _clear_away(self) -> None:
        """Forget a killed child as soon as it has ended."""
        if self._child is not None and self._told and self._child.poll() is not None:
            self._close(self._child)

    def _close(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdout is not None:
            child.stdout.close()
        self._child = None


def _nothing(said: str) -> Gpu:
    return Gpu(None, None, None, None, said)


def _judge(name: str, code: int, output: bytes) -> Gpu:
    """What a child that has ended meant."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    first = "".join(character for character in (lines or ["nothing"])[0] if character.isprintable())[:200]
    if code != 0:
        ended = f"exits with {code}" if code > 0 else f"is ended by signal {-code}"
        return _nothing(f"{name} {ended}: {first}")
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    rows = [row for row in rows if len(row) == len(_FIELDS)]
    if not rows:
        return _nothing(f"{name} says {first!r} instead of figures.")
    strange = [field for row in rows for field in row if _figure(field) is None and field.lower() not in _UNKNOWN]
    utilization, used, total, temperature = (_most(column) for column in zip(*rows))
    return Gpu(
        utilization,
        None if used is None else int(used),
        None if total is None else int(total),
        temperature,
        f"{name} says {strange[0][:100]!r} for a card." if strange else "",
    )


def _figure(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def _most(column: tuple[str, ...]) -> float | None:
    return max((figure for figure in map(_figure, column) if figure is not None), default=None)
