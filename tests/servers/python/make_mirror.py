#!/usr/bin/env python3
"""Makes a mirror of Pythons for uv out of Debian 12's own Python 3.11, laid out as python-build-standalone's releases.

Run on a Debian 12 host: make_mirror.py FOLDER URL, where URL is where FOLDER will be served. Leaves the archive and
downloads.json, the list that uv reads (UV_PYTHON_DOWNLOADS_JSON_URL). The real mirror cannot be reached from here; its
archives hold the same: a folder python/ with bin/ and lib/.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tarfile
from pathlib import Path

TARGET = "x86_64-unknown-linux-gnu"


def make_archive(folder: Path, version: str) -> Path:
    """Pack the interpreter and its standard library."""
    minor = version.rpartition(".")[0]
    path = folder / f"cpython-{version}+20230101-{TARGET}-install_only.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(f"/usr/bin/python{minor}", f"python/bin/python{minor}")
        for name in ("python3", "python"):
            link = tarfile.TarInfo(f"python/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, f"python{minor}"
            archive.addfile(link)
        archive.add(f"/usr/lib/python{minor}", f"python/lib/python{minor}", filter=wanted)
    return path


def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """No caches, not the mark that keeps pip out of Debian's own, and nothing that lies outside (sitecustomize.py)."""
    outside = member.issym() and member.linkname.startswith("/")
    return None if outside or member.name.endswith(("__pycache__", "EXTERNALLY-MANAGED")) else member


def main() -> None:
    folder, url = Path(sys.argv[1]), sys.argv[2].rstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    version = platform.python_version()
    archive = make_archive(folder, version)
    major, minor, patch = (int(number) for number in version.split("."))
    entry = {
        "name": "cpython",
        "arch": {"family": "x86_64", "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": f"{url}/{archive.name}",
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "variant": None,
        "build": "20230101",
    }
    listed = {f"cpython-{version}-linux-x86_64-gnu": entry}
    (folder / "downloads.json").write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
