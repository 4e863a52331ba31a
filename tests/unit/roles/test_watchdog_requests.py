# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the root part takes from the web UI's user: real folders with everything that user can put there."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from sd_watchdog import requests, untrusted
from sd_watchdog.requests import Request, RequestError

ID = "0123456789abcdef"
PROFILES = ("gpu_full", "cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the supervisor leaves a request."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "request.json"


def parse(**data: Any) -> Request:
    """The request of a supervisor."""
    return requests.parse({"id": ID, **data}, PROFILES, [7860])


def test_a_request_is_taken_once(path: Path) -> None:
    assert requests.take(path) is None
    path.write_text('{"id": "x"}', encoding="utf-8")
    assert requests.take(path) == {"id": "x"}
    assert list(path.parent.iterdir()) == [] and requests.take(path) is None


def test_no_folder_no_request(tmp_path: Path) -> None:
    assert requests.take(tmp_path / "nowhere/request.json") is None


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/request.json").write_text("{}", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(untrusted.Refused):
        requests.take(tmp_path / "link/request.json")
    assert (tmp_path / "real/request.json").exists()


def test_a_link_goes_and_what_it_points_to_stays(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text('{"id": "secret"}', encoding="utf-8")
    path.symlink_to(secret)
    with pytest.raises(untrusted.Refused) as refused:
        requests.take(path)
    assert "secret" not in str(refused.value)
    assert secret.read_text(encoding="utf-8") == '{"id": "secret"}' and not path.is_symlink()


def test_a_second_name_of_a_file_is_not_read(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text('{"id": "secret"}', encoding="utf-8")
    os.link(secret, path)
    with pytest.raises(untrusted.Refused, match="no ordinary file"):
        requests.take(path)
    assert secret.exists() and secret.stat().st_nlink == 1 and not path.exists()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_giant(path: Path) -> None:
    # Sparse: a terabyte that costs nothing to make.
    with open(path, "wb") as file:
        file.truncate(2**40)


def make_deep(path: Path) -> None:
    path.write_text('{"a":' + "[" * 65000, encoding="utf-8")


def make_long_number(path: Path) -> None:
    path.write_text("9" * 65000, encoding="utf-8")


def make_binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00{")


def make_list(path: Path) -> None:
    path.write_text("[]", encoding="utf-8")


def make_nothing(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    "make",
    [make_pipe, make_socket, make_giant, make_deep, make_long_number, make_binary, make_list, make_nothing],
)
def test_what_is_no_request_goes_away_at_once(path: Path, make: Any) -> None:
    make(path)
    begun = time.monotonic()
    with pytest.raises(untrusted.Refused):
        requests.take(path)
    assert time.monotonic() - begun < 30
    assert not os.path.lexists(path) and list(path.parent.iterdir()) == []


def test_a_folder_is_out_of_the_way_and_nothing_in_it_is_touched(path: Path) -> None:
    (path / "deep").mkdir(parents=True)
    (path / "deep/file").touch()
    with pytest.raises(untrusted.Refused):
        requests.take(path)
    assert not path.exists()
    (left,) = path.parent.iterdir()
    assert (left / "deep/file").exists()


def test_every_action() -> None:
    assert parse(action="profile", profile="cpu", reason=" two OOMs ") == Request(ID, "profile", "cpu", "two OOMs")
    assert parse(action="clear_profile", profile="cpu").action == "clear_profile"
    assert parse(action="name_port_owner", port=7860) == Request(ID, "name_port_owner", "", "", 7860)
    for action in ("roll_back", "reload_driver", "reboot"):
        assert parse(action=action) == Request(ID, action)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"action": None},
        {"action": "halt"},
        {"action": ["profile"]},
        {"action": "profile"},
        {"action": "profile", "profile": "gpu_lowvram"},
        {"action": "profile", "profile": "--help"},
        {"action": "profile", "profile": ["cpu"]},
        {"action": "profile", "profile": "cpu", "command": "sh"},
        {"action": "reboot", "profile": "../cpu"},
        {"action": "reboot", "reason": "x" * 301},
        {"action": "reboot", "reason": "two\nlines"},
        {"action": "reboot", "reason": "\x1b[2J"},
        {"action": "reboot", "reason": "\ud800"},
        {"action": "reboot", "reason": "\u202e"},
        {"action": "reboot", "reason": 5},
        {"action": "name_port_owner"},
        {"action": "name_port_owner", "port": 22},
        {"action": "name_port_owner", "port": "7860"},
        {"action": "name_port_owner", "port": True},
        {"action": "name_port_owner", "port": 7860.0},
        {"action": "reboot", "id": ""},
        {"action": "reboot", "id": "0123456789ABCDEF"},
        {"action": "reboot", "id": "0123456789abcdef\n"},
        {"action": "reboot", "id": "../../../../etc/"},
        {"action": "reboot", "id": 7},
    ],
)
def test_refused_without_an_echo(data: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        parse(**data)
    said = str(refused.value)
    assert said.isprintable() and len(said) < 200
    for value in data.values():
        text = value if isinstance(value, str) else json.dumps(value)
        assert len(text) < 5 or text in (*requests.ACTIONS, "7860") or text not in said
