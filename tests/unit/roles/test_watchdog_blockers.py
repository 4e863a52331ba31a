# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps an engine from starting: real ports, real folders."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from sd_watchdog import blockers, model
from sd_watchdog.config import Config, Engine


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """One that writes to its outputs, in a data directory that it may only read."""
    (tmp_path / "outputs").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    known: dict[str, Any] = dict.fromkeys(Engine.__dataclass_fields__, "")
    known.update(address="127.0.0.1", port=port, data_dir="/proc", outputs_dir=str(tmp_path / "outputs"), write_dirs=())
    return Engine(**known)


def test_nothing_is_in_the_way(engine: Engine) -> None:
    assert blockers.find(engine) is None


def test_a_program_that_listens(engine: Engine) -> None:
    with socket.socket() as stranger:
        stranger.bind((engine.address, engine.port))
        stranger.listen()
        found = blockers.find(engine)
    assert found is not None and found.reason == model.PORT_TAKEN


def test_connections_that_are_still_closing(engine: Engine) -> None:
    """As sd-server leaves them: without SO_REUSEADDR on its side they refuse a bind for a minute."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((engine.address, engine.port))
        server.listen()
        with socket.create_connection((engine.address, engine.port)):
            server.accept()[0].close()
    assert blockers.find(engine) is None


def test_a_folder_that_is_gone(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "outputs").rmdir()
    found = blockers.find(engine)
    assert found is not None and found.reason == model.READ_ONLY and str(tmp_path / "outputs") in found.said


def test_little_space_is_said_and_waits_for_nobody(engine: Engine) -> None:
    assert blockers.warnings(engine, Config(disk_low_mib=0)) == []
    found = blockers.warnings(engine, Config(disk_low_mib=10**9))
    assert [blocker.reason for blocker in found] == ["disk_low"]
    assert "watchdog_keep_outputs_days" in found[0].said
