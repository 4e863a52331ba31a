# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print, as JSON, what NVIDIA's repository offers this host for a driver branch. Changes nothing.

The newest package of a branch has to be named: cuda-drivers-580 takes any driver from 580 on, so it brings 590
(forums.developer.nvidia.com/t/353805), and apt's candidate is the newest of all until the pin is there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

KERNEL_MODULES = {"proprietary": "nvidia-kernel-dkms", "open": "nvidia-kernel-open-dkms"}
# What branches before 560 had in the place of nvidia-driver-cuda are Debian's names.
COMPUTE = (["nvidia-driver-cuda"], ["nvidia-smi", "libcuda1"])
DISPLAY = ["nvidia-driver", "nvidia-settings"]
# Wanted where they exist: from the repository in the same branch, else from Debian.
HELPERS = ["nvidia-modprobe", "nvidia-persistenced", "python3-pynvml"]


def run(command: list[str]) -> str:
    """Return what a command prints, or nothing where it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    return done.stdout


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparing: 580.95.05-1 is older than 580.105.08-1."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def branch_of(version: str) -> int:
    """Return 580 of 580.95.05-1 or 1:580.95.05-1; 0 where there is no number."""
    found = numbers(version.rpartition(":")[2])
    return found[0] if found else 0


def offers(names: list[str], url: str) -> dict[str, list[str]]:
    """Return the versions of each package in the repository, the newest first."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for line in run(["apt-cache", "madison", *names]).splitlines():
        name, version, origin = (part.strip() for part in line.split("|"))
        if origin.split()[0].rstrip("/") == url.rstrip("/"):
            found[name].append(version)
    return {name: sorted(versions, key=numbers, reverse=True) for name, versions in found.items()}


def known(names: list[str]) -> set[str]:
    """Return which packages apt could install from anywhere."""
    found, name = set(), ""
    for line in run(["apt-cache", "policy", *names]).splitlines():
        if line and not line[0].isspace():
            name = line.rstrip(":")
        elif line.strip().startswith("Candidate:") and "(none)" not in line:
            found.add(name)
    return found


def installed() -> dict[str, str]:
    """Return the installed packages with their versions."""
    listed = run(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\\n"])
    rows = (line.split() for line in listed.splitlines())
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def newest(versions: list[str], branch: int) -> str | None:
    """Return the newest version of a branch."""
    return next((version for version in versions if branch_of(version) == branch), None)


def choose(ask: dict[str, Any], have: dict[str, str]) -> dict[str, Any]:
    """Return the packages to install, as name=version, and those of the same branch that are missing here."""
    branch, kernel = ask["branch"], KERNEL_MODULES[ask["kernel_module"]]
    pinning = f"nvidia-driver-pinning-{branch}"
    names = [kernel, *COMPUTE[0], *COMPUTE[1], *DISPLAY, *HELPERS, pinning]
    offered, anywhere = offers(names, ask["url"]), known(names)
    compute = next((names for names in COMPUTE if all(newest(offered[name], branch) for name in names)), None)
    wanted = [kernel, *(compute or COMPUTE[0]), *(DISPLAY if ask["display"] else [])]
    versions = {name: newest(offered[name], branch) for name in wanted}
    packages = [f"{name}={version}" for name, version in versions.items() if version]
    for name in HELPERS:
        version = newest(offered[name], branch)
        if version or name in anywhere:
            packages.append(f"{name}={version}" if version else name)
    return {
        "branches": sorted({branch_of(version) for version in offered[kernel]}, reverse=True),
        "packages": packages if all(versions.values()) else [],
        "missing": sorted(name for name in wanted if branch_of(have.get(name, "")) != branch),
        "pinning": pinning if offered[pinning] else None,
        "other_pinning": sorted(name for name in have if name.startswith("nvidia-driver-pinning-") and name != pinning),
        "pinned": pinning in have or pins(ask["preferences_file"], branch),
    }


def pins(path: str, branch: int) -> bool:
    """Return whether the preferences file holds this branch."""
    try:
        return f"Pin: version {branch}." in Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def toolkits(ask: dict[str, Any], have: dict[str, str]) -> dict[str, Any]:
    """Return the newest CUDA toolkit of the wanted major release that the driver runs."""
    newest_cuda = numbers(ask["newest_cuda"])
    found = []
    for name in run(["apt-cache", "pkgnames", "cuda-toolkit-"]).split() if ask["cuda_major"] else []:
        match = re.fullmatch(r"cuda-toolkit-(\d+)-(\d+)", name)
        if match:
            found.append((int(match.group(1)), int(match.group(2))))
    fitting = [release for release in sorted(found) if release[0] == ask["cuda_major"] and release <= newest_cuda]
    return {
        "offered": [f"{major}.{minor}" for major, minor in sorted(found)],
        "package": "cuda-toolkit-{}-{}".format(*fitting[-1]) if fitting else None,
        "installed": sorted(name for name in have if re.fullmatch(rf"cuda-toolkit-{ask['cuda_major']}-\d+", name)),
    }


def has_source(path: str, line: str) -> bool:
    """Return whether the sources file holds this line, and no other that apt reads."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return [text.strip() for text in lines if text.strip() and not text.startswith("#")] == [line]


def main() -> None:
    """Answer the questions given as the JSON argument."""
    ask = json.loads(sys.argv[1])
    have = installed()
    # The key of another Debian release is another one, in a package of the same name and version.
    keyring = ask["sources_file"] in run(["dpkg-query", "--listfiles", "cuda-keyring"]).split()
    answer = {
        "keyring": keyring and "cuda-keyring" in have,
        "source": has_source(ask["sources_file"], ask["source_line"]),
        "driver": choose(ask, have),
        "toolkit": toolkits(ask, have),
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
