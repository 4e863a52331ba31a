# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Gradio 3's page does when its button is pressed: one job over the websocket of its queue."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import struct
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Refused(Exception):
    """The upgrade was not granted; `status` says how."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Socket:
    """One websocket, as far as this queue needs it."""

    def __init__(
        self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None = None, timeout: float = 120
    ) -> None:
        place = urllib.parse.urlsplit(url)
        address = (place.hostname or "", place.port or (443 if place.scheme == "https" else 80))
        plain = socket.create_connection(address, timeout)
        self.socket = tls.wrap_socket(plain, server_hostname=place.hostname) if tls else plain
        self._stream = self.socket.makefile("rb")
        lines = [f"GET {place.path} HTTP/1.1", f"Host: {place.netloc}"]
        known = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        key = base64.b64encode(os.urandom(16)).decode()
        for name, value in {**known, "Sec-WebSocket-Key": key, **headers}.items():
            lines.append(f"{name}: {value}")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        status = int(self._stream.readline().split()[1])
        while self._stream.readline().strip():
            pass
        if status != 101:
            self.close()
            raise Refused(status)

    def close(self) -> None:
        """Whether the other side is ready or not."""
        self._stream.close()
        self.socket.close()

    def send(self, content: Any) -> None:
        """As JSON; what a client sends is masked."""
        self._send(TEXT, json.dumps(content).encode())

    def _send(self, kind: int, data: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
        length = len(data)
        size = bytes([0x80 | length]) if length < 126 else struct.pack(">BH", 0x80 | 126, length)
        self.socket.sendall(bytes([0x80 | kind]) + size + mask + masked)

    def heard(self) -> dict[str, Any]:
        """The next message; nothing once the other side has closed."""
        while True:
            head = self._stream.read(2)
            if len(head) < 2:
                return {}
            kind, length = head[0] & 0x0F, head[1] & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self._stream.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._stream.read(8))
            data = self._stream.read(length)
            if kind == PING:
                self._send(PONG, data)
            elif kind == CLOSE:
                return {}
            elif kind == TEXT:
                message: dict[str, Any] = json.loads(data)
                return message


@contextlib.contextmanager
def joined(url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None = None) -> Iterator[Socket]:
    """The queue of a web UI; raises Refused."""
    opened = Socket(f"{url}/queue/join", headers, tls)
    try:
        yield opened
    finally:
        opened.close()


def press_button(
    url: str, data: list[Any], headers: Mapping[str, str], tls: ssl.SSLContext | None = None, function: int = 0
) -> list[Any]:
    """What the page shows afterwards."""
    job: dict[str, Any] = {"fn_index": function, "session_hash": base64.b32encode(os.urandom(5)).decode().lower()}
    with joined(url, headers, tls) as opened:
        while message := opened.heard():
            if message["msg"] == "send_hash":
                opened.send(job)
            elif message["msg"] == "send_data":
                opened.send({**job, "data": data, "event_data": None})
            elif message["msg"] == "process_completed":
                if not message["success"]:
                    raise RuntimeError(f"the job failed: {message['output']}")
                shown: list[Any] = message["output"]["data"]
                return shown
    raise ConnectionError("the queue was closed before the job was done")
