"""Servers that behave in ways that the hubs' stand-ins do not: each of these has misled the module once."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from module_runs import Modules

MIB = 1024 * 1024
DATA = random.Random(3).randbytes(3 * MIB)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append({"path": self.path, **dict(self.headers)})
        # The client hangs up where it has seen enough.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.server.answer(self)

    def reply(self, status: int, headers: dict[str, Any], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def span(self) -> tuple[int, int]:
        first, _dash, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), int(last)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, answer: Callable[[Handler], None]) -> None:
        super().__init__((address, 0), Handler)
        self.answer = answer
        self.seen: list[dict[str, str]] = []
        self.host = f"{address}:{self.server_port}"
        self.url = f"http://{self.host}"


@contextmanager
def serve(answer: Callable[[Handler], None], address: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(address, answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def part_of(handler: Handler, data: bytes, **headers: str) -> None:
    first, last = handler.span()
    span = f"bytes {first}-{last}/{len(data)}"
    handler.reply(206, {"Content-Range": span, **headers}, data[first : last + 1])


def test_address_with_two_hosts(run_module: Modules, tmp_path: Path) -> None:
    r"""In http://a\@b the standard library sees b and urllib3 connects to a, so the token would go to a."""

    def redirect(handler: Handler) -> None:
        handler.reply(302, {"Location": f"http://{foreign.host}\\@{handler.headers['Host']}/x"})

    with serve(lambda handler: handler.reply(404, {}), "127.0.0.7") as foreign, serve(redirect) as hub:
        run = run_module(
            "url_download",
            url=f"{hub.url}/f",
            dest=str(tmp_path / "f.dat"),
            sha256=SHA256,
            token="SECRET-TOKEN",
            retries=0,
        )
    assert "not encrypted" in run.message, run.output
    assert hub.seen[0]["Authorization"] == "Bearer SECRET-TOKEN"
    assert foreign.seen == []


def test_redirect_with_a_body_without_end(run_module: Modules, tmp_path: Path) -> None:
    def answer(handler: Handler) -> None:
        if handler.path == "/file":
            part_of(handler, DATA)
            return
        handler.reply(302, {"Location": "/file", "Content-Length": 1 << 40})
        for _second in range(600):
            handler.wfile.write(bytes(MIB))
            time.sleep(1)

    with serve(answer) as server:
        started = time.monotonic()
        run = run_module("url_download", url=f"{server.url}/go", dest=str(tmp_path / "f.dat"), sha256=SHA256)
    assert run.result["changed"], run.output
    assert time.monotonic() - started < 60


def test_end_of_the_connection_is_not_the_end_of_the_file(run_module: Modules, tmp_path: Path) -> None:
    """A server that tells no length, and drips: cut, and begun again, but never taken for whole."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        handler.close_connection = True
        if len(server.seen) == 2:
            handler.wfile.write(DATA[:MIB])
            for _time in range(40):
                handler.wfile.write(b"z")
                time.sleep(0.5)
            return
        handler.wfile.write(DATA)

    with serve(answer) as server:
        run = run_module("url_download", url=f"{server.url}/f", dest=str(tmp_path / "f.dat"), sha256="none", timeout=1)
    assert run.result["changed"], run.output
    assert (tmp_path / "f.dat").read_bytes() == DATA


def test_file_that_changes_with_nothing_but_its_date(run_module: Modules, tmp_path: Path) -> None:
    old, new = DATA * 8, bytes(byte ^ 1 for byte in DATA) * 8

    def answer(handler: Handler) -> None:
        late = len(server.seen) > 2
        date = f"Mon, 23 Nov 2026 0{int(late)}:00:00 GMT"
        part_of(handler, new if late else old, **{"Last-Modified": date})

    with serve(answer) as server:
        run = run_module("url_download", url=f"{server.url}/f", dest=str(tmp_path / "f.dat"), sha256="none")
    assert run.result["changed"], run.output
    assert (tmp_path / "f.dat").read_bytes() == new


def test_packed_parts(run_module: Modules, tmp_path: Path) -> None:
    """Some caches pack what they were asked not to."""

    def answer(handler: Handler) -> None:
        first, last = handler.span()
        packed = {"Content-Encoding": "gzip"}
        if last:
            handler.reply(206, {"Content-Range": f"bytes {first}-{last}/{len(DATA)}", **packed}, gzip.compress(DATA))
        else:
            part_of(handler, DATA)

    def whole(handler: Handler) -> None:
        if "Range" in handler.headers:
            answer(handler)
        else:
            handler.reply(200, {"Content-Encoding": "gzip"}, gzip.compress(DATA))

    with serve(whole) as server:
        run = run_module("url_download", url=f"{server.url}/f", dest=str(tmp_path / "f.dat"), sha256="none")
    assert run.result.get("changed"), run.output
    assert (tmp_path / "f.dat").read_bytes() == DATA


def test_secrets_in_an_address_are_not_shown(run_module: Modules, tmp_path: Path) -> None:
    with serve(lambda handler: part_of(handler, DATA)) as server:
        run = run_module(
            "url_download",
            url=f"http://me:PASSWORD@{server.host}/f?signature=SIGNATURE",
            mirrors=[f"http://me:OTHERWORD@{server.host}/{{name}}"],
            dest=str(tmp_path / "f.dat"),
            sha256=SHA256,
        )
    assert run.result["changed"], run.output
    for secret in ("PASSWORD", "SIGNATURE", "OTHERWORD"):
        assert secret not in run.output


def test_owner_who_does_not_exist(run_module: Modules, tmp_path: Path) -> None:
    """Said before the first byte."""
    with serve(lambda handler: part_of(handler, DATA)) as server:
        options: dict[str, Any] = {"url": f"{server.url}/f", "dest": str(tmp_path / "f.dat"), "sha256": SHA256}
        run = run_module("url_download", **options, owner="nobody-of-that-name")
        assert run.message == "There is no user 'nobody-of-that-name' on this host: make it, or correct owner."
        assert server.seen == []
        run_module("url_download", **options)
        run = run_module("url_download", check=True, **options, mode="0600")
    assert run.result["changed"]
    assert "0600" in str(run.result["diff"])
    assert os.stat(tmp_path / "f.dat").st_mode & 0o777 == 0o644
