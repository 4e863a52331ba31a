# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy's agent check: a line for each connection says whether the web UI may be sent another request for a picture.

`ready up 0%` while a picture is made that was started from the page, which no load balancer can see, or while somebody
wants the server drained; `ready up 100% maxconn:N` else. A weight of nothing and not `drain`, at which HAProxy 3.0
answers all that wait in its queue with 503 when the last server says it; and the number, as it makes HAProxy look into
that queue again. To whoever sends `drain` first (agent-send) only that wish counts, and not the page. Never `down`:
whether the web UI lives is the HTTP check's affair.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ipaddress
import json
import os
import pwd
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

READY, DRAIN = "ready up 100% maxconn:{}\n", "ready up 0%\n"
# Seconds between two looks at the web UI, and for one of them.
PAUSE, LOOK = 1.0, 2.0
MOST_BYTES = 64 * 1024
# What asks for the wish alone, and how long it may take to come: HAProxy sends its word at once.
ASKS_FOR_DRAIN, SOON = b"drain\n", 0.3
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class LoginRefused(Exception):
    """The web UI does not take the login that this process has."""


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def get(address: str, port: int, path: str, headers: list[str]) -> tuple[int, bytes]:
    """Status and body of an answer that came within the time for a look; raises OSError or ValueError."""
    deadline = time.monotonic() + LOOK
    host = f"[{address}]" if ":" in address else address
    # HTTP/1.0: the answer ends with the connection.
    lines = [f"GET {path} HTTP/1.0", f"Host: {host}:{port}", "Accept: application/json", *headers, "", ""]
    received = b""
    with socket.create_connection((address, port), timeout=_left(deadline)) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        while len(received) < MOST_BYTES:
            connection.settimeout(_left(deadline))
            block = connection.recv(MOST_BYTES)
            if not block:
                break
            received += block
    head, _end, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1][:3]) if head.startswith(b"HTTP/") and b" " in head else 0, body


def listeners(port: int) -> set[int]:
    """The users whose programs listen on a TCP port."""
    found = set()
    for table in (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6")):
        # A host without IPv6 has no second one.
        with contextlib.suppress(OSError):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                # Local address, state (0A: listens) and owner.
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(int(fields[7]))
    return found


def page_is_busy(activity: dict[str, Any]) -> bool:
    """Is a picture made, or waited for, that was started from the page?"""
    page = activity.get("page")
    if isinstance(page, int):
        return page > 0
    # What does not count them names its job after the page's task.
    return bool(activity.get("job")) and str(activity.get("name", "")).startswith("task(")


class WebUi:
    """The engine of this host, as /etc/sd-webui/engine.json has it."""

    def __init__(self, engine_file: Path, login: str | None) -> None:
        self._engine_file, self._login = engine_file, login

    def look(self) -> bool | None:
        """Is it busy for its page? None when it does not say; raises LoginRefused."""
        try:
            engine = json.loads(self._engine_file.read_text(encoding="utf-8"))
            path = engine["activity_path"]
            # Of an engine that cannot tell, nothing is known by its jobs.
            return self._ask(engine, str(path)) if path else False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _ask(self, engine: dict[str, Any], path: str) -> bool | None:
        address, port = str(engine["address"]).strip("[]"), int(engine["port"])
        headers = []
        # To the web UI's own user, and to nobody else who listens there while it is away.
        if self._login is not None and listeners(port) == {pwd.getpwnam(str(engine["user"])).pw_uid}:
            headers = ["Authorization: Basic " + base64.b64encode(self._login.encode()).decode("ascii")]
        status, body = get(_WILDCARDS.get(address, address), port, path, headers)
        if status == 401 and headers:
            raise LoginRefused
        return page_is_busy(json.loads(body)) if status == 200 else None


class Words:
    """What to say, by a look that is at most a second old."""

    def __init__(self, webui: WebUi, drain_file: Path, memory: float, jobs: int) -> None:
        self._ready = READY.format(jobs)
        self._webui, self._drain_file, self._memory = webui, drain_file, memory
        self._lock = threading.Lock()
        self._looked = self._answered = -PAUSE
        self._busy = False
        self.login_refused = False

    def word(self, whatever_the_page_does: bool) -> str:
        """One line."""
        is_full = os.path.exists(self._drain_file) or (not whatever_the_page_does and self._is_busy())
        return DRAIN if is_full else self._ready

    def _is_busy(self) -> bool:
        with self._lock:
            if time.monotonic() - self._looked >= PAUSE:
                try:
                    said = self._webui.look()
                except LoginRefused:
                    said, self.login_refused = None, True
                self._looked = time.monotonic()
                if said is not None:
                    self._busy, self._answered = said, self._looked
            return self._busy and self._looked - self._answered < self._memory


class AgentCheck(socketserver.ThreadingTCPServer):
    """Answers whoever connects; who can, is the firewall's affair."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: str, port: int, words: Words, patience: float) -> None:
        self.address_family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        super().__init__((address, port), _Answer)
        self.words = words
        self._end_from = time.monotonic() + patience

    def service_actions(self) -> None:
        """Called twice a second: a login that is refused may be an old one, and systemd starts us with the new one."""
        if self.words.login_refused and time.monotonic() >= self._end_from:
            raise SystemExit("The web UI refuses the login; starting again with the one that there is by now.")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever has gone before the answer has lost nothing."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)


class _Answer(socketserver.BaseRequestHandler):
    server: AgentCheck
    request: socket.socket

    def handle(self) -> None:
        self.request.settimeout(SOON)
        asked = b""
        # Not TimeoutError yet in Python 3.9. Who sends nothing is answered too.
        with contextlib.suppress(socket.timeout):
            asked = self.request.recv(len(ASKS_FOR_DRAIN))
        self.request.settimeout(5)
        self.request.sendall(self.server.words.word(asked == ASKS_FOR_DRAIN).encode("ascii"))


def tell_systemd(state: str) -> None:
    """Type=notify; without systemd there is nobody to tell."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.sendall(state.encode("ascii"))


def read_login() -> str | None:
    """What systemd has handed over, user:password."""
    try:
        text = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), "login").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return text.rstrip("\r\n") or None


def main() -> None:
    """Answer until the end."""
    parser = argparse.ArgumentParser(description="HAProxy's agent check for the Stable Diffusion web UI.")
    parser.add_argument("--address", required=True, help="where to listen")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine-file", type=Path, default=Path("/etc/sd-webui/engine.json"))
    parser.add_argument(
        "--drain-file", type=Path, default=Path("/run/sd-gateway/drain"), help="drained while it exists"
    )
    parser.add_argument(
        "--memory", type=float, default=30, help="seconds for which the last word of a silent web UI holds"
    )
    parser.add_argument("--jobs", type=int, default=1, help="pictures of the API at the same time")
    parser.add_argument("--patience", type=float, default=60, help="seconds before a refused login ends this process")
    asked = parser.parse_args()
    words = Words(WebUi(asked.engine_file, read_login()), asked.drain_file, asked.memory, asked.jobs)
    try:
        server = AgentCheck(asked.address, asked.port, words, asked.patience)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{asked.address} port {asked.port} cannot be listened on ({error}).") from error
    with server:
        tell_systemd("READY=1")
        server.serve_forever()


if __name__ == "__main__":
    main()
