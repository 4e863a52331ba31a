# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves an ASGI application over HTTP/1.1 and websockets, as uvicorn does, as far as it is needed here."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import struct
import urllib.parse
from typing import Any

HEAD_BYTES = 1 << 16
REASONS = {101: "Switching Protocols", 200: "OK", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
# RFC 6455, 1.3
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Connection:
    """One client, request after request."""

    def __init__(self, application: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.application = application
        self.reader = reader
        self.writer = writer

    async def run(self) -> None:
        """Until either side has enough."""
        ended = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError)
        try:
            with contextlib.suppress(*ended):
                while await self._request():
                    pass
        finally:
            self.writer.close()
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()

    async def _request(self) -> bool:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, version = head[0].split(" ")
        pairs = [line.partition(":")[::2] for line in head[1:] if line]
        headers = [(name.strip().lower().encode("latin-1"), value.strip().encode("latin-1")) for name, value in pairs]
        known = dict(headers)
        raw, _mark, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": version.partition("/")[2],
            "method": method,
            "scheme": "http",
            "path": urllib.parse.unquote(raw),
            "raw_path": raw.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": headers,
            "client": self.writer.get_extra_info("peername")[:2],
            "server": self.writer.get_extra_info("sockname")[:2],
        }
        if known.get(b"upgrade", b"").lower() == b"websocket":
            await Websocket(self, {**scope, "type": "websocket"}, known[b"sec-websocket-key"]).run()
            return False
        body = await self.reader.readexactly(int(known.get(b"content-length", b"0")))
        await self._answer(scope, body)
        return version == "HTTP/1.1" and known.get(b"connection", b"").lower() != b"close"

    async def _answer(self, scope: dict[str, Any], body: bytes) -> None:
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.start(message["status"], message["headers"])
            else:
                self.writer.write(message.get("body", b""))
            await self.writer.drain()

        await self.application(scope, receive, send)

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head of an answer."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}".encode()]
        lines += [name + b": " + value for name, value in headers]
        self.writer.write(b"\r\n".join([*lines, b"", b""]))


class Websocket:
    """After the upgrade, or instead of it."""

    def __init__(self, connection: Connection, scope: dict[str, Any], key: bytes) -> None:
        self.connection = connection
        self.scope = scope
        self.accept = base64.b64encode(hashlib.sha1(key + MAGIC, usedforsecurity=False).digest())
        self.is_open = False
        self.is_first = True

    async def run(self) -> None:
        """Until the application is done."""
        await self.connection.application(self.scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        """The next text; pings are answered on the way."""
        if self.is_first:
            self.is_first = False
            return {"type": "websocket.connect"}
        while True:
            kind, content = await self._frame()
            if kind == PING:
                await self._send_frame(PONG, content)
            elif kind == CLOSE:
                return {"type": "websocket.disconnect", "code": 1000}
            elif kind == TEXT:
                return {"type": "websocket.receive", "text": content.decode()}

    async def _frame(self) -> tuple[int, bytes]:
        reader = self.connection.reader
        first, second = await reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", await reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await reader.readexactly(8))
        mask = await reader.readexactly(4) if second & 0x80 else b"\0\0\0\0"
        content = await reader.readexactly(length)
        return first & 0x0F, bytes(byte ^ mask[place % 4] for place, byte in enumerate(content))

    async def _send_frame(self, kind: int, content: bytes) -> None:
        length = len(content)
        size = bytes([length]) if length < 126 else struct.pack(">BH", 126, length)
        if length > 0xFFFF:
            size = struct.pack(">BQ", 127, length)
        self.connection.writer.write(bytes([0x80 | kind]) + size + content)
        await self.connection.writer.drain()

    async def send(self, message: dict[str, Any]) -> None:
        """What the application says."""
        if message["type"] == "websocket.accept":
            self.is_open = True
            upgrade = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", self.accept)]
            self.connection.start(101, upgrade)
            await self.connection.writer.drain()
        elif message["type"] == "websocket.send":
            await self._send_frame(TEXT, message["text"].encode())
        elif self.is_open:
            await self._send_frame(CLOSE, struct.pack(">H", message.get("code", 1000)))
        else:
            self.connection.start(403, [(b"content-length", b"0"), (b"connection", b"close")])
            await self.connection.writer.drain()


async def serve(application: Any, address: str, port: int) -> None:
    """Until the process is ended."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(application, reader, writer).run()

    server = await asyncio.start_server(connected, address, port, limit=HEAD_BYTES, backlog=128)
    async with server:
        await server.serve_forever()
