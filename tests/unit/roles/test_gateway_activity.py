# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent check of role gateway, as the process that it is on a host, in front of a real HTTP server."""

from __future__ import annotations

import base64
import getpass
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ports
import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "roles/gateway/files/activity_agent.py"
PATH = "/secondhand/activity"
READY, DRAIN = b"ready up 100% maxconn:1\n", b"ready up 0%\n"
LOGIN = "gateway:of-this-fleet"
# Generous: a slow machine is no failure.
PATIENCE = 60.0


class Engine(ThreadingHTTPServer):
    """Answers about its activity what the test wants; `asked` holds the logins that came, and when."""

    daemon_threads = True

    def __init__(self, login: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.login = login
        self.answer: Any = {"job": False, "queue": 0, "name": ""}
        self.status = 200
        self.silent = threading.Event()
        self.trickle = threading.Event()
        self.asked: list[tuple[float, str | None]] = []
        self.ending = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def does(self, name: str, **more: Any) -> None:
        """A job of this name runs; "" is none."""
        self.answer = {"job": bool(name), "queue": int(bool(name)), "name": name, **more}


class _Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        engine = self.server
        login = self.headers["Authorization"]
        engine.asked.append((time.monotonic(), login))
        if engine.silent.is_set():
            engine.ending.wait(PATIENCE)
            return
        wanted = None if engine.login is None else "Basic " + base64.b64encode(engine.login.encode()).decode()
        status = 401 if login != wanted else engine.status if self.path == PATH else 404
        body = engine.answer if isinstance(engine.answer, bytes) else json.dumps(engine.answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for number in range(len(body)) if engine.trickle.is_set() else ():
            self.wfile.write(body[number : number + 1])
            self.wfile.flush()
            if engine.ending.wait(1):
                return
        if not engine.trickle.is_set():
            self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.ending.set()
        server.shutdown()


class Agent:
    """The process, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.engine_file, self.drain_file = folder / "engine.json", folder / "run/drain"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ports.hold()
        self.port = ports.number(self._held)

    def describe(self, engine: Engine | None, **more: Any) -> None:
        """Write engine.json."""
        # Nobody's, but for a web UI that is there.
        port = 9 if engine is None else engine.port
        found = {"address": "127.0.0.1", "port": port, "activity_path": PATH, "user": getpass.getuser(), **more}
        self.engine_file.write_text(json.dumps(found), encoding="utf-8")

    def start(self, *more: str, login: str | None = None, address: str = "127.0.0.1") -> None:
        """Returns when it has told systemd that it listens."""
        if login is not None:
            (self._folder / "login").write_text(f"{login}\n", encoding="utf-8")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(self._folder / "notify"))
            notify.settimeout(PATIENCE)
            where = [f"--address={address}", f"--port={self.port}"]
            files = [f"--engine-file={self.engine_file}", f"--drain-file={self.drain_file}"]
            self._process = subprocess.Popen(
                [sys.executable, "-BEs", str(SCRIPT), *where, *files, *more],
                env={"NOTIFY_SOCKET": str(self._folder / "notify"), "CREDENTIALS_DIRECTORY": str(self._folder)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert notify.recv(100) == b"READY=1"

    def says(self, address: str = "127.0.0.1", asked: bytes = b"page\n") -> bytes:
        """The answer to one connection."""
        with socket.create_connection((address, self.port), timeout=PATIENCE) as connection:
            connection.sendall(asked)
            received = b""
            while block := connection.recv(100):
                received += block
        return received

    def comes_to_say(self, word: bytes, asked: bytes = b"page\n") -> bool:
        """Within a while: a look that takes too long is none, and a question that comes too late was not asked."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.says(asked=asked) == word:
                return True
            time.sleep(0.1)
        return False

    def wait(self) -> tuple[int, str]:
        """Exit status and last words of one that ends by itself."""
        if self._process is None:
            return -1, ""
        said, _nothing = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, said.decode()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._held.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.end()


# What it says


@pytest.mark.parametrize(
    ("activity", "word"),
    [
        ({"job": False, "queue": 0, "name": ""}, READY),
        # Through the API, so the load balancer has counted it.
        ({"job": True, "queue": 1, "name": "scripts_txt2img"}, READY),
        ({"job": True, "queue": 3, "name": "task(a1b2c3)"}, DRAIN),
        # Nothing runs any more: the name is of the last one.
        ({"job": False, "queue": 0, "name": "task(a1b2c3)"}, READY),
        # The web UI calls a job of several pictures by another name, so who counts the page's is believed.
        ({"job": True, "queue": 1, "name": "Batch 2 out of 4", "page": 1}, DRAIN),
        ({"job": True, "queue": 1, "name": "Batch 2 out of 4", "page": 0}, READY),
        ({"job": True, "queue": 2, "name": "scripts_txt2img", "page": 1}, DRAIN),
        ({"job": True, "queue": 1, "name": "task(a1b2c3)", "page": None}, DRAIN),
    ],
)
def test_only_jobs_of_the_page_keep_requests_away(
    agent: Agent, engine: Engine, activity: dict[str, Any], word: bytes
) -> None:
    engine.answer = activity
    agent.describe(engine)
    agent.start()
    assert agent.comes_to_say(word)


def test_who_asks_for_the_drain_hears_nothing_of_the_page(agent: Agent, engine: Engine) -> None:
    engine.does("task(1)")
    agent.describe(engine)
    agent.start()
    assert agent.comes_to_say(DRAIN) and agent.comes_to_say(DRAIN, asked=b"")
    assert agent.comes_to_say(READY, asked=b"drain\n")
    agent.drain_file.parent.mkdir()
    agent.drain_file.touch()
    assert agent.says(asked=b"drain\n") == DRAIN


def test_follows_the_page(agent: Agent, engine: Engine) -> None:
    agent.describe(engine)
    agent.start()
    assert agent.says() == READY
    engine.does("task(1)")
    assert agent.comes_to_say(DRAIN)
    engine.does("")
    assert agent.comes_to_say(READY)


def test_drained_while_the_file_is_there(agent: Agent, engine: Engine) -> None:
    agent.describe(engine)
    agent.start()
    assert agent.says() == READY
    agent.drain_file.parent.mkdir()
    agent.drain_file.touch()
    # Without a look at the web UI: this is at once.
    assert agent.says() == DRAIN
    agent.drain_file.unlink()
    assert agent.says() == READY


def test_an_engine_that_cannot_tell_is_never_asked(agent: Agent, engine: Engine) -> None:
    engine.does("task(1)")
    agent.describe(engine, activity_path=None)
    agent.start()
    assert agent.says() == READY
    assert engine.asked == []
    agent.drain_file.parent.mkdir()
    agent.drain_file.touch()
    assert agent.says() == DRAIN


# What it asks


def test_asks_at_most_once_a_second(agent: Agent, engine: Engine) -> None:
    agent.describe(engine)
    agent.start()
    threads = [threading.Thread(target=lambda: [agent.says() for _ in range(20)]) for _ in range(10)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    assert 1 <= len(engine.asked) <= seconds + 1
    times = [moment for moment, _login in engine.asked]
    assert all(later - earlier > 0.99 for earlier, later in zip(times, times[1:]))


def test_asks_nothing_while_nobody_connects(agent: Agent, engine: Engine) -> None:
    agent.describe(engine)
    agent.start()
    time.sleep(2.5)
    assert engine.asked == []


def test_the_login_is_that_of_the_service(agent: Agent, engine: Engine) -> None:
    engine.login = LOGIN
    engine.does("task(1)")
    agent.describe(engine)
    agent.start(login=LOGIN)
    assert agent.comes_to_say(DRAIN)
    assert engine.asked[0][1] == "Basic " + base64.b64encode(LOGIN.encode()).decode()


@pytest.mark.skipif(os.getuid() != 0, reason="only root has somebody else to be")
def test_the_login_goes_to_nobody_else(agent: Agent, engine: Engine) -> None:
    # The service is nobody's here, and somebody else listens on its port.
    agent.describe(engine, user="nobody")
    agent.start("--patience=0", login=LOGIN)
    engine.login = LOGIN
    assert agent.says() == READY
    assert [login for _moment, login in engine.asked] == [None]
    # That somebody refuses what was never told is no reason to end.
    time.sleep(1.5)
    assert agent.says() == READY


def test_a_login_that_is_refused_ends_it(agent: Agent, engine: Engine) -> None:
    engine.login = "gateway:a-newer-one"
    agent.describe(engine)
    agent.start("--patience=0", login=LOGIN)
    # It may have ended before it has said so.
    assert agent.says() in (READY, b"")
    status, said = agent.wait()
    assert status == 1
    assert re.search(r"refuses the login", said) and LOGIN not in said


def test_a_login_that_is_refused_at_first_is_waited_with(agent: Agent, engine: Engine) -> None:
    engine.login = "gateway:a-newer-one"
    agent.describe(engine)
    agent.start(login=LOGIN)
    assert agent.says() == READY
    time.sleep(1.5)
    assert agent.says() == READY


# What goes wrong


def test_without_a_web_ui_it_is_ready(agent: Agent) -> None:
    agent.start()
    assert agent.says() == READY
    agent.describe(None)
    time.sleep(1.1)
    assert agent.says() == READY


def test_engine_json_that_comes_later_is_read(agent: Agent, engine: Engine) -> None:
    engine.does("task(1)")
    agent.start()
    assert agent.says() == READY
    agent.describe(engine)
    assert agent.comes_to_say(DRAIN)


@pytest.mark.parametrize(
    ("status", "answer"),
    [(200, b"not JSON"), (200, b"[1]"), (200, b"\xff"), (500, {"job": True, "name": "task(1)"}), (404, {}), (200, 7)],
)
def test_an_answer_that_is_none_keeps_nobody_away(agent: Agent, engine: Engine, status: int, answer: Any) -> None:
    engine.status, engine.answer = status, answer
    agent.describe(engine)
    agent.start()
    assert agent.says() == READY


def test_a_damaged_engine_json_keeps_nobody_away(agent: Agent, engine: Engine) -> None:
    agent.start()
    for text in ("{", "[]", '{"activity_path": "/a", "address": [], "port": "x"}'):
        agent.engine_file.write_text(text, encoding="utf-8")
        time.sleep(1.1)
        assert agent.says() == READY


@pytest.mark.parametrize("fault", ["silent", "trickle"])
def test_the_last_word_of_a_web_ui_that_falls_silent_holds_for_a_while(
    agent: Agent, engine: Engine, fault: str
) -> None:
    engine.does("task(1)")
    agent.describe(engine)
    agent.start("--memory=4")
    start = time.monotonic()
    assert agent.comes_to_say(DRAIN)
    getattr(engine, fault).set()
    assert agent.comes_to_say(READY)
    assert time.monotonic() - start >= 4
    assert len(engine.asked) > 1
    # It is asked all the while, and believed again at once.
    getattr(engine, fault).clear()
    assert agent.comes_to_say(DRAIN)


def test_a_client_that_goes_away_or_says_something_harms_nobody(agent: Agent, engine: Engine) -> None:
    agent.describe(engine)
    agent.start()
    for number in range(50):
        with socket.create_connection(("127.0.0.1", agent.port), timeout=PATIENCE) as connection:
            if number % 2:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    held = [socket.create_connection(("127.0.0.1", agent.port), timeout=PATIENCE) for _ in range(20)]
    assert agent.says() == READY
    for connection in held:
        connection.close()


def test_listens_where_it_is_told(agent: Agent, engine: Engine) -> None:
    agent.describe(engine)
    agent.start(address="127.0.0.2")
    assert agent.says("127.0.0.2") == READY
    with pytest.raises(ConnectionRefusedError):
        agent.says("127.0.0.1")


def test_listens_on_ipv6(agent: Agent, engine: Engine) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    agent.describe(engine)
    agent.start(address="::1")
    assert agent.says("::1") == READY


def test_says_why_it_cannot_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = ports.number(taken)
        done = subprocess.run(
            [sys.executable, "-BEs", str(SCRIPT), "--address=127.0.0.1", f"--port={port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert re.fullmatch(rf"127.0.0.1 port {port} cannot be listened on \(.*\)\.\n", done.stderr)
