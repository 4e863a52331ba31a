"""Role gateway, HAProxy's side: the programs for the gateway's host, on files and certificates of the test's own."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILES = Path(__file__).parents[3] / "roles/gateway/files/gateway"
NAMES = ["pc", "pc.local", "192.168.1.5", "fd00::5"]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


look, certificates, logins, check = map(load, ("look_at_gateway", "have_certificate", "have_logins", "check_gateway"))
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="this machine has no openssl")
needs_perl = pytest.mark.skipif(shutil.which("perl") is None, reason="this machine has no perl")


# Logins


@pytest.fixture
def have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """As the role calls it; whoever runs this owns the files."""
    own = os.stat(tmp_path)
    monkeypatch.setattr(logins.grp, "getgrnam", lambda _name: type("Group", (), {"gr_gid": own.st_gid}))
    monkeypatch.setattr(logins.os, "fchown", lambda *_arguments: None)

    def run(users: list[dict[str, Any]], rounds: int = 1000, check: bool = False, login: str = "") -> Any:
        if login:
            (tmp_path / "login").write_text(f"{login}\n", encoding="utf-8")
        names = {
            "users_file": "users",
            "users_config": "users.cfg",
            "session_key": "session.key",
            "secrets": "secrets.map",
        }
        asked = {
            "check": check,
            "users": users,
            "rounds": rounds,
            "group": "haproxy",
            "login_file": str(tmp_path / "login") if login else "",
            **{key: str(tmp_path / name) for key, name in names.items()},
        }
        logins.main(json.dumps(asked))
        return json.loads(capsys.readouterr().out)

    return run


@needs_perl
def test_a_password_is_generated_once(have: Callable[..., Any], tmp_path: Path) -> None:
    first = have([{"name": "sd"}])
    assert first["changed"] and list(first["generated"]) == ["sd"] and len(first["generated"]["sd"]) >= 22
    text = (tmp_path / "users").read_text(encoding="utf-8")
    assert re.fullmatch(r"sd:\$5\$rounds=1000\$[A-Za-z0-9]{16}\$[A-Za-z0-9./]{43}\n", text)
    assert logins.crypt(first["generated"]["sd"], text.strip().partition(":")[2]) == text.strip().partition(":")[2]
    assert f"    user sd password {text.strip().partition(':')[2]}\n" in (tmp_path / "users.cfg").read_text("utf-8")
    # Whoever was told the password keeps it.
    again = have([{"name": "sd"}, {"name": "guest"}])
    assert list(again["generated"]) == ["guest"]
    assert (tmp_path / "users").read_text(encoding="utf-8").startswith(text)


@needs_perl
@pytest.mark.skipif(os.geteuid() != 0, reason="the files belong to root")
def test_a_second_run_changes_nothing(have: Callable[..., Any], tmp_path: Path) -> None:
    users = [{"name": "sd"}, {"name": "anna", "password": "correct horse: bättery"}]
    assert have(users, login="gateway:abc")["changed"]
    before = {path.name: (path.read_bytes(), path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert have(users, login="gateway:abc") == {"changed": False, "generated": {}}
    assert {path.name: (path.read_bytes(), path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == before
    assert {name: mode for name, (_text, mode) in before.items() if name != "login"} == {
        "users": 0o640,
        "users.cfg": 0o640,
        "secrets.map": 0o640,
        "session.key": 0o600,
    }


@needs_perl
def test_a_given_password(have: Callable[..., Any], tmp_path: Path) -> None:
    def hashed() -> str:
        return (tmp_path / "users").read_text(encoding="utf-8").strip().partition(":")[2]

    assert have([{"name": "anna", "password": "correct horse"}], rounds=1234)["generated"] == {}
    first = hashed()
    assert first.startswith("$5$rounds=1234$") and logins.crypt("correct horse", first) == first
    assert logins.crypt("correct horsE", first) != first
    have([{"name": "anna", "password": "correct horse"}], rounds=1234)
    assert hashed() == first
    have([{"name": "anna", "password": "correct horse"}], rounds=1235)
    assert hashed().startswith("$5$rounds=1235$")
    have([{"name": "anna", "password": "another horse"}], rounds=1235)
    assert logins.crypt("another horse", hashed()) == hashed()


@needs_perl
def test_who_is_not_in_the_list_is_out(have: Callable[..., Any], tmp_path: Path) -> None:
    have([{"name": "sd"}, {"name": "anna"}])
    have([{"name": "sd"}])
    assert "anna" not in (tmp_path / "users").read_text("utf-8") + (tmp_path / "users.cfg").read_text("utf-8")


@needs_perl
def test_secrets(have: Callable[..., Any], tmp_path: Path) -> None:
    have([{"name": "sd"}], login="gateway:abc")
    lines = dict(line.split(" ") for line in (tmp_path / "secrets.map").read_text(encoding="utf-8").splitlines())
    assert base64.b64decode(lines["servers-login"]) == b"gateway:abc"
    assert len(base64.b64decode(lines["session-key"])) == 32
    have([{"name": "sd"}])
    now = (tmp_path / "secrets.map").read_text(encoding="utf-8")
    assert lines["session-key"] in now and "servers-login" not in now


@needs_perl
def test_check_mode_writes_nothing(have: Callable[..., Any], tmp_path: Path) -> None:
    assert have([{"name": "sd"}], check=True) == {"changed": True, "generated": {}}
    assert list(tmp_path.iterdir()) == []


@needs_perl
def test_no_password_is_on_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        seen.append(command)
        return real(command, **options)

    monkeypatch.setattr(logins.subprocess, "run", run)
    logins.new_hash("correct horse", 1000)
    assert seen and "correct" not in str(seen)


# Certificates


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificates") / "certificate.pem"
    path.write_text(certificates.self_signed("The organization", NAMES), encoding="ascii")
    return path


def parts(path: Path) -> tuple[Path, Path]:
    """Certificate and key of a file, in two."""
    text = path.read_text(encoding="ascii")
    chain, key = path.with_suffix(".crt"), path.with_suffix(".key")
    chain.write_text(look.BLOCK.search(text)[0], encoding="ascii")
    key.write_text(text[text.index("-----BEGIN PRIVATE KEY") :], encoding="ascii")
    return chain, key


@needs_openssl
def test_a_certificate_that_the_host_signs(signed: Path) -> None:
    told = look.described(str(signed))
    assert told["organization"] == "The organization" and sorted(told["names"]) == sorted(NAMES)
    assert 800 <= told["days"] <= 825
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-text", "-in", signed], check=True, capture_output=True, text=True
    )
    assert "CA:FALSE" in text.stdout and "P-256" in text.stdout and "TLS Web Server Authentication" in text.stdout
    assert look.problem(str(signed), str(signed)) == ""


@needs_openssl
def test_a_client_that_has_it_believes_it(signed: Path) -> None:
    chain, key = parts(signed)
    context = ssl.create_default_context(cafile=str(chain))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key)
    for name in NAMES:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours, theirs = context.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)
        for _turn in range(4):
            for side in (ours, theirs):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        assert ours.version() == "TLSv1.3", name


@needs_openssl
def test_why_a_certificate_cannot_be_used(signed: Path, tmp_path: Path) -> None:
    chain, key = parts(signed)
    other = tmp_path / "other.pem"
    other.write_text(certificates.self_signed("x", NAMES), encoding="ascii")
    _chain, other_key = parts(other)
    locked = tmp_path / "locked.pem"
    lock = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(lock, check=True)
    assert look.problem(str(chain), str(key)) == ""
    assert "cannot be read on this host (no such file or directory)" in look.problem("/nonexistent/a.pem", str(key))
    assert "cannot be read on this host" in look.problem(str(chain), "/nonexistent/a.key")
    assert "there is no certificate in" in look.problem(str(key), str(key))
    assert "there is no private key in" in look.problem(str(chain), str(chain))
    assert "is not the one of" in look.problem(str(chain), str(other_key))
    assert "has a passphrase" in look.problem(str(chain), str(locked))
    for sentence in (look.problem(str(chain), str(locked)), look.problem(str(chain), str(other_key))):
        assert sentence.endswith(".") and "\n" not in sentence


@needs_openssl
def test_an_expired_certificate(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenSSL calls it; making one takes a clock of its own."""
    chain, key = parts(signed)
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "certificate has expired"

    def presented(*_arguments: str) -> None:
        raise error

    monkeypatch.setattr(look, "presented", presented)
    assert "is not valid (certificate has expired); renew it" in look.problem(str(chain), str(key))
    assert look.described(str(chain))["days"] < 0


def test_what_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "missing"):
        assert look.described(str(tmp_path / name)) == {"organization": "", "names": [], "days": -1}


def test_a_given_certificate_becomes_one_file(tmp_path: Path) -> None:
    (tmp_path / "chain").write_text("CHAIN\n\n", encoding="ascii")
    (tmp_path / "key").write_text("KEY", encoding="ascii")
    chain, key = str(tmp_path / "chain"), str(tmp_path / "key")
    assert certificates.given(chain, key) == "CHAIN\nKEY\n" and certificates.given(chain, chain) == "CHAIN\n"


# Ports


def test_who_has_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = 'LISTEN 0 511 0.0.0.0:443 0.0.0.0:* users:(("nginx",pid=77,fd=6),("nginx",pid=78,fd=6))\n'
    units = {"77": "nginx.service nginx\n", "78": "nginx.service nginx\n", "80": "sd-gateway.service haproxy\n"}

    def run(*command: str) -> str:
        return listing if command[0] == "ss" else units[command[-1]]

    monkeypatch.setattr(look, "run", run)
    (found,) = look.taken("", 443, "sd-gateway.service")
    assert (found["port"], found["unit"], found["command"]) == (443, "nginx.service", "nginx")
    listing = 'LISTEN 0 511 *:443 *:* users:(("haproxy",pid=80,fd=6))\n'
    assert look.taken("", 443, "sd-gateway.service") == []
    # Another address of the host is another place.
    listing = 'LISTEN 0 511 192.168.1.5:443 0.0.0.0:* users:(("nginx",pid=77,fd=6))\n'
    assert look.taken("192.168.1.6", 443, "sd-gateway.service") == []
    assert (
        len(look.taken("192.168.1.5", 443, "sd-gateway.service")) == len(look.taken("", 443, "sd-gateway.service")) == 1
    )


def test_addresses_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = """\
2: eth0    inet 192.168.1.5/24 brd 192.168.1.255 scope global dynamic eth0\\       valid_lft 85000sec
2: eth0    inet6 fd00::5/64 scope global \\       valid_lft forever preferred_lft forever
2: eth0    inet6 2001:db8::1/64 scope global temporary dynamic \\       valid_lft 600sec
2: eth0    inet6 2001:db8::2/64 scope global dynamic mngtmpaddr \\       valid_lft 600sec
"""
    monkeypatch.setattr(look, "run", lambda *_command: listing)
    found = look.addresses()
    assert found["lasting"] == ["192.168.1.5", "fd00::5"] and found["passing"] == ["2001:db8::1", "2001:db8::2"]
    assert set(found["all"]) == {"127.0.0.1", "::1", *found["lasting"], *found["passing"]}


# The running gateway


class Gateway:
    """Answers as the gateway does, or as a test has it answer."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        self.status, self.redirect, self.mark, self.state = 401, 308, "m4rk", "UP"
        gateway = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                port = self.connection.getsockname()[1]
                plain = port == gateway.asked["http_port"]
                status = gateway.redirect if plain else gateway.status if port == gateway.asked["https_port"] else 200
                self.send_response(status)
                if plain:
                    self.send_header("Location", f"https://{self.headers['Host']}/")
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._servers = [HTTPServer(("127.0.0.1", 0), Answer) for _port in range(3)]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._servers[0].socket = context.wrap_socket(self._servers[0].socket, server_side=True)
        ports = [server.server_address[1] for server in self._servers]
        self._admin = socket.socket(socket.AF_UNIX)
        self._admin.bind(str(folder / "admin.sock"))
        self._admin.listen()
        self.asked: dict[str, Any] = {
            "socket": str(folder / "admin.sock"),
            "mark": "m4rk",
            "address": "127.0.0.1",
            "https_port": ports[0],
            "http_port": ports[1],
            "stats_port": ports[2],
            "certificate": str(certificate),
            "unit": "sd-gateway.service",
            "servers": ["pc1"],
            "servers_timeout": 0,
        }
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        threading.Thread(target=self._answer_commands, daemon=True).start()

    def _answer_commands(self) -> None:
        while True:
            try:
                connection = self._admin.accept()[0]
            except OSError:
                return
            with connection:
                if connection.recv(100).startswith(b"show info"):
                    connection.sendall(f"Name: HAProxy\nUptime: 0d\ndescription: sd-gateway {self.mark}\n\n".encode())
                else:
                    rows = ["# pxname,svname,status,check_status,check_code,last_chk,"]
                    rows += ["page,pc1,no check,,,,", f"check_pc1,pc1,{self.state},L7STS,401,unauthorized,"]
                    rows += ["check_pc1,BACKEND,UP,,,,"]
                    connection.sendall(("\n".join(rows) + "\n\n").encode())

    def close(self) -> None:
        self._admin.close()
        for server in self._servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def gateway(tmp_path: Path, signed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(check, "PATIENCE", 0.2)
    made = Gateway(tmp_path, signed)
    yield made
    made.close()


def verdict(gateway: Gateway, capsys: pytest.CaptureFixture[str], **asked: Any) -> tuple[list[str], list[str]]:
    check.main(json.dumps({**gateway.asked, **asked}))
    told = json.loads(capsys.readouterr().out)
    return told["faults"], told["warnings"]


@needs_openssl
def test_a_gateway_that_is_as_it_should_be(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(gateway, capsys) == ([], [])


@needs_openssl
def test_the_configuration_before_is_noticed(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    faults, _warnings = verdict(gateway, capsys, mark="another")
    assert len(faults) == 1 and "does not run with the configuration that was written" in faults[0]


@needs_openssl
def test_answers_that_should_be_others(gateway: Gateway, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gateway.status, gateway.redirect = 200, 200
    other = tmp_path / "other.pem"
    other.write_text(certificates.self_signed("x", NAMES), encoding="ascii")
    faults, _warnings = verdict(gateway, capsys, certificate=str(other))
    assert len(faults) == 3
    assert "answers 200 to somebody without a login" in faults[0] and "is not the one in" in faults[1]
    assert "does not send to HTTPS" in faults[2]


@needs_openssl
def test_servers_that_do_not_answer(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.state = "DOWN"
    (fault,), _warnings = verdict(gateway, capsys)
    assert "no server answers it: pc1 (L7STS 401 unauthorized)" in fault
    gateway.state = "UP"
    (fault,), _warnings = verdict(gateway, capsys, servers=["pc1", "pc2"])
    assert "other servers" in fault
