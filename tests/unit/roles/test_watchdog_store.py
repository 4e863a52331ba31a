# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that a power cut, a full disk, a foreign hand or a pipe in their place do not turn into a crash."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import resource
import signal
import stat
import time

import pytest
from sd_watchdog import store


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.json"
    content = {"schema": 1, "said": "späti\n", "list": [1.5, None, True]}
    store.write(path, content)
    assert store.read(path) == content
    store.write(path, {"schema": 2}, mode=0o600)
    assert store.read(path) == {"schema": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_its_mode_does_not_depend_on_the_umask(mode: int, tmp_path: pathlib.Path) -> None:
    before = os.umask(0o077)
    try:
        store.write(tmp_path / "state.json", {}, mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == mode


def test_a_file_that_is_missing(tmp_path: pathlib.Path) -> None:
    assert store.read(tmp_path / "state.json") is None
    assert store.read(tmp_path / "nothing/state.json") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"null", b"\0\0\0\0", b"\xff\xfe", b'{"a": 1}' + b" " * 70000, b"[" * 60000, b'{"a": 1}{}'],
)
def test_a_damaged_file_is_kept_once(content: bytes, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    assert store.read(path) is None
    assert (tmp_path / "state.json.damaged").read_bytes() == content and not path.exists()
    # The first one shows what happened; the later ones are overwritten by the next state.
    path.write_bytes(b"again")
    assert store.read(path) is None
    assert (tmp_path / "state.json.damaged").read_bytes() == content
    store.write(path, {"schema": 1})
    assert store.read(path) == {"schema": 1}


def test_a_folder_of_somebody_else_keeps_its_damaged_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_old: object, _new: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "gpu.json").write_bytes(b"{")
    monkeypatch.setattr(os, "rename", refuse)
    assert store.read(tmp_path / "gpu.json") is None


def test_how_much_may_be_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b'{"a": 1}')
    assert store.read(path, max_bytes=8) == {"a": 1}
    assert store.read(path, max_bytes=7) is None


def test_no_link_is_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text("{}", encoding="ascii")
    (tmp_path / "state.json").symlink_to("secret")
    assert store.read(tmp_path / "state.json") is None
    assert (tmp_path / "secret").read_text(encoding="ascii") == "{}"


def test_nothing_is_written_through_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text("mine", encoding="ascii")
    (tmp_path / "state.json.part").symlink_to("secret")
    (tmp_path / "state.json").symlink_to("secret")
    store.write(tmp_path / "state.json", {"a": 1})
    assert (tmp_path / "secret").read_text(encoding="ascii") == "mine"
    assert store.read(tmp_path / "state.json") == {"a": 1}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = pathlib.Path("/dev/zero")
        # It stays where it is.
        assert (path.is_char_device(), os.path.lexists("/dev/zero.damaged")) == (True, False)
        (tmp_path / "state.json").symlink_to("/dev/zero")
        path = tmp_path / "state.json"
    before = time.monotonic()
    assert store.read(path) is None
    assert time.monotonic() - before < 30


def test_a_disk_that_gets_full_leaves_the_old_content(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.json"
    store.write(path, {"kept": True})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError):
            store.write(path, {"long": "x" * 10000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert store.read(path) == {"kept": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_rest_of_a_power_cut_is_no_obstacle(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state.json.part").write_bytes(b"half of")
    store.write(tmp_path / "state.json", {"a": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_folder_that_is_missing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError):
        store.write(tmp_path / "nothing/state.json", {})


def test_a_reader_never_sees_half(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.json"
    store.write(path, {"text": "a" * 20000})
    with open(path, "rb") as opened:
        store.write(path, {"text": "b" * 20000})
        assert set(json.loads(opened.read())["text"]) == {"a"}
