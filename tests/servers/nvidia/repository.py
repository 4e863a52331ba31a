# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flat repositories, signed as NVIDIA's are: with a key of today, or with one whose self-signature is SHA-1."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tempfile
from email.utils import formatdate
from pathlib import Path

KEY_NAME = "cudatools <cudatools@nvidia.com>"


class Key:
    """A signing key in a key ring of its own."""

    def __init__(self, digest: str = "SHA512") -> None:
        # gpg-agent's socket has a short path at most.
        self.home = tempfile.mkdtemp(prefix="gpg-")
        # Debian 12's gpg would not make a key with a SHA-1 self-signature unasked; NVIDIA's 3bf863cc of 2022 has one.
        options = [f"--cert-digest-algo={digest}", "--passphrase="]
        self._gpg(*options, "--quick-generate-key", KEY_NAME, "rsa3072", "sign", "never")

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--batch", "--quiet", "--pinentry-mode=loopback", *arguments]
        environment = {**os.environ, "GNUPGHOME": self.home}
        return subprocess.run(command, check=True, capture_output=True, env=environment).stdout

    def public(self) -> bytes:
        """The key as apt wants it for signed-by."""
        return self._gpg("--export")

    def sign(self, folder: Path) -> None:
        """Make InRelease and Release.gpg of a folder's Release."""
        release = str(folder / "Release")
        common = ["--digest-algo=SHA512", "--yes", "--output"]
        self._gpg(*common, str(folder / "InRelease"), "--clear-sign", release)
        self._gpg(*common, f"{release}.gpg", "--armor", "--detach-sign", release)


def index(folder: Path) -> None:
    """Write Packages, Packages.gz and Release for the packages in a folder."""
    entries = []
    for path in sorted(folder.glob("*.deb")):
        fields = subprocess.run(["dpkg-deb", "--field", str(path)], check=True, capture_output=True, text=True).stdout
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append(f"{fields}Filename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {checksum}\n")
    packages = "\n".join(entries).encode()
    (folder / "Packages").write_bytes(packages)
    (folder / "Packages.gz").write_bytes(gzip.compress(packages))
    release = f"Origin: NVIDIA\nLabel: NVIDIA CUDA\nArchitecture: x86_64\nDate: {formatdate(usegmt=True)}\nSHA256:\n"
    for name in ("Packages", "Packages.gz"):
        data = (folder / name).read_bytes()
        release += f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n"
    (folder / "Release").write_text(release)
