"""What Debian's own packages say of NVIDIA's devices and drivers, release by release."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Callable

import pytest

CODENAMES = {"11": "bullseye", "12": "bookworm", "13": "trixie"}
# NVIDIA's own, and SGS-Thomson's joint one with it for the first chips.
VENDORS = ("10de", "12d2")

Package = Callable[[str, str], pathlib.Path]
Names = Callable[[str], dict[str, str]]
Drivers = Callable[[str], dict[str, int]]


@pytest.fixture(scope="session")
def pci_names(debian_package: Package) -> Names:
    """Gives NVIDIA's devices in the pci.ids of a release: "10de:1380" -> "GM107 [GeForce GTX 750 Ti]"."""
    found: dict[str, dict[str, str]] = {}

    def names(release: str) -> dict[str, str]:
        if release not in found:
            path = debian_package(CODENAMES[release], "pci.ids") / "usr/share/misc/pci.ids"
            devices, vendor = {}, ""
            for line in path.read_text(encoding="utf-8").splitlines():
                # Device classes, which look like vendors, come last.
                if line.startswith("C "):
                    break
                if re.match("[0-9a-f]{4}  ", line):
                    vendor = line[:4]
                elif vendor in VENDORS and re.match("\t[0-9a-f]{4}  ", line):
                    devices[f"{vendor}:{line[1:5]}"] = line[7:].strip()
            assert len(devices) > 1500, f"{path} has {len(devices)} NVIDIA devices"
            found[release] = devices
        return found[release]

    return names


@pytest.fixture(scope="session")
def driver_packages(debian_package: Package) -> Drivers:
    """Gives the driver packages of a release that are more than a dependency on another one, with their branch."""

    def drivers(release: str) -> dict[str, int]:
        # The folder in which apt knows this release, above that of an unpacked package.
        root = debian_package(CODENAMES[release], "nvidia-detect").parents[1]

        def apt_cache(*words: str) -> str:
            environment = {**os.environ, "APT_CONFIG": str(root / "apt.conf")}
            return subprocess.run(
                ["apt-cache", *words], env=environment, capture_output=True, text=True, check=True, timeout=60
            ).stdout

        names = [
            name
            for name in apt_cache("pkgnames", "nvidia-").split()
            if re.fullmatch(r"nvidia(-tesla|-legacy)?(-\d+(xx)?)?-driver", name)
        ]
        branches = {}
        for stanza in apt_cache("show", "--no-all-versions", *names).split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.MULTILINE))
            if "," in fields.get("Depends", ""):
                branches[fields["Package"]] = int(fields["Version"].split(".")[0])
        return branches

    return drivers
