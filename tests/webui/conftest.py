"""The web servers that A1111 and Forge pin, in virtualenvs of their own, with a stand-in web UI on them."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROLE_FILES = HERE.parents[1] / "roles/sd_webui/files"
HOME_CACHE = pathlib.Path.home() / ".cache/secondhand.diffusion"
CACHE = pathlib.Path(os.environ.get("SECONDHAND_CACHE_DIR", HOME_CACHE)) / "webui"
ENGINES = ("automatic1111", "forge")
# A comma cannot be in it, a colon can.
LOGIN = "späti:open sesame: now"


@dataclasses.dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclasses.dataclass
class Server:
    """A stand-in web UI that runs."""

    engine: str
    port: int
    python: pathlib.Path
    log: pathlib.Path
    routes: list[dict[str, Any]]
    # What some paths answered before the web UI had added its own.
    early: list[int]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request, underscores in a header's name as dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            if isinstance(body, dict):
                body = urllib.parse.urlencode(body)
                names["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            # A stream has no end of its own.
            stream = (answer.headers.get("Content-Type") or "").startswith("text/event-stream")
            content = b"" if stream else answer.read()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    def open_websocket(self, path: str, **headers: str) -> int:
        """The status that a websocket's handshake gets: 101 when it is let in."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        key = base64.b64encode(os.urandom(16)).decode()
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as stream:
            stream.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode())
            return int(stream.makefile("rb").readline().split()[1])

    def log_in(self, login: str = LOGIN) -> Answer:
        """The form of the login page."""
        user, _colon, password = login.partition(":")
        return self.ask("POST", "/login", {"username": user, "password": password})

    def cookie(self) -> str:
        """A session of its own."""
        answer = self.log_in()
        assert answer.status == 200, answer
        return answer.headers["set-cookie"].partition(";")[0]


def basic(login: str = LOGIN) -> str:
    """The value of the header Authorization."""
    return "Basic " + base64.b64encode(login.encode()).decode()


def environment_of(engine: str) -> pathlib.Path:
    """The virtualenv with the web server that the role installs for this engine; made once per lock file."""
    lock = ROLE_FILES / f"engines/{engine}/locks/python3.11-base.txt"
    wanted = HERE / "requirements.txt"
    key = hashlib.sha256(lock.read_bytes() + wanted.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"{engine}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{engine}.lock", "w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            for old in CACHE.glob(f"{engine}-*"):
                shutil.rmtree(old)
            _uv("venv", "--python", "3.11", folder)
            _uv("pip", "install", "--python", folder / "bin/python", "--requirements", wanted, "--constraints", lock)
            (folder / "complete").touch()
    return folder / "bin/python"


def _uv(*command: str | pathlib.Path) -> None:
    done = subprocess.run(["uv", *command, "--quiet"], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def unused_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def start() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Gives a function that starts a web UI as the unit does, and ends it afterwards."""

    @contextlib.contextmanager
    def started(engine: str, folder: pathlib.Path, *flags: str, login: str | None = LOGIN) -> Iterator[Server]:
        python, port, routes = environment_of(engine), unused_port(), folder / "routes.json"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ROUTES": str(routes),
        }
        if login is not None:
            (folder / "login").write_text(f"{login}\n", encoding="utf-8")
            environment |= {"SD_WEBUI_LOGIN": "required", "CREDENTIALS_DIRECTORY": str(folder)}
        serve = [python, ROLE_FILES / "host/webui/serve.py", HERE / "app"]
        address = ["--server-name", "127.0.0.1", "--port", str(port)]
        log = folder / "log"
        with (
            open(log, "wb") as output,
            subprocess.Popen(
                [*serve, *address, *flags], env=environment, stdout=output, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                deadline = time.monotonic() + 120
                while not (routes.is_file() and _listens(port)):
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text(encoding="utf-8")
                    time.sleep(0.1)
                yield Server(engine, port, python, log, **json.loads(routes.read_text(encoding="utf-8")))
            finally:
                process.terminate()

    return started


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60):
        return True
    return False


@pytest.fixture(scope="module", params=ENGINES)
def server(
    request: pytest.FixtureRequest, start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A web UI with a login in front, on each of the two web servers."""
    folder = tmp_path_factory.mktemp(request.param)
    with start(request.param, folder, "--gradio-auth-path", str(folder / "login")) as running:
        yield running
