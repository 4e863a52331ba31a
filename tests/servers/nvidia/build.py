# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes what NVIDIA serves, in a folder for a web server: python3 -m nvidia.build FOLDER. README.md says what."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from . import packages, repository, runfiles

# 580 is the last branch for Maxwell to Volta, 590 must not get in, and 560 is from before there were pins.
DRIVERS = ("560.35.05", "580.82.07", "580.95.05", "590.48.01")
TOOLKITS = ("12.8.1", "12.9.1", "13.0.2")


def branch_of(version: str) -> str:
    """590 of 590.48.01 and of 590."""
    return version.split(".")[0]


def repositories(top: Path) -> None:
    """compute/cuda/repos/<distribution>/x86_64, and spoiled ones beside it."""
    pool = top / "pool"
    pool.mkdir(parents=True)
    built: list[tuple[str, Path]] = []
    for version in DRIVERS:
        built += [(version, package.build(pool)) for package in packages.driver(version)]
    for branch, version in ((580, "580-1"), (590, "590-1")):
        built.append((str(branch), packages.pinning(branch, version).build(pool)))
    for version in TOOLKITS:
        built += [("", package.build(pool)) for package in packages.toolkit(version)]

    modern, old = repository.Key(), repository.Key(digest="SHA1")
    distributions = {"debian12": modern, "debian13": modern, "sha1": old, "only590": modern}
    for name, key in (*distributions.items(), ("unsigned", modern), ("tampered", modern), ("stranger", modern)):
        folder = top / "compute/cuda/repos" / name / "x86_64"
        folder.mkdir(parents=True)
        for version, package in built:
            if name != "only590" or branch_of(version) in ("", "590"):
                (folder / package.name).hardlink_to(package)
        distribution = name if name.startswith("debian") else "debian13" if name == "sha1" else "debian12"
        # What "stranger" serves is signed by another key than the one it hands out.
        packages.keyring(distribution, (old if name == "stranger" else key).public()).build(folder)
        repository.index(folder)
        if name != "unsigned":
            key.sign(folder)
        if name == "tampered":
            listing = (folder / "Packages").read_text().replace("580.95.05-1", "580.95.06-1")
            (folder / "Packages").write_text(listing)
            (folder / "Packages.gz").unlink()
    shutil.rmtree(pool)
    for key in (modern, old):
        shutil.rmtree(key.home, ignore_errors=True)


def installers(top: Path) -> None:
    """XFree86/Linux-x86_64/<version> with drivers, one of which no longer builds, and a CUDA Toolkit."""
    for version, builds in (("530.30.02", True), ("580.95.05", True), ("510.47.03", False)):
        folder = top / "XFree86/Linux-x86_64" / version
        folder.mkdir(parents=True)
        runfiles.driver(folder, version, builds=builds)
    folder = top / "compute/cuda/12.1.0/local_installers"
    folder.mkdir(parents=True)
    runfiles.cuda(folder, "12.1.0", "530.30.02")


def main() -> None:
    """Everything, in an empty folder."""
    top = Path(sys.argv[1])
    top.mkdir(parents=True, exist_ok=True)
    repositories(top)
    installers(top)


if __name__ == "__main__":
    main()
