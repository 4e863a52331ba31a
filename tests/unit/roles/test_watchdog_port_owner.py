# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has a port or a card, in a made-up /proc and in the real one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from sd_watchdog import port_owner, who

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(address: str, state: str, inode: int, uid: int = 33) -> str:
    """A line of /proc/net/tcp."""
    return f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid:5} 0 {inode} 1 0 100\n"


def process(root: Path, pid: int, name: str, cgroup: str, *opened: str) -> None:
    """A process in a made-up /proc."""
    folder = root / f"proc/{pid}"
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(name + "\n", encoding="utf-8")
    (folder / "cgroup").write_text(cgroup, encoding="utf-8")
    for number, target in enumerate(opened):
        (folder / f"fd/{number}").symlink_to(target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host on which nginx listens on 7860 (1EB4) by IPv6, and others elsewhere."""
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/tcp").write_text(
        HEAD + line("0100007F:0016", "0A", 1) + line("0100007F:1EB4", "01", 2), encoding="utf-8"
    )
    (tmp_path / "proc/net/tcp6").write_text(HEAD + line("0" * 32 + ":1EB4", "0A", 3), encoding="utf-8")
    process(tmp_path, 1, "systemd", "0::/init.scope\n", "/dev/null")
    process(tmp_path, 90, "sshd", "0::/system.slice/ssh.service\n", "socket:[1]")
    process(tmp_path, 123, "nginx", "0::/system.slice/nginx.service\n", "/dev/null", "socket:[3]")
    process(tmp_path, 124, "nginx", "0::/system.slice/nginx.service\n", "socket:[3]")
    (tmp_path / "proc/125").mkdir()
    (tmp_path / "proc/self").mkdir()
    return tmp_path


def test_the_first_process_of_the_unit_is_named(root: Path) -> None:
    assert port_owner.find(root, 7860) == "nginx (process 123, nginx.service)"
    assert port_owner.find(root, 22) == "sshd (process 90, ssh.service)"
    assert port_owner.find(root, 80) == ""


def test_a_socket_that_systemd_keeps_is_its_services(root: Path) -> None:
    (root / "proc/1/fd/7").symlink_to("socket:[3]")
    assert port_owner.find(root, 7860) == "nginx (process 123, nginx.service)"
    for pid in (123, 124):
        for name in (root / f"proc/{pid}/fd").iterdir():
            name.unlink()
    assert port_owner.find(root, 7860) == "systemd (process 1, init.scope)"


def test_a_listener_that_nobody_seems_to_have(root: Path) -> None:
    (root / "proc/net/tcp").write_text(HEAD + line("0100007F:1F40", "0A", 99, 1000), encoding="utf-8")
    assert port_owner.find(root, 8000) == "a program that cannot be seen from here (of the user with number 1000)"


def test_the_network_of_the_first_process_is_looked_at(root: Path) -> None:
    (root / "proc/1/net").mkdir()
    (root / "proc/1/net/tcp").write_text(HEAD + line("0100007F:1F40", "0A", 1), encoding="utf-8")
    assert port_owner.find(root, 8000) == "sshd (process 90, ssh.service)"
    assert port_owner.find(root, 7860) == ""


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        (
            "12:cpu,cpuacct:/system.slice/nginx.service\n1:name=systemd:/system.slice/nginx.service\n0::/\n",
            "nginx.service",
        ),
        ("1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n", "a.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n", "user@1000.service"),
        ("0::/system.slice/docker-0a.scope\n", "docker-0a.scope"),
        ("0::/init.scope\n", "init.scope"),
        ("0::/\n", ""),
        ("", ""),
        ("garbage\n", ""),
    ],
)
def test_units(tmp_path: Path, cgroup: str, unit: str) -> None:
    process(tmp_path, 5, "x", cgroup)
    assert who.unit_of(tmp_path, 5) == unit


def test_a_name_cannot_steer_a_terminal(tmp_path: Path) -> None:
    process(tmp_path, 5, "\x1b[2Jevil\nname\u202e", "0::/system.slice/\x1b[31m.service\n")
    assert who.describe(tmp_path, 5).isprintable()


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    assert who.describe(tmp_path, 5) == "a program (process 5)"
    assert list(who.pids(tmp_path)) == [] and list(who.opened(tmp_path, 5)) == []


def test_the_real_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = port_owner.find(Path("/"), port)
        assert f"(process {os.getpid()}" in found
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert port_owner.find(Path("/"), free.getsockname()[1]) == ""
