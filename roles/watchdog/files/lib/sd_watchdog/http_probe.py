# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP request at a time to the engine, in a thread of its own, so that no engine can make the supervisor wait."""

from __future__ import annotations

import base64
import http.client
import io
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from sd_watchdog.proc import Proc

MOST_BYTES = 256 * 1024
_WILDCARDS = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Answer:
    """What came back; ok if the engine answers as it should."""

    path: str
    ok: bool
    status: int | None
    said: str
    seconds: float
    body: bytes


class _Stream(io.RawIOBase):
    """A connection that is read until a moment, however little comes at a time."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        super().__init__()
        self._socket, self._deadline = connected, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        return self._socket.recv_into(buffer)


class _Socket:
    """As much of a socket as HTTPConnection asks for; who opened the connection closes it."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = connected, deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Stream(self._socket, self._deadline))

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket.sendall(data)

    def close(self) -> None:
        """Nothing: the answer is still read."""


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """To one of the addresses of the host; raises OSError."""
    last: OSError = ConnectionRefusedError()
    for family, kind, protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connected = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        try:
            connected.settimeout(_left(deadline))
            connected.connect(address)
        except OSError as error:
            connected.close()
            last = error
        else:
            return connected
    raise last


class _Request:
    """One request and, later, its answer."""

    def __init__(self, path: str, timeout: float) -> None:
        self.path, self.timeout = path, timeout
        self.started = time.monotonic()
        self.answer: Answer | None = None

    def finish(self, ok: bool, status: int | None, said: str, body: bytes = b"") -> None:
        self.answer = Answer(self.path, ok, status, said, time.monotonic() - self.started, body)


class HttpProbe:
    """Asks the engine of this host: no proxy, no redirect, and the login only if the engine's own user listens."""

    def __init__(self, address: str, port: int, login: str | None, own_uid: int | None, proc: Proc) -> None:
        self._host = _WILDCARDS.get(address.strip("[]"), address.strip("[]"))
        self._port, self._own_uid, self._proc = port, own_uid, proc
        self._login = None if login is None else "Basic " + base64.b64encode(login.encode()).decode("ascii")
        self._request: _Request | None = None

    @property
    def outstanding(self) -> bool:
        """Is there a request without an answer yet?"""
        return self._request is not None and self._request.answer is None

    def ask(self, path: str, timeout: float) -> None:
        """Begin a request that takes at most so many seconds in all; RuntimeError while there is one."""
        if self.outstanding:
            raise RuntimeError("a request is outstanding; take its answer first.")
        request = self._request = _Request(path, timeout)
        try:
            threading.Thread(target=self._run, args=(request,), name="probe", daemon=True).start()
        except RuntimeError:
            # No memory or too many tasks: that says nothing about the engine, but there is no answer.
            request.finish(False, None, "this host cannot start another thread")

    def answer(self) -> Answer | None:
        """The answer, once; None while there is none."""
        if self._request is None or self._request.answer is None:
            return None
        found, self._request = self._request.answer, None
        return found

    def _run(self, request: _Request) -> None:
        try:
            self._exchange(request)
        except TimeoutError:
            request.finish(False, None, f"no answer within {request.timeout:g} s")
        except ConnectionRefusedError:
            request.finish(False, None, "connection refused")
        except http.client.RemoteDisconnected:
            request.finish(False, None, "the connection was closed without an answer")
        except OSError as error:
            # Python 3.9 has a class of its own for this.
            slow = isinstance(error, socket.timeout)
            said = f"no answer within {request.timeout:g} s" if slow else error.strerror or type(error).__name__
            request.finish(False, None, said)
        except (http.client.HTTPException, ValueError) as error:
            request.finish(False, None, f"the answer is not HTTP ({type(error).__name__})")
        finally:
            if request.answer is None:
                request.finish(False, None, "the request could not be made")

    def _exchange(self, request: _Request) -> None:
        deadline = request.started + request.timeout
        with _connect(self._host, self._port, deadline) as connected:
            owner = self._proc.listener_uid(self._port, self._host)
            if self._own_uid is not None and owner is not None and owner != self._own_uid:
                request.finish(False, None, f"port {self._port} is held by another user's program (user {owner})")
                return
            headers = {"Connection": "close", "Accept": "*/*", "Accept-Encoding": "identity"}
            if self._login is not None and owner is not None and owner == self._own_uid:
                headers["Authorization"] = self._login
            connection = http.client.HTTPConnection(self._host, self._port)
            bounded: Any = _Socket(connected, deadline)
            connection.sock = bounded
            connection.request("GET", request.path, headers=headers)
            response = connection.getresponse()
            body = response.read(MOST_BYTES)
            if len(body) < MOST_BYTES and response.length:
                request.finish(False, response.status, f"HTTP {response.status}, cut off")
                return
            asked_in = response.status == 401 and "Authorization" not in headers
            request.finish(response.status == 200 or asked_in, response.status, f"HTTP {response.status}", body)
