# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP/1.1 server of the standard library: keep-alive, a thread for each connection, a list of what was asked."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import socketserver
import ssl
import struct
import sys
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from hubs.faults import Faults
from hubs.requested import Headers, Request

# Linger for no time at all: closing sends RST, and drops what is still on its way.
NO_LINGER = struct.pack("ii", 1, 0)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    # A head and the body after it must not wait for each other.
    disable_nagle_algorithm = True
    request_of: Request
    # Of whichever answer comes.
    more_headers: dict[str, str]

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the list of requests holds what was asked."""

    def do_GET(self) -> None:
        self.more_headers = {}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path in ("/_control", "/_requests"):
            self.request_of = Request("control", self.command, self.path, Headers(), "")
            self.server.control(self, body)
            return
        self.request_of = Request(
            self.server.name, self.command, self.path, Headers(self.headers.items()), self.client_address[0], body
        )
        self.server.requests.append(self.request_of)
        try:
            self.answer()
        finally:
            self.server.answered(self.request_of)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self) -> None:
        """What a test planned, else the server's own answer."""
        self.server.stopping.wait(self.server.latency(self.path))
        failure = self.server.faults.next_failure(self.server.name, self.path)
        if failure:
            self.send(failure.status, failure.body, failure.headers)
        else:
            self.server.respond(self)

    @property
    def plain_path(self) -> str:
        """The path without the query, and without quotation."""
        return urllib.parse.unquote(self.path.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self.path.partition("?")[2], keep_blank_values=True))

    @property
    def token(self) -> str | None:
        """What the client says to be allowed by, as Authorization: Bearer."""
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token.strip() if kind.lower() == "bearer" and token.strip() else None

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Status and headers, in one write."""
        self.request_of.status = status
        phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
        all_headers = {"Server": self.server.software, "Date": self.date_time_string(), **self.more_headers, **headers}
        lines = [f"{self.protocol_version} {status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in all_headers.items()]
        if self.close_connection:
            lines.append("Connection: close")
        self.connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8"))

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """A whole answer that is small."""
        head = {"Content-Type": "text/plain; charset=utf-8", **(headers or {}), "Content-Length": str(len(body))}
        if status in (204, 304):
            del head["Content-Length"]
            body = b""
        self.send_head(status, head)
        if self.command != "HEAD":
            # Counted first: whoever has got the last byte finds all of them counted.
            self.request_of.bytes_sent += len(body)
            self.connection.sendall(body)

    def send_json(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self.send(status, json.dumps(content).encode(), {**kind, **(headers or {})})

    def redirect(self, status: int, location: str, headers: Mapping[str, str] | None = None) -> None:
        text = f"{HTTPStatus(status).phrase}. Redirecting to {location}".encode()
        self.send(status, text, {**(headers or {}), "Location": location})

    def reset(self) -> None:
        """End the connection as a router does that has forgotten it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.close_connection = True


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves until it is stopped. What it answers is its subclasses' affair."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    software = "stand-in"

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        faults: Faults,
        requests: list[Request],
        tls: tuple[str, str] | None = None,
        advertise: str | None = None,
    ) -> None:
        super().__init__(address, Handler)
        self.name = name
        self.faults = faults
        self.requests = requests
        self.stopping = threading.Event()
        # What broke in here, which is never the client's fault.
        self.errors: list[BaseException] = []
        self.on_answer: Callable[[Request], None] | None = None
        # For what the connections' threads count.
        self.lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)
        port = self.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{address[0]}:{port}"
        if advertise:
            self.url = f"{advertise.rstrip('/')}:{port}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def base(self, handler: Handler) -> str:
        """The URLs that a hub hands out have the host that it was asked by."""
        scheme, _, host = self.url.partition("://")
        return f"{scheme}://{handler.headers.get('Host') or host}"

    def respond(self, handler: Handler) -> None:
        """Answer one request."""
        raise NotImplementedError

    def latency(self, path: str) -> float:
        """Seconds before the answer."""
        return self.faults.hub_latency

    def answered(self, request: Request) -> None:
        if self.on_answer:
            self.on_answer(request)

    def control(self, handler: Handler, body: bytes) -> None:
        """Faults and the list of requests, for tests on another machine."""
        if handler.path == "/_requests":
            handler.send_json(200, [request.as_json() for request in list(self.requests)])
            return
        try:
            wanted = json.loads(body or b"{}")
            if wanted.pop("clear", False):
                self.faults.clear()
            if wanted.pop("clear_requests", False):
                self.requests.clear()
            if wanted.pop("expire_now", False):
                self.faults.expire_now()
            failures = wanted.pop("fail", [])
            for failure in failures if isinstance(failures, list) else [failures]:
                self.faults.fail(**failure)
            self.faults.set(wanted)
        except (ValueError, TypeError, AttributeError) as error:
            handler.send_json(400, {"error": str(error)})
        else:
            handler.send_json(200, {})

    def stop(self) -> None:
        """Take no more requests, and end those that hang."""
        self.stopping.set()
        # Wakes the thread that waits in accept.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, address = self.socket.accept()
            except OSError:
                return
            self.process_request(connection, address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: the handshake, then its requests."""
        if self._tls:
            # Takes the socket over, so nobody else would close it.
            with self._tls.wrap_socket(request, server_side=True) as secured:
                self._serve(secured, client_address)
                if not resets(secured):
                    # ValueError: the client has said goodbye first.
                    with contextlib.suppress(OSError, ValueError):
                        secured.settimeout(1)
                        secured.unwrap()
        else:
            self._serve(request, client_address)

    def _serve(self, connection: socket.socket, client_address: Any) -> None:
        self._connections.add(connection)
        try:
            super().finish_request(connection, client_address)
        finally:
            self._connections.discard(connection)

    def shutdown_request(self, request: Any) -> None:
        """Only close it: after a shutdown, which the parent does first, no RST would be sent."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error; anything else is a fault of this server."""
        error = sys.exc_info()[1]
        if error and not isinstance(error, OSError):
            self.errors.append(error)


def resets(connection: socket.socket) -> bool:
    """Whether the connection's end will be a reset."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(NO_LINGER)) == NO_LINGER
