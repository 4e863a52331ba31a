# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links by SHA-256 that role model_fetch offers to other servers, made by the process that it runs on a host."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import FileIndex, measure

SCRIPT = Path(__file__).resolve().parents[3] / "roles/model_fetch/files/manifest.py"


class Share:
    """A host with a store, an index, and the folder with the links."""

    def __init__(self, root: Path) -> None:
        self.store, self.folder = root / "models", root / "state/by-sha256"
        self.index = FileIndex(str(root / "state/files.sqlite3"))

    def __call__(self, step: str = "share", wanted: bool = True, **more: Any) -> dict[str, Any]:
        share = {"folder": str(self.folder), "index": self.index.path, "folders": [str(self.store)], "wanted": wanted}
        asked: dict[str, Any] = {"step": step, **share, **more}
        if step == "look":
            asked = {
                "step": step,
                "manifest": "/nonexistent",
                "store": "",
                "keys": [],
                "owner": "root",
                "group": "root",
            }
            asked |= {"folders": [], "packages": [], "scanner": "", "watch": {}, "share": {**share, **more}}
        program = f"{SCRIPT.read_text()}\n\nmain({json.dumps(json.dumps(asked))})"
        done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def add(self, name: str, content: bytes, folder: Path | None = None) -> Path:
        """A model that was fetched and verified."""
        path = (folder or self.store) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.index.remember(str(path), measure(str(path)))
        return path

    def links(self) -> dict[str, str]:
        return {path.name: os.readlink(path) for path in self.folder.iterdir()}

    def is_right(self, wanted: bool = True) -> bool:
        return bool(self("look", wanted)["shared"])


@pytest.fixture
def share(tmp_path: Path) -> Share:
    return Share(tmp_path)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_each_verified_model_has_a_link_once(share: Share) -> None:
    one, two = share.add("checkpoint/one.safetensors", b"one"), share.add("lora/two.safetensors", b"two")
    assert not share.is_right()
    assert share() == {"changed": sorted([str(share.folder), digest(b"one"), digest(b"two")]), "shared": 2}
    assert share.links() == {digest(b"one"): str(one), digest(b"two"): str(two)}
    assert (share.folder / digest(b"one")).read_bytes() == b"one"
    assert stat.S_IMODE(share.folder.stat().st_mode) == 0o755
    assert share.is_right()
    assert share() == {"changed": [], "shared": 2}


def test_what_was_not_verified_is_not_offered(share: Share) -> None:
    share.store.mkdir()
    (share.store / "copied.safetensors").write_bytes(b"by somebody")
    assert share()["shared"] == 0
    assert share.links() == {} and share.is_right()


def test_what_has_changed_or_gone_is_offered_no_more(share: Share) -> None:
    changed, gone, kept = (share.add(name, name.encode()) for name in ("changed", "gone", "kept"))
    share()
    changed.write_bytes(b"other weights")
    gone.unlink()
    assert not share.is_right()
    assert share()["changed"] == sorted([digest(b"changed"), digest(b"gone")])
    assert share.links() == {digest(b"kept"): str(kept)}


def test_a_link_that_leads_elsewhere_is_mended(share: Share, tmp_path: Path) -> None:
    model = share.add("model", b"weights")
    share()
    link = share.folder / digest(b"weights")
    link.unlink()
    (tmp_path / "secret").write_text("not a model")
    link.symlink_to(tmp_path / "secret")
    (share.folder / "passwd").symlink_to("/etc/passwd")
    (share.folder / "file").write_text("not a link")
    assert not share.is_right()
    assert share()["changed"] == sorted([digest(b"weights"), "passwd", "file"])
    assert share.links() == {digest(b"weights"): str(model)}


def test_only_models_of_the_store(share: Share, tmp_path: Path) -> None:
    share.add("private", b"fetched by somebody else", folder=tmp_path / "home")
    # Its name begins as the store's does.
    share.add("private", b"another folder", folder=tmp_path / "models-of-mine")
    assert share()["shared"] == 0


def test_another_store_keeps_its_links(share: Share, tmp_path: Path) -> None:
    first = share.add("model", b"of the first")
    share()
    other = share.add("model", b"of the other", folder=tmp_path / "other")
    share(folders=[str(tmp_path / "other")])
    assert share.links() == {digest(b"of the first"): str(first), digest(b"of the other"): str(other)}
    assert share.is_right()


def test_the_same_content_twice_is_one_link_that_stays(share: Share) -> None:
    second = share.add("b", b"same")
    share()
    share.add("a", b"same")
    assert share.is_right()
    assert share() == {"changed": [], "shared": 1}
    second.unlink()
    share()
    assert share.links() == {digest(b"same"): str(share.store / "a")}


def test_no_folder_where_nothing_is_to_be_shared(share: Share) -> None:
    share.add("model", b"weights")
    assert share.is_right(wanted=False)
    share()
    assert not share.is_right(wanted=False)
    share(wanted=False)
    assert not share.folder.exists() and share.is_right(wanted=False)
    assert share(wanted=False) == {"changed": [], "shared": 0}


def test_a_damaged_index_offers_nothing(share: Share) -> None:
    share.add("model", b"weights")
    share()
    Path(share.index.path).write_bytes(b"not a database")
    assert share()["shared"] == 0
    assert share.links() == {}


def test_what_is_no_file_is_not_offered(share: Share, tmp_path: Path) -> None:
    model = share.add("model", b"weights")
    target = tmp_path / "target"
    model.rename(target)
    # A link to the very file is the file.
    model.symlink_to(target)
    assert share()["shared"] == 1
    model.unlink()
    model.mkdir()
    assert share()["shared"] == 0
