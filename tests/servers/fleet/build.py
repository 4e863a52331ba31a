#!/usr/bin/env python3
# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs the light web UI as releases that role sd_webui deploys: build.py FOLDER. README.md says what it is.

Prints path and SHA-256 of each version as JSON. The same sources make the same archives.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

TREE = Path(__file__).resolve().parent / "release"
VERSIONS = ("1.10.1", "1.10.2")
# Of the Debian releases that a web UI of this family runs on without a Python of its own, and Debian 13's.
PYTHONS = ("3.9", "3.11", "3.13")


def files(version: str) -> Iterator[tuple[str, bytes]]:
    """What a release holds, by its path: upstream's folder, and a virtual environment without packages."""
    build = {"schema": 1, "engine": "automatic1111", "version": version, "debian": "11", "cpu_features": []}
    yield "build.json", json.dumps(build).encode() + b"\n"
    yield "webui/release.txt", f"{version}\n".encode()
    for path in sorted(TREE.rglob("*.py")):
        name = path.relative_to(TREE).as_posix()
        if name.startswith("webui/"):
            yield name, path.read_bytes()
        else:
            for python in PYTHONS:
                yield f"venv/lib/python{python}/site-packages/{name}", path.read_bytes()
    yield "venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\n"


def pack(version: str) -> bytes:
    """The archive, with names as pack.yml makes them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        folders: set[str] = set()
        for name, content in files(version):
            for parent in reversed(Path(name).parents):
                if parent.as_posix() not in folders:
                    folders.add(parent.as_posix())
                    entry = tarfile.TarInfo("." if parent == Path() else f"./{parent}")
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
            entry = tarfile.TarInfo(f"./{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
        folder = tarfile.TarInfo("./venv/bin")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        link = tarfile.TarInfo("./venv/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, "/usr/bin/python3"
        archive.addfile(link)
    return gzip.compress(packed.getvalue(), mtime=0)


def main() -> None:
    """Into a folder."""
    if len(sys.argv) != 2:
        sys.exit("usage: build.py FOLDER")
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    said = {}
    for version in VERSIONS:
        path, content = folder / f"light-{version}.tar.gz", pack(version)
        path.write_bytes(content)
        said[version] = {"path": str(path), "sha256": hashlib.sha256(content).hexdigest()}
    print(json.dumps(said, indent=2))


if __name__ == "__main__":
    main()
