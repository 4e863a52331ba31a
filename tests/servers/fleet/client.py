# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody in front of a gateway, who asks byte for byte what a test wants: no client's tidying is in between."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import urllib.parse
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
# All routes of AUTOMATIC1111's web UI 1.10.1: its own (modules/api/api.py, modules/ui.py, modules/progress.py,
# modules/sysinfo.py, modules/ui_extra_networks.py), those of its built-in extensions, and those of Gradio 3.41.2.
AUTOMATIC1111_ROUTES = Path(__file__).with_name("automatic1111-routes.txt").read_text(encoding="ascii").split()
# What tells secrets or ends the server, in the spellings that an engine takes for the same.
DENIED = [
    "/internal/sysinfo",
    "/internal/sysinfo-download",
    "/internal/sysinfo?attachment=1",
    "//internal/sysinfo",
    "///internal/sysinfo",
    "/%69nternal/sysinfo",
    "/internal/%73ysinfo",
    "/internal%2Fsysinfo",
    "/%2Finternal/sysinfo",
    "/sdapi/v1/cmd-flags",
    "/sdapi/v1/cmd-flags/",
    "/sdapi%2fv1%2fcmd-flags",
    "/sdapi/v1/server-kill",
    "/sdapi/v1/server-restart",
    "/sdapi/v1/server-stop",
    "/sdapi/v1/server%2Dkill",
]
# Spellings of which an engine may make what it likes, but not that.
STRANGE = [
    "/./internal/sysinfo",
    "/internal/../internal/sysinfo",
    "/internal/ping/../sysinfo",
    "/internal/./sysinfo",
    "/internal//sysinfo",
    "/%2569nternal/sysinfo",
    "/internal/sysinfo%00",
    "/internal/sysinfo%20",
    # Percent signs that encode nothing.
    "/internal/sysinfo%",
    "/%zz/../internal/sysinfo",
    "/internal/sysinfo;x",
    "/INTERNAL/SYSINFO",
    "http://127.0.0.1:7860/internal/sysinfo",
    "https://localhost//internal/sysinfo",
]


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """One of a gateway's clients; `login` is user:password."""

    url: str
    login: str = ""
    cafile: str | None = None
    timeout: float = 120
    # Sent each time, but for those that a request brings itself.
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.cafile)

    @property
    def basic(self) -> dict[str, str]:
        """The header that shows the login."""
        return {"Authorization": "Basic " + base64.b64encode(self.login.encode()).decode()} if self.login else {}

    @contextlib.contextmanager
    def connected(self) -> Any:
        place = urllib.parse.urlsplit(self.url)
        host, port = place.hostname or "", place.port
        connection: http.client.HTTPConnection
        if place.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=self.timeout, context=self.tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self.timeout)
        with contextlib.closing(connection):
            yield connection

    def ask(
        self,
        path: str,
        method: str = "",
        content: Any = None,
        login: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, on a connection of its own; a POST where there is content, which is sent as JSON."""
        method = method or ("GET" if content is None else "POST")
        body = None if content is None else json.dumps(content).encode()
        kind = {} if content is None else {"Content-Type": "application/json"}
        known = {**kind, **(self.basic if login else {}), **self.headers, **(headers or {})}
        with self.connected() as connection:
            connection.request(method, path, body, known)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def begin(self, path: str, headers: Mapping[str, str]) -> Answer:
        """A POST of which nothing but the head is sent: what is said to it at once."""
        with self.connected() as connection:
            connection.putrequest("POST", path)
            for name, value in {**self.basic, **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def upgrade(self, path: str, login: bool = True, headers: Mapping[str, str] | None = None) -> int:
        """The status that a websocket gets."""
        wanted = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            **(self.basic if login else {}),
            **(headers or {}),
        }
        with self.connected() as connection:
            connection.request("GET", path, headers=wanted)
            return int(connection.getresponse().status)

    def without_login(
        self, paths: Iterable[str], methods: Iterable[str] = ("GET", "POST")
    ) -> dict[tuple[str, str], int]:
        """What is not refused with 401 to somebody who shows no login, by method and path; websockets too."""
        asked = [(method, path) for path in paths for method in methods]
        with self.connected() as connection:
            answers = {}
            for method, path in asked:
                body = b"{}" if method in ("POST", "PUT", "PATCH") else None
                connection.request(method, path, body, self.headers)
                answer = connection.getresponse()
                answer.read()
                answers[method, path] = answer.status
        return {what: status for what, status in answers.items() if status != 401}

    def refusal_of_tls(self, version: ssl.TLSVersion) -> str:
        """Why a client that speaks no newer TLS than this gets no connection; nothing where it gets one."""
        place = urllib.parse.urlsplit(self.url)
        context = self.tls
        with warnings.catch_warnings():
            # That a version is old is what is tested.
            warnings.simplefilter("ignore", DeprecationWarning)
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
        try:
            with (
                socket.create_connection((place.hostname or "", place.port or 443), self.timeout) as plain,
                context.wrap_socket(plain, server_hostname=place.hostname),
            ):
                return ""
        except (ssl.SSLError, ConnectionError) as error:
            return getattr(error, "reason", "") or str(error) or type(error).__name__
