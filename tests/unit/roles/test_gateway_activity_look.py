# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role gateway sees of a server, by the script as Ansible hands it to python3, with real listeners."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ports
import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "roles/gateway/files/look_at_server.py"
# Everything runs and starts at boot, but what a file beside it names.
SYSTEMCTL = """#!/bin/sh
for unit; do :; done
state=active enabled=enabled
grep -qx "stopped $unit" "{folder}/units" 2>/dev/null && state=inactive
grep -qx "disabled $unit" "{folder}/units" 2>/dev/null && enabled=disabled
printf 'ActiveState=%s\\nUnitFileState=%s\\n' "$state" "$enabled"
"""
# The table in force, and the one that rules make: what stands in a file, and what comes.
NFT = """#!/bin/sh
[ "$1" = -f ] && exec cat >"{folder}/made"
[ -e "{folder}/made" ] && exec cat "{folder}/made"
exec cat "{folder}/table"
"""
UNSHARE = """#!/bin/sh
shift
"$@"
status=$?
rm -f "{folder}/made"
exit $status
"""


class Host:
    """A server as the role wants it: one part, and what it is made of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, text in (("systemctl", SYSTEMCTL), ("nft", NFT), ("unshare", UNSHARE)):
            path = folder / "bin" / name
            path.write_text(text.format(folder=folder), encoding="utf-8")
            path.chmod(0o755)
        self.file = folder / "unit"
        self.file.write_text("[Unit]\n")
        self.file.chmod(0o644)
        self.models = folder / "by-sha256"
        self.rules = "the rules\n"
        (folder / "table").write_text(self.rules)
        self.wanted = True
        self.unwanted: list[str] = []

    def look(self, name: str, port: int = 1, patience: float = 0) -> dict[str, Any]:
        """What is seen of this part, the only one; the others are switched off."""
        parts: dict[str, Any] = {
            part: {"unit": f"{part}.service", "wanted": False, "files": {}, "unwanted": []}
            for part in ("firewall", "activity", "mirror")
        }
        wanted = f"0644 {hashlib.sha256(b'[Unit]' + bytes([10])).hexdigest()}"
        parts[name] |= {"wanted": self.wanted, "files": {str(self.file): wanted}, "unwanted": self.unwanted}
        asked = {
            "parts": parts,
            "rules": self.rules,
            "agent": ["127.0.0.1", port],
            "mirror": ["127.0.0.1", port, str(self.models)],
            "packages": ["dpkg", "no-such-package"],
            "packages_file": str(self.folder / "packages"),
            "patience": patience,
        }
        done = subprocess.run(
            [sys.executable, "-B", "-"],
            input=f"{SCRIPT.read_text(encoding='utf-8')}\n\nmain({json.dumps(json.dumps(asked))})",
            env={"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen

    def faults(self, name: str, port: int = 1) -> list[str]:
        found: list[str] = self.look(name, port)["parts"][name]["faults"]
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# A part


def test_a_part_that_is_as_it_is_wanted(host: Host) -> None:
    assert host.look("firewall")["parts"]["firewall"] == {"wrong": [], "left": [], "faults": []}


@pytest.mark.parametrize("fault", ["missing", "content", "mode"])
def test_a_file_that_is_not(host: Host, fault: str) -> None:
    if fault == "missing":
        host.file.unlink()
    elif fault == "content":
        host.file.write_text("[Service]\n")
    else:
        host.file.chmod(0o600)
    part = host.look("firewall")["parts"]["firewall"]
    assert part["wrong"] == [str(host.file)] and part["faults"]


def test_what_is_wanted_no_more(host: Host) -> None:
    host.unwanted = [str(host.folder / "drop-in"), str(host.folder / "none")]
    (host.folder / "drop-in").touch()
    assert host.look("firewall")["parts"]["firewall"]["left"] == [str(host.folder / "drop-in")]
    host.wanted = False
    part = host.look("firewall")["parts"]["firewall"]
    assert part == {"wrong": [], "left": [str(host.file), str(host.folder / "drop-in")], "faults": []}


@pytest.mark.parametrize(("state", "said"), [("stopped", "does not run"), ("disabled", "does not start at boot")])
def test_a_unit_that_does_not_run(host: Host, state: str, said: str) -> None:
    (host.folder / "units").write_text(f"{state} firewall.service\n")
    assert host.faults("firewall") == [f"firewall.service {said}"]


def test_another_table_in_force(host: Host) -> None:
    (host.folder / "table").write_text("what somebody has made of it\n")
    assert host.faults("firewall") == ["the table inet sd_gateway in force is not the one of firewall.service"]
    (host.folder / "table").unlink()
    assert host.faults("firewall") == ["the table inet sd_gateway in force is not the one of firewall.service"]


def test_without_namespaces_any_table_will_do(host: Host) -> None:
    (host.folder / "bin/unshare").write_text("#!/bin/sh\nexit 1\n")
    (host.folder / "table").write_text("another\n")
    assert host.faults("firewall") == []
    (host.folder / "table").unlink()
    assert len(host.faults("firewall")) == 1


def test_packages_and_addresses(host: Host) -> None:
    (host.folder / "packages").write_text("lighttpd\nlibnettle8\n")
    seen = host.look("firewall")
    assert seen["packages"] == ["no-such-package"]
    assert seen["recorded"] == ["lighttpd", "libnettle8"]
    assert "127.0.0.1" in seen["addresses"]


def test_a_port_that_somebody_else_has(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = host.look("activity", port)["strangers"]
        assert len(found["activity"]) == 1 and found["mirror"] == []
        # A part that is not wanted needs no port.
        host.wanted = False
        assert host.look("activity", port)["strangers"] == {"activity": [], "mirror": []}


# The agent check


@contextmanager
def agent(word: bytes) -> Iterator[int]:
    """Says this word to whoever asks."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            assert self.request.recv(100) == b"page\n"
            self.request.sendall(word)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


@pytest.mark.parametrize(
    ("word", "is_right"),
    [
        (b"ready up 100% maxconn:2\n", True),
        (b"ready up 0%\n", True),
        (b"down\n", False),
        (b"ready up 0%", False),
        (b"", False),
    ],
)
def test_the_agent_check_says_a_word(host: Host, word: bytes, is_right: bool) -> None:
    with agent(word) as port:
        assert (host.faults("activity", port) == []) == is_right


def test_no_agent_check(host: Host) -> None:
    assert host.faults("activity") == ["the agent check at 127.0.0.1:1 says no word that HAProxy knows"]


def test_waits_for_what_is_not_there_yet(host: Host) -> None:
    def later() -> None:
        held.listen()
        connection, _address = held.accept()
        assert connection.recv(100) == b"page\n"
        connection.sendall(b"ready up 0%\n")
        connection.close()

    # Until somebody listens there, it refuses.
    with ports.hold() as held:
        thread = threading.Timer(1.5, later)
        thread.start()
        assert host.look("activity", ports.number(held), patience=60)["parts"]["activity"]["faults"] == []
        thread.join()


# The mirror


class Mirror(ThreadingHTTPServer):
    """Has what is in the folder, and does what a test wants of it."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.other: dict[str, int] = {}
        self.cut = 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        path = self.server.folder / self.path[1:]
        is_model = len(self.path) == 65 and path.is_file()
        body = path.read_bytes()[: len(path.read_bytes()) - self.server.cut] if is_model else b""
        self.send_response(self.server.other.get(self.path, 200 if is_model else 403))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def mirror(host: Host) -> Iterator[Mirror]:
    host.models.mkdir()
    with Mirror(host.models) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def add(host: Host, content: bytes) -> str:
    """A model behind its link."""
    name = hashlib.sha256(content).hexdigest()
    (host.folder / f"{name[:8]}.safetensors").write_bytes(content)
    (host.models / name).symlink_to(host.folder / f"{name[:8]}.safetensors")
    return name


def test_a_mirror_that_serves_models_and_nothing_else(host: Host, mirror: Mirror) -> None:
    assert host.faults("mirror", mirror.port) == []
    add(host, b"weights")
    (host.models / ("f" * 64)).symlink_to("/nonexistent")
    assert host.faults("mirror", mirror.port) == []


def test_a_mirror_that_serves_half_a_model(host: Host, mirror: Mirror) -> None:
    name = add(host, b"weights")
    mirror.cut = 3
    said = f"answers with status 200 and 4 bytes for {host.models}/{name}, which has 7"
    assert host.faults("mirror", mirror.port) == [f"the mirror of models at 127.0.0.1:{mirror.port} {said}"]


@pytest.mark.parametrize("path", ["/", "/../../../../etc/passwd", "/..%2f..%2f..%2f..%2fetc%2fpasswd", "/" + "0" * 64])
def test_a_mirror_that_serves_more(host: Host, mirror: Mirror, path: str) -> None:
    mirror.other = {path: 200}
    said = f"the mirror of models at 127.0.0.1:{mirror.port} answers with status 200 for {path}"
    assert host.faults("mirror", mirror.port) == [said]


def test_no_mirror(host: Host) -> None:
    assert host.faults("mirror") == ["the mirror of models at 127.0.0.1:1 does not answer"]
    host.models.mkdir()
    add(host, b"weights")
    assert host.faults("mirror") == ["the mirror of models at 127.0.0.1:1 does not answer"]
