# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repositories of the stand-in web UI: the same each time, with the flags of the real version."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest
from automatic1111 import build

ROOT = Path(__file__).resolve().parents[3]
FLAGS = ROOT / "roles/sd_webui/files/engines/automatic1111/flags.txt"
FOLDER = ROOT / "tests/servers/automatic1111"


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("automatic1111")
    (folder / "commits").write_text(str(build.build(folder / "repositories")))
    return folder


def checkout(top: Path, folder: Path, commit: str) -> Path:
    """A work tree of the web UI."""
    bare = top / "repositories/AUTOMATIC1111/stable-diffusion-webui.git"
    subprocess.run(["git", "clone", "--quiet", str(bare), str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", commit], check=True)
    return folder


def test_the_same_sources_have_the_same_ids(top: Path, tmp_path: Path) -> None:
    assert str(build.build(tmp_path)) == (top / "commits").read_text()


def test_it_knows_the_flags_of_the_real_one(top: Path, tmp_path: Path) -> None:
    tree = checkout(top, tmp_path / "webui", "webui-exit")
    script = """
import os, sys
sys.path.insert(0, os.getcwd())
import launch
from modules import cmd_args, shared
print(*sorted(name for name in cmd_args.parser._option_string_actions if name.startswith("--")))
"""
    done = subprocess.run([sys.executable, "-Bc", script], check=True, cwd=tree, capture_output=True, text=True)
    real = {line for line in FLAGS.read_text(encoding="utf-8").splitlines() if line.startswith("--")}
    assert set(done.stdout.split()) - {"--help"} == real - {"--help"}
    wrong = [sys.executable, "-Bc", script, "--no-such-flag"]
    assert subprocess.run(wrong, check=False, cwd=tree, capture_output=True).returncode == 2


def test_the_table_of_tokens_is_as_long_as_the_real_one(top: Path) -> None:
    bare = top / "repositories/openai/CLIP.git"
    command = ["git", "-C", str(bare), "show", "master:clip/bpe_simple_vocab_16e6.txt.gz"]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    lines = gzip.decompress(packed).decode().splitlines()
    assert len(lines) - 1 == 49152 - 256 - 2
    assert len(set(lines)) == len(lines)
    assert all(len(line.split(" ")) == 2 for line in lines[1:])


def test_the_lock_has_the_pins_and_hashes_for_all() -> None:
    lock = (FOLDER / "lock-python3.11.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^([a-z0-9-]+)==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n?)+)", lock, re.MULTILINE)
    found = {name: version for name, version, _hashes in entries}
    assert len(found) == len(re.findall(r"^[a-z0-9]", lock, re.MULTILINE))
    pins = (FOLDER / "trees/webui/requirements_versions.txt").read_text(encoding="utf-8").lower()
    for name, version in re.findall(r"^(\S+)==(\S+)$", pins, re.MULTILINE):
        assert found[name] in (version, f"{version}.0"), name
