# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service manager gets, and that no service manager is no failure."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sd_watchdog import notify


@contextlib.contextmanager
def manager(name: str) -> Iterator[socket.socket]:
    """Its end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stream:
        stream.bind(name)
        stream.settimeout(60)
        yield stream


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_all_that_is_said(kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"\0sd-watchdog-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
    with manager(name) as stream:
        notify.ready()
        notify.status("ready\nREADY=1 späti")
        notify.watchdog()
        notify.extend(30)
        notify.extend(0)
        notify.stopping()
        notify.notify("READY=1", "STATUS=both")
        told = [stream.recv(4096).decode() for _ in range(7)]
    assert told == [
        "READY=1",
        "STATUS=ready READY=1 späti",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=30000000",
        "EXTEND_TIMEOUT_USEC=1",
        "STOPPING=1",
        "READY=1\nSTATUS=both",
    ]


@pytest.mark.parametrize("name", [None, "", "relative", "/nonexistent/notify", "@nobody-listens", "/" + "x" * 200])
def test_without_a_service_manager(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if name is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify.ready()


class Full(socket.socket):
    """A socket through which no more goes until somebody reads at its other end, however much the kernel queues."""

    def connect(self, address: Any) -> None:
        super().connect(address)
        seconds = self.gettimeout()
        self.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.send(b"STATUS=before")
        self.settimeout(seconds)


def test_one_that_reads_nothing_is_not_waited_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(notify, "SEND_SECONDS", 0.1)
    thread = threading.Thread(target=notify.watchdog)
    with manager(str(tmp_path / "notify")) as stream:
        monkeypatch.setattr(socket, "socket", Full)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert stream.recv(4096) == b"STATUS=before"
    thread.join()
