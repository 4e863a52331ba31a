#!/usr/bin/env python3
# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make what the scenario's sources have, in a folder on the controller, and say as JSON what it is.

A Git repository with a model in Git LFS, a model of the controller's own, and a pickle. The repository is made without
Git LFS: a pointer is a small file, and what it points to lies beside the repository's objects.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path


def safetensors(size: int, seed: int) -> bytes:
    """A model of so many bytes and a bit."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([seed]) * size


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_repository(folder: Path, model: bytes, small: bytes) -> str:
    """A bare repository at `folder`; its commit."""
    work = folder.parent / "work"
    work.mkdir()
    git(work, "init", "--quiet", "--initial-branch=main")
    digest = hashlib.sha256(model).hexdigest()
    (work / "models").mkdir()
    (work / "models/big.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(model)}\n"
    )
    (work / "models/small.safetensors").write_bytes(small)
    (work / "README.md").write_text("A repository as the guide clones them.\n")
    git(work, "add", ".")
    git(work, "commit", "--quiet", "--message=Models")
    commit = git(work, "rev-parse", "HEAD")
    git(folder.parent, "clone", "--quiet", "--bare", str(work), str(folder))
    # As hubs have it.
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    stored = folder / "lfs/objects" / digest[:2] / digest[2:4] / digest
    stored.parent.mkdir(parents=True)
    stored.write_bytes(model)
    # What comes later, so that the commit is not the newest one.
    (work / "models/big.safetensors").unlink()
    git(work, "commit", "--quiet", "--all", "--message=Gone")
    git(work, "push", "--quiet", str(folder), "main")
    return commit


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    local = safetensors(300_000, 3)
    (folder / "local.safetensors").write_bytes(local)
    unsafe = pickle.dumps({"weight": [0.5] * 1000}, protocol=2)
    (folder / "annotator.pth").write_bytes(unsafe)
    # The beginning of a picture is all that tells what it is.
    (folder / "preview.jpeg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(500))
    commit = make_repository(folder / "models.git", safetensors(2_000_000, 1), safetensors(1000, 2))
    said = {"commit": commit, "local": str(folder / "local.safetensors"), "pickle": hashlib.sha256(unsafe).hexdigest()}
    (folder / "made.json").write_text(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
