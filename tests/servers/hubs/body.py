# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the body of a file goes out: as fast as the system can, or slowly, cut off, or with a wrong byte in it."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass

from hubs.requested import Request

STEP = 1 << 20
# A limited speed is made of steps of this many seconds.
TICK = 0.02


@dataclass
class Manner:
    """What happens to one body on its way. Places are counted from the body's first byte."""

    bytes_per_second: float | None = None
    trickle: float | None = None
    trickle_after: int = 0
    wrong_byte: int | None = None
    # How many bytes go out before the end, whichever kind of end it is.
    until: int | None = None
    chunked: bool = False


class Sender:
    """Sends a piece of a file over one connection."""

    def __init__(self, connection: socket.socket, request: Request, stopping: threading.Event) -> None:
        self.connection = connection
        self.request = request
        self.stopping = stopping

    def send(self, file: int, first: int, length: int, manner: Manner) -> None:
        """From the file's byte `first` on."""
        sent = 0
        end = length if manner.until is None else min(length, manner.until)
        begun, begun_at = time.monotonic(), 0
        rate = manner.bytes_per_second
        while sent < end:
            if manner.trickle is not None and sent >= manner.trickle_after and rate != manner.trickle:
                rate = manner.trickle
                begun, begun_at = time.monotonic(), sent
            step = min(STEP, end - sent)
            if rate is not None:
                step = min(step, max(1, int(rate * TICK)))
            if manner.trickle is not None and sent < manner.trickle_after:
                step = min(step, manner.trickle_after - sent)
            wrong = None if manner.wrong_byte is None else manner.wrong_byte - sent
            if wrong is not None and not 0 <= wrong < step:
                wrong = None
            sent += self._step(file, first + sent, step, manner.chunked, wrong)
            if rate is not None:
                self.stopping.wait(max(0, begun + (sent - begun_at) / rate - time.monotonic()))
            if self.stopping.is_set():
                raise ConnectionAbortedError("the server was stopped")
        if manner.chunked and end == length:
            self.connection.sendall(b"0\r\n\r\n")

    def _step(self, file: int, place: int, length: int, chunked: bool, wrong: int | None) -> int:
        """Send up to `length` bytes, and say how many it were."""
        # Counted first: whoever has got the last byte finds all of them counted.
        self.request.bytes_sent += length
        sent = 0
        try:
            if wrong is None and not chunked and not isinstance(self.connection, ssl.SSLSocket):
                sent = os.sendfile(self.connection.fileno(), file, place, length)
            else:
                sent = self._copy(file, place, length, chunked, wrong)
        finally:
            self.request.bytes_sent -= length - sent
        if not sent:
            raise EOFError("the file has become shorter while it was served")
        return sent

    def _copy(self, file: int, place: int, length: int, chunked: bool, wrong: int | None) -> int:
        """The same, through this process's memory."""
        block = bytearray(os.pread(file, length, place))
        if wrong is not None:
            block[wrong] ^= 0xFF
        self.connection.sendall(b"%x\r\n%b\r\n" % (len(block), bytes(block)) if chunked else block)
        return len(block)
