# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a driver, filled in for one version; packages and installers hold the same."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
# The newest CUDA that a driver branch runs, as nvidia-smi shows it.
CUDA = {470: "11.4", 530: "12.1", 535: "12.2", 550: "12.4", 560: "12.6", 570: "12.8", 580: "13.0", 590: "13.1"}
LICENSES = {"proprietary": "NVIDIA", "open": "Dual MIT/GPL"}


def branch(version: str) -> int:
    """580 of 580.95.05."""
    return int(version.split(".")[0])


def fill(text: str, **values: str) -> str:
    """Put values in the places of @NAME@."""
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", value)
    return text


def command(name: str, version: str) -> bytes:
    """nvidia-smi, nvidia-modprobe or nvidia-persistenced of a version."""
    text = (HERE / "commands" / name).read_text(encoding="utf-8")
    return fill(text, version=version, cuda=CUDA.get(branch(version), "13.1")).encode()


def library(name: str, version: str) -> bytes:
    """Something in the place of a library, which no test loads."""
    return f"Stands in for {name}.so.{version}\n".encode()


def kernel_module(version: str, kind: str = "proprietary", builds: bool = True) -> dict[str, bytes]:
    """The source of the kernel modules for DKMS; a version that does not build is as old as the kernel is new."""
    folder = HERE / "kernel"
    values = {"version": version, "license": LICENSES[kind], "flags": "" if builds else "-DNV_DOES_NOT_BUILD"}
    found = {name: (folder / name).read_bytes() for name in ("nvidia.c", "nvidia-uvm.c")}
    for name in ("Makefile", "dkms.conf"):
        found[name] = fill((folder / f"{name}.in").read_text(encoding="utf-8"), **values).encode()
    return found
