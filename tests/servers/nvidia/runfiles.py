# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Self-extracting installers: a shell script with an archive behind its last line."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from . import files

INSTALLER = files.HERE / "installer"


def archive(content: dict[str, tuple[bytes, int]]) -> bytes:
    """A tar.gz of these names, with their bytes and modes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, (data, mode) in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            packed.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def pack(path: Path, label: str, program: str, content: dict[str, tuple[bytes, int]]) -> None:
    """Write the installer that unpacks this content and runs one of its programs."""
    data = archive(content)
    checksum = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.decode().strip()
    header = (INSTALLER / "header.sh").read_text(encoding="utf-8")
    header = files.fill(header, label=label, program=program, checksum=checksum, lines=str(header.count("\n")))
    path.write_bytes(header.encode() + data)


def driver(folder: Path, version: str, *, builds: bool = True) -> None:
    """NVIDIA-Linux-x86_64-<version>.run, the driver's installer."""
    program = files.fill((INSTALLER / "nvidia-installer").read_text(encoding="utf-8"), version=version)
    content = {"nvidia-installer": (program.encode(), 0o755)}
    for name in ("nvidia-smi", "nvidia-modprobe", "nvidia-persistenced"):
        content[name] = (files.command(name, version), 0o755)
    for name in ("libcuda", "libnvidia-ml", "libGLX_nvidia"):
        content[f"{name}.so"] = (files.library(name, version), 0o755)
    content["README.txt"] = (b"NVIDIA Accelerated Linux Graphics Driver README and Installation Guide\n", 0o644)
    content["nvidia-sleep.sh"] = (b"#!/bin/sh\nexit 0\n", 0o755)
    for name, data in files.kernel_module(version, builds=builds).items():
        content[f"kernel/{name}"] = (data, 0o644)
    label = f"NVIDIA Accelerated Graphics Driver for Linux-x86_64 {version}"
    pack(folder / f"NVIDIA-Linux-x86_64-{version}.run", label, "nvidia-installer", content)


def cuda(folder: Path, version: str, driver_version: str) -> None:
    """cuda_<version>_<driver>_linux.run, the CUDA Toolkit's installer."""
    program = files.fill((INSTALLER / "cuda-installer").read_text(encoding="utf-8"), version=version)
    release = version.rpartition(".")[0]
    nvcc = f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{version}'\n"
    content = {
        "cuda-installer": (program.encode(), 0o755),
        "nvcc": (nvcc.encode(), 0o755),
        "cuda-uninstaller": (b"#!/bin/sh\nexit 0\n", 0o755),
    }
    pack(folder / f"cuda_{version}_{driver_version}_linux.run", f"CUDA Toolkit {version}", "cuda-installer", content)
