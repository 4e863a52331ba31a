# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts by ntfy, webhook and mail, sent by the process that the service runs to real servers on this machine."""

from __future__ import annotations

import base64
import contextlib
import datetime
import email
import email.policy
import http.server
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sd_watchdog import alert_policy, alert_send

ALERT = Path(__file__).resolve().parents[3] / "roles/watchdog/files/lib/alert.py"
TOKEN = "tk_verysecret"
TOPIC = "secret-topic-name"


# The servers


class Web(http.server.ThreadingHTTPServer):
    """Takes alerts, or answers with a status that it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.status = 200
        self.delay = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Web

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else self.server.status
        if status == 200:
            self.server.got.append((self.path, dict(self.headers), body))
        time.sleep(self.server.delay)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{self.server.address}/elsewhere")
        self.send_header("Content-Length", "2")
        self.end_headers()
        # An error of a server may hold anything, the token as well.
        self.wfile.write(b"{}")

    def log_message(self, *_arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def make_certificate(folder: Path) -> tuple[str, str]:
    """One for this machine that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alerts")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


class Mail:
    """A mail server of one connection at a time: HELO to QUIT, with STARTTLS and a login where it is told to."""

    def __init__(
        self,
        tls: tuple[str, str] | None = None,
        login: str = "",
        refused: tuple[str, ...] = (),
        address: str = "127.0.0.1",
    ) -> None:
        self.tls, self.login, self.refused = tls, login, refused
        self.mails: list[tuple[str, list[str], bytes]] = []
        self.lines: list[str] = []
        self._socket = socket.create_server((address, 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with contextlib.ExitStack() as stack:
                stack.enter_context(contextlib.suppress(OSError))
                self._talk(stack.enter_context(connection), stack)

    def _talk(self, connection: socket.socket, stack: contextlib.ExitStack) -> None:
        connection.settimeout(60)
        recipients: list[str] = []
        sender, encrypted, known = "", False, not self.login
        file = stack.enter_context(connection.makefile("rb"))
        connection.sendall(b"220 mail\r\n")
        while True:
            line = file.readline().decode().strip()
            self.lines.append(line)
            verb = line.upper().split(" ")[0]
            if verb in ("EHLO", "HELO"):
                offers = (
                    ["mail"]
                    + ["STARTTLS"] * (self.tls is not None and not encrypted)
                    + ["AUTH PLAIN"] * bool(self.login)
                )
                answer = "\r\n".join(f"250{'-' if one != offers[-1] else ' '}{one}" for one in offers)
            elif verb == "STARTTLS" and self.tls is not None:
                connection.sendall(b"220 go on\r\n")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self.tls)
                connection = stack.enter_context(
                    context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                )
                connection.do_handshake()
                file, encrypted = stack.enter_context(connection.makefile("rb")), True
                continue
            elif verb == "AUTH":
                known = base64.b64decode(line.split(" ")[2]).decode() == f"\0{self.login}".replace(":", "\0", 1)
                answer = "235 welcome" if known else f"535 wrong: {line}"
            elif verb == "MAIL":
                sender, recipients = line, []
                answer = "250 ok" if known else "530 who are you"
            elif verb == "RCPT":
                address = line.partition("<")[2].partition(">")[0]
                recipients += [address] if address not in self.refused else []
                answer = "550 nobody" if address in self.refused else "250 ok"
            elif verb == "DATA":
                connection.sendall(b"354 go on\r\n")
                lines = []
                while (data := file.readline()) not in (b".\r\n", b""):
                    lines.append(data)
                self.mails.append((sender, recipients, b"".join(lines)))
                answer = "250 ok"
            elif verb == "QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            elif not verb:
                return
            else:
                answer = "250 ok"
            connection.sendall(f"{answer}\r\n".encode())


@pytest.fixture
def mail_servers() -> Iterator[list[Mail]]:
    servers: list[Mail] = []
    yield servers
    for server in servers:
        server.close()


# The host


class Host:
    """A made-up root with an outbox."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("etc/sd-watchdog", "var/lib/sd-watchdog/outbox", "var/lib/sd-watchdog-root"):
            (root / folder).mkdir(parents=True)
        self.outbox = root / "var/lib/sd-watchdog/outbox"
        self.memory = root / "var/lib/sd-watchdog-root/alerts.json"
        self.number = 0
        self.settings: dict[str, Any] = {"schema": 1, "repeat_seconds": 3600, "most_per_hour": 12, "proxy": ""}

    def set(self, **settings: Any) -> None:
        self.settings.update(settings)
        part = self.root / "etc/sd-watchdog/alerts.part"
        part.write_text(json.dumps(self.settings), encoding="utf-8")
        part.replace(self.root / "etc/sd-watchdog/alerts.json")

    def post(self, event: str = "outage", key: str = "killed", **more: Any) -> Path:
        """Leave an event as the supervisor does."""
        self.number += 1
        content = {
            "schema": 1,
            "event": event,
            "key": key,
            "title": "The web UI has failed",
            "text": "it was ended by signal 9",
            "wall": time.time(),
            "seconds": None,
            "host": "closet",
            **more,
        }
        path = self.outbox / f"{self.number:020}.json"
        part = path.with_suffix(".json.part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)
        return path

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-BEs", str(ALERT), "--look", "0.05", "--retry", "0.1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": os.environ["PATH"], "SD_WATCHDOG_ROOT": str(self.root), "LC_ALL": "C.UTF-8", **environment},
        )

    def run(self, **environment: str) -> str:
        """Until the outbox is empty; what it said."""
        with self.start(**environment) as process:
            said, _none = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert not list(self.outbox.iterdir())
        assert TOKEN not in said and TOPIC not in said and "Traceback" not in said
        return said

    @contextlib.contextmanager
    def running(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """While it waits for something; ended as systemd ends it."""
        with self.start(**environment) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def until(true: Any, seconds: float = 60) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def hear(process: subprocess.Popen[str], words: str) -> str:
    """What it says, up to the line with these words."""
    # Whoever never says them is not waited for.
    patience = threading.Timer(60, process.kill)
    patience.start()
    said = ""
    while words not in said and process.stdout is not None and (line := process.stdout.readline()):
        said += line
    patience.cancel()
    assert words in said, said
    return said


def texts(web: Web) -> list[str]:
    return [body.decode() for _path, _headers, body in web.got]


# ntfy


def test_ntfy(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}", "token": TOKEN})
    host.post()
    said = host.run()
    assert said == "sent by ntfy: closet: The web UI has failed\n"
    ((path, headers, body),) = web.got
    assert path == f"/{TOPIC}"
    assert headers["Title"] == "closet: The web UI has failed"
    assert (headers["Priority"], headers["Tags"]) == ("high", "rotating_light")
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert body == b"It was ended by signal 9."
    assert host.memory.stat().st_mode & 0o777 == 0o644


def test_no_token_no_header(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}", "token": ""})
    host.post("warning")
    host.run()
    ((_path, headers, _body),) = web.got
    assert "Authorization" not in headers
    assert headers["Priority"] == "default"


def test_letters_of_other_languages_and_long_texts(host: Host, web: Web) -> None:
    title = "Der Server im Schränkchen “antwortet” nicht: 猫の絵が描けません 🐈 und noch viel mehr, was lange dauert"
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post(title=title, text="ü" * 5000)
    host.run()
    ((_path, headers, body),) = web.got
    assert headers["Title"].isascii()
    assert str(make_header(decode_header(headers["Title"]))) == f"closet: {title}"
    assert len(body) <= 4000
    body.decode()


def test_a_login_in_the_address(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"http://anna:p%40ss@127.0.0.1:{web.server_port}/{TOPIC}"})
    host.post()
    assert "p%40ss" not in host.run()
    assert web.got[0][1]["Authorization"] == "Basic " + base64.b64encode(b"anna:p@ss").decode()


def test_what_is_late_says_when_it_was(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post(wall=time.mktime((2026, 11, 22, 14, 3, 0, 0, 0, -1)))
    host.run()
    assert texts(web) == ["It was ended by signal 9.\nThis was at 14:03 on 2026-11-22."]


def test_recovered_says_after_how_long(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post()
    host.post("recovered", title="The web UI is back", text="it answers", seconds=11534.0)
    host.run()
    assert texts(web)[1] == "Recovered in 3 h 12 min. It answers."
    assert web.got[1][1]["Tags"] == "white_check_mark"


def test_recovered_alone_is_not_sent(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post("recovered", title="The web UI is back")
    assert host.run() == "not sent (nobody was told of the outage): closet: The web UI is back\n"
    assert web.got == []


def test_the_same_news_are_told_once_across_runs(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post()
    host.run()
    host.post()
    assert "the same alert was sent" in host.run()
    assert len(web.got) == 1


def test_a_flood_is_held_back_and_said_once(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"}, most_per_hour=3)
    for number in range(30):
        host.post("warning", f"w{number}")
    host.run()
    assert len(web.got) == 4
    assert "3 alerts were sent within an hour" in texts(web)[3]
    host.post("warning", "late")
    host.run()
    assert len(web.got) == 4


def test_an_outage_that_is_over_before_it_may_be_told_is_not_told(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post()
    host.post("recovered")
    host.run()
    # Before it runs: with nothing to send it would end.
    waiting = host.post()
    with host.running():
        time.sleep(0.5)
        assert waiting.exists() and len(web.got) == 2
        host.post("recovered")
        until(lambda: not list(host.outbox.iterdir()))
    assert len(web.got) == 2


def test_an_outage_that_lasts_is_told_in_the_end(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post()
    host.post("recovered")
    host.post()
    with host.start() as process:
        hear(process, "it is sent if the outage lasts")
        until(lambda: len(web.got) == 2)
        # An hour is over.
        host.set(repeat_seconds=1)
        process.communicate(timeout=60)
    assert (process.returncode, len(web.got)) == (0, 3)


# Failures


def test_a_server_that_is_away_gets_it_later_and_once(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}", "token": TOKEN})
    web.statuses = [500, 429, 503]
    host.post()
    host.post("recovered", title="The web UI is back", seconds=5)
    said = host.run()
    assert said.count("is overloaded or out of order") == 3
    assert "(status 500). Tried again in 0 s." in said
    assert [headers["Title"] for _path, headers, _body in web.got] == [
        "closet: The web UI has failed",
        "closet: The web UI is back",
    ]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refused the login (status 401); look at watchdog_ntfy_token and run site.yml."),
        (403, "refused the login (status 403); look at watchdog_ntfy_token and run site.yml."),
        (302, "sends elsewhere (status 302); set watchdog_ntfy_url to the final address and run site.yml."),
        (308, "sends elsewhere (status 308)"),
        (404, "did not take the alert (status 404); look at watchdog_ntfy_url and run site.yml."),
    ],
)
def test_a_refusal_is_explained_and_corrected_settings_work_at_once(
    host: Host, web: Web, status: int, words: str
) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}", "token": TOKEN})
    web.status = status
    host.post()
    process = host.start()
    if process.stdout is None:
        pytest.fail("no pipe")
    line = process.stdout.readline()
    assert f"ntfy: 127.0.0.1:{web.server_port} {words}" in line
    assert TOKEN not in line and TOPIC not in line
    # The token went nowhere else.
    assert web.got == []
    web.status = 200
    host.set(ntfy={"url": f"{web.address}/{TOPIC}", "token": "new"})
    rest, _none = process.communicate(timeout=60)
    assert "sent by ntfy" in rest
    assert web.got[0][1]["Authorization"] == "Bearer new"


@pytest.mark.parametrize(
    "settings",
    [
        {"url": f"ftp://example.org/{TOPIC}"},
        {"url": f"https://user:{TOKEN}@/x"},
        {"url": f"https://user:{TOKEN}@host:99999999/x"},
        {"url": f"http://[broken/{TOKEN}"},
        {"url": f"http://127.0.0.1:9/{TOPIC} x"},
        {"url": f"http://127.0.0.1:9/{TOPIC}\r\nX: y"},
        {"url": "http://127.0.0.1:9/x", "token": f"{TOKEN}\nX: y"},
        {"url": "http://127.0.0.1:9/x", "token": f"{TOKEN}€"},
    ],
)
def test_settings_that_cannot_work_are_not_shown_either(host: Host, settings: dict[str, str]) -> None:
    host.set(ntfy=settings)
    host.post()
    process = host.start()
    if process.stdout is None:
        pytest.fail("no pipe")
    line = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    line += process.communicate(timeout=60)[0]
    assert "look at watchdog_ntfy_url and watchdog_ntfy_token and run site.yml." in line
    assert TOKEN not in line and TOPIC not in line and "Traceback" not in line


def test_a_certificate_that_nobody_vouches_for(host: Host, web: Web, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    web.socket = context.wrap_socket(web.socket, server_side=True)
    host.set(ntfy={"url": f"https://127.0.0.1:{web.server_port}/{TOPIC}", "token": TOKEN})
    path = host.post()
    with host.running() as process:
        if process.stdout is None:
            pytest.fail("no pipe")
        assert "its certificate is not trusted: self" in process.stdout.readline()
        assert path.exists() and web.got == []
    # With one that the host trusts it goes.
    assert "sent by ntfy" in host.run(SSL_CERT_FILE=certificate)


def test_a_proxy_is_used_and_never_the_environments(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"http://ntfy.example/{TOPIC}"}, proxy=web.address)
    host.post()
    host.run(http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9")
    assert web.got[0][0] == f"http://ntfy.example/{TOPIC}"
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"}, proxy="")
    host.post("warning")
    host.run(http_proxy="http://127.0.0.1:9")
    assert len(web.got) == 2


def test_one_way_that_fails_holds_up_no_other(host: Host, web: Web) -> None:
    host.set(ntfy={"url": "http://127.0.0.1:9/x"}, webhook={"url": f"{web.address}/hook"})
    path = host.post()
    with host.running():
        until(lambda: web.got)
        # After a restart of the service it is not sent twice.
        until(lambda: '"webhook"' in host.memory.read_text(encoding="utf-8"))
    assert path.exists()
    with host.running():
        time.sleep(0.5)
    assert len(web.got) == 1
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.run()
    assert [path for path, _headers, _body in web.got] == ["/hook", f"/{TOPIC}"]


def test_what_cannot_be_remembered_is_sent_all_the_same(host: Host, web: Web) -> None:
    host.memory.parent.rmdir()
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post()
    assert "an alert may come twice" in host.run()
    assert len(web.got) == 1


def test_after_a_day_it_is_given_up(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    path = host.post()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    waiting = {path.name: {"seen": now - 86_401, "accepted": True, "done": [], "over": False}}
    told = {"told": {"outage|killed": now - 86_401}, "open": ["outage|killed"]}
    host.memory.write_text(
        json.dumps({"schema": 1, "boot_id": boot_id, "boottime": now, "wall": 0, "waiting": waiting, **told}),
        encoding="utf-8",
    )
    assert host.run() == "given up after 1 d: closet: The web UI has failed\n"
    assert web.got == []
    # So nobody is told that it is over.
    host.post("recovered")
    assert "nobody was told" in host.run()


def test_no_way_to_tell_anybody(host: Host) -> None:
    host.set()
    host.post()
    assert "no way to send alerts is set; set watchdog_ntfy_url" in host.run()


def test_damaged_settings_lose_nothing(host: Host, web: Web) -> None:
    (host.root / "etc/sd-watchdog/alerts.json").write_text("{", encoding="utf-8")
    path = host.post()
    process = host.start()
    if process.stdout is None:
        pytest.fail("no pipe")
    assert "run site.yml for this host again." in process.stdout.readline()
    assert path.exists()
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    assert "sent by ntfy" in process.communicate(timeout=60)[0]


# What does not belong there


def test_what_is_no_event_is_removed_unread(host: Host, web: Web) -> None:
    secret = host.root / "secret.json"
    content = json.dumps({"schema": 1, "event": "outage", "title": "the secret", "text": "the secret"})
    secret.write_text(content, encoding="utf-8")
    (host.outbox / "1.json").symlink_to(secret)
    (host.outbox / "2.json").hardlink_to(secret)
    os.mkfifo(host.outbox / "3.json")
    (host.outbox / "4.json").write_bytes(b'{"a": "' + b"x" * 70_000 + b'"}')
    (host.outbox / "5.json").mkdir()
    (host.outbox / "6.json").write_bytes(b"[" * 60_000)
    (host.outbox / "7.json").write_text(json.dumps({"schema": 1, "event": "party", "title": "x"}), encoding="utf-8")
    (host.outbox / "foreign name.txt").write_text(content, encoding="utf-8")
    (host.outbox / "\x1b[2J.json").write_text(content, encoding="utf-8")
    (host.outbox / ".hidden").mkdir()
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    host.post()
    said = host.run()
    assert texts(web) == ["It was ended by signal 9."]
    assert "secret" not in said.replace(str(host.root), "") and "\x1b" not in said
    assert json.loads(secret.read_text(encoding="utf-8"))["title"] == "the secret"


def test_another_folder_in_place_of_the_outbox_is_left_alone(host: Host) -> None:
    """The web UI's user owns the folder around it, and this runs as root."""
    precious = host.root / "precious"
    precious.mkdir()
    (precious / "passwd").write_text("x", encoding="utf-8")
    host.outbox.rmdir()
    host.outbox.symlink_to(precious)
    host.set()
    with host.start() as process:
        said, _none = process.communicate(timeout=60)
    assert (process.returncode, said.count("\n")) == (1, 1)
    assert (precious / "passwd").exists()
    host.outbox.unlink()
    with host.start() as process:
        assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 0


@pytest.mark.parametrize("name", ["folder", "folder.json"])
def test_what_cannot_be_removed_is_said_once_and_stops_nobody(host: Host, web: Web, name: str) -> None:
    (host.outbox / name).mkdir()
    (host.outbox / name / "file").touch()
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    with host.start() as process:
        host.post()
        until(lambda: web.got)
        said = hear(process, "remove it by hand")
        time.sleep(0.3)
        # It stays for it: its path unit would start it again and again.
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=60)[0]
    assert said.count("remove it by hand") == 1


def test_an_event_that_is_being_written_is_waited_for(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    path = host.post()
    part = path.with_suffix(".json.part")
    path.rename(part)
    with host.start() as process:
        time.sleep(0.4)
        assert part.exists() and process.poll() is None
        part.rename(path)
        process.communicate(timeout=60)
    assert len(web.got) == 1


def test_a_server_that_sends_a_byte_now_and_then_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_send, "WHOLE_SECONDS", 0.5)
    over = threading.Event()

    def trickle() -> None:
        with server.accept()[0] as connection, contextlib.suppress(OSError):
            while not over.wait(0.05):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle)
        thread.start()
        event = alert_policy.Event("outage", "killed", "title", "text", "closet")
        begun = time.monotonic()
        with pytest.raises(alert_send.SendError, match=r"cannot be reached \(no answer within 0 s\)"):
            alert_send.send_ntfy({"url": f"http://127.0.0.1:{server.getsockname()[1]}/x"}, "", event)
        assert time.monotonic() - begun < 30
        over.set()
        thread.join()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# Webhook


def test_webhook(host: Host, web: Web) -> None:
    host.set(webhook={"url": f"{web.address}/hook?key={TOKEN}", "headers": {"X-Api-Key": TOKEN}})
    host.post(text="ü", seconds=None)
    host.run()
    ((path, headers, body),) = web.got
    assert path == f"/hook?key={TOKEN}"
    assert (headers["X-Api-Key"], headers["Content-Type"]) == (TOKEN, "application/json")
    data = json.loads(body)
    assert (data["schema"], data["event"], data["key"], data["host"]) == (1, "outage", "killed", "closet")
    assert (data["title"], data["text"], data["seconds"]) == ("closet: The web UI has failed", "Ü.", None)


# Mail


def parts(raw: bytes) -> email.message.EmailMessage:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    if not isinstance(message, email.message.EmailMessage):
        pytest.fail("no mail")
    return message


def test_mail(host: Host, mail_servers: list[Mail]) -> None:
    server = Mail()
    mail_servers.append(server)
    host.set(
        mail={
            "to": ["anna@example.org", "ben@example.org"],
            "from": "Closet <closet@example.org>",
            "server": "127.0.0.1",
            "port": server.port,
        }
    )
    host.post(title="Es ist “aus”", text="Zeile 1\n.\nZeile 3: ü")
    assert host.run() == "sent by mail: closet: Es ist “aus”\n"
    ((sender, recipients, raw),) = server.mails
    assert "closet@example.org" in sender
    assert recipients == ["anna@example.org", "ben@example.org"]
    message = parts(raw)
    assert (message["Subject"], message["Auto-Submitted"]) == ("closet: Es ist “aus”", "auto-generated")
    assert message["To"] == "anna@example.org, ben@example.org"
    assert message["Date"] and message["Message-ID"]
    assert message.get_content().replace("\r\n", "\n").startswith("Zeile 1\n")
    assert "Zeile 3: ü.\n\nMore on the host: sd-watchdog status\n" in message.get_content().replace("\r\n", "\n")


def test_mail_with_a_login_goes_encrypted(host: Host, mail_servers: list[Mail], tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    server = Mail((certificate, key), login=f"anna:{TOKEN}")
    mail_servers.append(server)
    mail = {"to": ["anna@example.org"], "server": "127.0.0.1", "port": server.port, "starttls": True}
    host.set(mail={**mail, "user": "anna", "password": TOKEN})
    host.post()
    with host.running() as process:
        if process.stdout is None:
            pytest.fail("no pipe")
        assert "mail: 127.0.0.1 cannot be reached (its certificate is not trusted: self" in process.stdout.readline()
    assert "sent by mail" in host.run(SSL_CERT_FILE=certificate)
    assert [line for line in server.lines if line.startswith("AUTH")]
    host.set(mail={**mail, "user": "anna", "password": f"{TOKEN}x"})
    host.post("warning")
    with host.running(SSL_CERT_FILE=certificate) as process:
        if process.stdout is None:
            pytest.fail("no pipe")
        line = process.stdout.readline()
    assert line.startswith("mail: 127.0.0.1 refused the login (status 535); look at watchdog_mail_user and")
    assert TOKEN not in line


@pytest.mark.parametrize(
    ("mail", "words"),
    [
        ({"server": "127.0.0.1", "port": 9}, "mail: 127.0.0.1 cannot be reached (Connection refused)."),
        ({"to": ["-bs"]}, "mail: watchdog_mail_to holds something that is no address"),
        ({"to": ["anna\n"]}, "mail: watchdog_mail_to holds something that is no address"),
        ({"to": ["anna@example.org\r\nRCPT"]}, "mail: watchdog_mail_to holds something that is no address"),
        ({"from": "a\nb@example.org"}, "mail: watchdog_mail_from is no address"),
        ({}, "/usr/sbin/sendmail; set watchdog_mail_server, or install a mail server."),
    ],
)
def test_mail_that_cannot_be_sent(host: Host, mail: dict[str, Any], words: str) -> None:
    host.set(mail={"to": ["anna@example.org"], **mail})
    host.post()
    with host.running() as process:
        if process.stdout is None:
            pytest.fail("no pipe")
        line = process.stdout.readline()
    assert words in line
    assert TOKEN not in line


def test_a_password_does_not_travel_in_clear(host: Host, mail_servers: list[Mail]) -> None:
    server = Mail(login=f"anna:{TOKEN}", address="127.0.0.2")
    mail_servers.append(server)
    mail = {"to": ["anna@example.org"], "user": "anna", "password": TOKEN, "port": server.port}
    host.set(mail={**mail, "server": "127.0.0.2"})
    host.post()
    with host.running() as process:
        if process.stdout is None:
            pytest.fail("no pipe")
        line = process.stdout.readline()
    assert "the password would go to 127.0.0.2 in clear; set watchdog_mail_starttls: true." in line
    assert not [line for line in server.lines if line.startswith("AUTH")]
    # A server that offers no encryption does not get it either.
    host.set(mail={**mail, "server": "127.0.0.2", "starttls": True})
    with host.running() as process:
        if process.stdout is None:
            pytest.fail("no pipe")
        assert "offers no STARTTLS" in process.stdout.readline()


def test_some_get_it_and_some_do_not(host: Host, mail_servers: list[Mail]) -> None:
    server = Mail(refused=("gone@example.org",))
    mail_servers.append(server)
    mail = {"server": "127.0.0.1", "port": server.port}
    host.set(mail={**mail, "to": ["gone@example.org", "anna@example.org"]})
    host.post()
    assert "mail: 127.0.0.1 took no mail for gone@example.org; look at watchdog_mail_to." in host.run()
    assert len(server.mails) == 1
    host.set(mail={**mail, "to": ["gone@example.org"]})
    host.post("warning")
    with host.running() as process:
        if process.stdout is None:
            pytest.fail("no pipe")
        assert "mail: 127.0.0.1 takes no mail for gone@example.org" in process.stdout.readline()


def test_mail_by_the_hosts_own_program(host: Host) -> None:
    program = host.root / "usr/sbin/sendmail"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$@" > {host.root}/words\nexec cat > {host.root}/mail\n', encoding="utf-8")
    program.chmod(0o755)
    host.set(mail={"to": ["root@localhost", "anna"], "from": "closet@localhost", "server": ""})
    host.post()
    host.run()
    assert (host.root / "words").read_text(encoding="utf-8") == "-i -f closet@localhost -- root@localhost anna\n"
    assert parts((host.root / "mail").read_bytes())["Subject"] == "closet: The web UI has failed"
    program.write_text("#!/bin/sh\necho no space >&2\nexit 75\n", encoding="utf-8")
    host.post("warning")
    with host.running() as process:
        if process.stdout is None:
            pytest.fail("no pipe")
        assert "usr/sbin/sendmail ended with status 75 (no space). Tried again" in process.stdout.readline()


# By hand


def test_a_test_alert_says_what_came_of_each_way(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}", "token": TOKEN}, webhook={"url": "http://127.0.0.1:9/x"})
    done = subprocess.run(
        [sys.executable, "-BEs", str(ALERT.with_name("command.py")), "test-alert"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "SD_WATCHDOG_ROOT": str(host.root)},
    )
    assert (done.returncode, done.stdout) == (1, "ntfy: sent.\n")
    assert done.stderr == "error: webhook: 127.0.0.1:9 cannot be reached (Connection refused).\n"
    assert web.got[0][1]["Title"].endswith("test alert")


def test_levels_for_the_journal(host: Host, web: Web) -> None:
    host.set(ntfy={"url": f"{web.address}/{TOPIC}"})
    web.statuses = [500]
    host.post()
    lines = host.run(JOURNAL_STREAM="1:2").splitlines()
    assert [line[:3] for line in lines] == ["<4>", "<5>"]
