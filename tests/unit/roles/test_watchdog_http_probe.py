# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One request at a time, on real sockets, to servers that behave in every way that servers do."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import ports
import pytest
from sd_watchdog import http_probe
from sd_watchdog.http_probe import Answer, HttpProbe
from sd_watchdog.proc import Proc

LOGIN = "späti:open sesame: now"
HEADER = b"authorization: basic " + base64.b64encode(LOGIN.encode()).lower()
Behaviour = Callable[[socket.socket, bytes], None]


class Server:
    """Listens, and does with each connection what it is told to."""

    def __init__(self, behave: Behaviour, address: str = "127.0.0.1") -> None:
        self.requests: list[bytes] = []
        self._behave = behave
        self._listener = socket.create_server(
            (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _peer = self._listener.accept()
            with connection:
                connection.settimeout(60)
                request = b""
                while b"\r\n\r\n" not in request:
                    part = connection.recv(65536)
                    if not part:
                        break
                    request += part
                if request == b"":
                    return
                self.requests.append(request)
                with contextlib.suppress(OSError):
                    self._behave(connection, request)

    def close(self) -> None:
        """An empty connection ends it."""
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.getsockname()[:2], timeout=60).close()
        self._thread.join(60)
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Makes servers, and ends them."""
    servers: list[Server] = []

    def make(behave: Behaviour, address: str = "127.0.0.1") -> Server:
        servers.append(Server(behave, address))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def says(data: bytes) -> Behaviour:
    return lambda connection, _request: connection.sendall(data)


def page(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def taken(probe: HttpProbe, seconds: float = 60) -> Answer:
    """The answer, waited for as the supervisor does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = probe.answer()
        if answer is not None:
            return answer
        time.sleep(0.005)
    raise AssertionError("no answer at all")


def probe_of(port: int, address: str = "127.0.0.1", login: str | None = None, uid: int | None = None) -> HttpProbe:
    return HttpProbe(address, port, login, os.getuid() if uid is None else uid, Proc())


def ask(port: int, timeout: float = 60, login: str | None = None) -> Answer:
    probe = probe_of(port, login=login)
    begun = time.monotonic()
    probe.ask("/internal/ping", timeout)
    answer = taken(probe)
    assert 0 < answer.seconds <= time.monotonic() - begun
    return answer


def test_an_answer(serve: Callable[..., Server]) -> None:
    server = serve(says(page("200 OK", b'{"a": 1}')))
    answer = ask(server.port)
    assert (answer.ok, answer.status, answer.said, answer.body) == (True, 200, "HTTP 200", b'{"a": 1}')
    assert answer.path == "/internal/ping"
    assert server.requests[0].startswith(b"GET /internal/ping HTTP/1.1\r\n")
    assert b"authorization" not in server.requests[0].lower()


def test_it_is_handed_out_once_and_one_request_at_a_time(serve: Callable[..., Server]) -> None:
    gate = threading.Event()

    def wait(connection: socket.socket, _request: bytes) -> None:
        gate.wait(60)
        connection.sendall(page("200 OK"))

    probe = probe_of(serve(wait).port)
    assert not probe.outstanding and probe.answer() is None
    probe.ask("/", 60)
    assert probe.outstanding and probe.answer() is None
    with pytest.raises(RuntimeError, match="outstanding"):
        probe.ask("/", 60)
    gate.set()
    assert taken(probe).ok
    assert not probe.outstanding and probe.answer() is None
    probe.ask("/again", 60)
    assert taken(probe).path == "/again"


def test_an_answer_that_nobody_took_does_not_come_late(serve: Callable[..., Server]) -> None:
    probe = probe_of(serve(says(page("200 OK"))).port)
    probe.ask("/first", 60)
    deadline = time.monotonic() + 60
    while probe.outstanding and time.monotonic() < deadline:
        time.sleep(0.005)
    probe.ask("/second", 60)
    assert taken(probe).path == "/second"


@pytest.mark.parametrize(
    "status", ["204 No Content", "302 Found", "403 Forbidden", "404 Not Found", "500 Oh", "503 Oh"]
)
def test_an_answer_that_is_no_success(status: str, serve: Callable[..., Server]) -> None:
    server = serve(says(page(status, b"", "Location: http://127.0.0.1:1/")))
    answer = ask(server.port)
    assert (answer.ok, answer.status, answer.said) == (False, int(status[:3]), f"HTTP {status[:3]}")
    assert len(server.requests) == 1


def guarded(connection: socket.socket, request: bytes) -> None:
    connection.sendall(page("200 OK") if HEADER in request.lower() else page("401 Unauthorized"))


def test_the_login_goes_to_the_engines_own_user(serve: Callable[..., Server]) -> None:
    server = serve(guarded)
    assert ask(server.port, login=LOGIN).ok
    assert HEADER in server.requests[0].lower()


def test_without_a_login_being_asked_for_one_is_an_answer(serve: Callable[..., Server]) -> None:
    answer = ask(serve(guarded).port)
    assert (answer.ok, answer.status) == (True, 401)


def test_a_login_that_the_engine_does_not_take(serve: Callable[..., Server]) -> None:
    answer = ask(serve(guarded).port, login="a:b")
    assert (answer.ok, answer.status, answer.said) == (False, 401, "HTTP 401")


def test_another_users_program_on_the_port_gets_no_login_and_is_no_engine(serve: Callable[..., Server]) -> None:
    server = serve(guarded)
    probe = probe_of(server.port, login=LOGIN, uid=os.getuid() + 1)
    probe.ask("/", 60)
    answer = taken(probe)
    assert not answer.ok and f"port {server.port} is held by another user's program" in answer.said
    # Nothing at all was sent.
    assert server.requests == []


def test_whose_program_it_is_cannot_be_seen(serve: Callable[..., Server], tmp_path: pathlib.Path) -> None:
    server = serve(guarded)
    for probe in (
        HttpProbe("127.0.0.1", server.port, LOGIN, os.getuid(), Proc(tmp_path)),
        HttpProbe("127.0.0.1", server.port, LOGIN, None, Proc()),
    ):
        probe.ask("/", 60)
        assert taken(probe).status == 401
        assert b"authorization" not in server.requests[-1].lower()


def test_nobody_listens() -> None:
    with ports.hold() as held:
        answer = ask(ports.number(held))
    assert (answer.ok, answer.status, answer.said) == (False, None, "connection refused")
    assert answer.seconds < 30


def test_nobody_accepts() -> None:
    """As a stopped process: the kernel still takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = ask(listener.getsockname()[1], timeout=0.3)
    assert (answer.ok, answer.said) == (False, "no answer within 0.3 s")
    assert 0.3 <= answer.seconds < 30


def test_the_kernel_takes_no_more_connections() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            assert one.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        answer = ask(listener.getsockname()[1], timeout=0.3)
    assert (answer.ok, answer.said) == (False, "no answer within 0.3 s")
    assert answer.seconds < 30


@pytest.mark.parametrize(
    "slowly", [b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Y: ", b""]
)
def test_a_byte_now_and_then_is_no_answer(slowly: bytes, serve: Callable[..., Server]) -> None:
    def drip(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(slowly)
        for _ in range(6000):
            connection.sendall(b"x")
            time.sleep(0.02)

    answer = ask(serve(drip).port, timeout=0.4)
    assert (answer.ok, answer.said) == (False, "no answer within 0.4 s")
    assert answer.seconds < 30


def test_a_server_that_says_continue_for_ever(serve: Callable[..., Server]) -> None:
    def go_on(connection: socket.socket, _request: bytes) -> None:
        for _ in range(6000):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.02)

    assert ask(serve(go_on).port, timeout=0.4).said == "no answer within 0.4 s"


def test_the_connection_stays_open_after_the_answer(serve: Callable[..., Server]) -> None:
    def stay(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(page("200 OK", b"[]"))
        connection.recv(1)

    answer = ask(serve(stay).port)
    assert answer.ok and answer.body == b"[]" and answer.seconds < 30


def test_a_body_in_chunks(serve: Callable[..., Server]) -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n"
    assert ask(serve(says(chunks)).port).body == b"[1,2]"


def test_a_body_that_ends_with_the_connection(serve: Callable[..., Server]) -> None:
    assert ask(serve(says(b"HTTP/1.0 200 OK\r\n\r\n[]")).port).body == b"[]"


def test_a_body_that_is_cut_off(serve: Callable[..., Server]) -> None:
    answer = ask(serve(says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1")).port)
    assert (answer.ok, answer.said) == (False, "HTTP 200, cut off")


def test_only_so_much_of_a_body_is_read(serve: Callable[..., Server]) -> None:
    answer = ask(serve(says(page("200 OK", bytes(http_probe.MOST_BYTES * 4)))).port)
    assert answer.ok and len(answer.body) == http_probe.MOST_BYTES


@pytest.mark.parametrize(
    "data", [b"\r\n", b"\x15\x03\x01\x00\x02\x02P", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n"]
)
def test_what_is_not_http(data: bytes, serve: Callable[..., Server]) -> None:
    answer = ask(serve(says(data)).port)
    assert not answer.ok and "not HTTP" in answer.said, answer


def test_no_answer_at_all(serve: Callable[..., Server]) -> None:
    answer = ask(serve(says(b"")).port)
    assert (answer.ok, answer.said) == (False, "the connection was closed without an answer")


def test_headers_without_end(serve: Callable[..., Server]) -> None:
    many = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(5000))
    assert not ask(serve(says(many)).port).ok


def test_a_connection_that_is_reset(serve: Callable[..., Server]) -> None:
    def reset(connection: socket.socket, _request: bytes) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    answer = ask(serve(reset).port)
    assert (answer.ok, answer.said) == (False, "Connection reset by peer")


@pytest.mark.parametrize(
    ("address", "told"), [("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("::", "::1"), ("[::1]", "::1")]
)
def test_a_wildcard_is_asked_on_the_loopback(address: str, told: str, serve: Callable[..., Server]) -> None:
    try:
        server = serve(says(page("200 OK")), told)
    except OSError:
        pytest.skip(f"this host has no {told}")
    probe = probe_of(server.port, address)
    probe.ask("/", 60)
    assert taken(probe).ok
    named = f"[{told}]" if ":" in told else told
    assert f"Host: {named}:{server.port}\r\n".encode() in server.requests[0]


def test_a_name_with_several_addresses(serve: Callable[..., Server]) -> None:
    """Only one of them answers."""
    probe = probe_of(serve(says(page("200 OK"))).port, "localhost")
    probe.ask("/", 60)
    assert taken(probe).ok


def test_no_proxy_is_asked(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(serve(says(page("200 OK"))).port).ok


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX: y", "/ü"])
def test_a_path_that_cannot_be_asked_for(path: str, serve: Callable[..., Server]) -> None:
    server = serve(says(page("200 OK")))
    probe = probe_of(server.port)
    probe.ask(path, 60)
    answer = taken(probe)
    assert not answer.ok and answer.status is None
    assert b"X: y" not in b"".join(server.requests)


def test_a_host_that_can_start_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    probe = probe_of(1)
    probe.ask("/", 60)
    answer = probe.answer()
    assert answer is not None and not answer.ok and "thread" in answer.said


def test_what_nobody_has_thought_of_is_an_answer_too(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise MemoryError

    monkeypatch.setattr(Proc, "listener_uid", fail)
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
    answer = ask(serve(says(page("200 OK"))).port)
    assert (answer.ok, answer.said) == (False, "the request could not be made")
