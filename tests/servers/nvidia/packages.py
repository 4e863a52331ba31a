# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages under the names that NVIDIA's repositories for Debian use since branch 560."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from . import files

LIBRARIES = "usr/lib/x86_64-linux-gnu"
NVIDIA_URL = "https://developer.download.nvidia.com/compute/cuda/repos"
KEYRING = "usr/share/keyrings/cuda-archive-keyring.gpg"

# Read when a module's package is configured and removed, as Debian's dh_dkms has it.
DKMS_SCRIPTS = {
    "postinst": '#!/bin/sh\nset -e\n[ "$1" != configure ] || /usr/lib/dkms/common.postinst nvidia @VERSION@\n',
    "prerm": "#!/bin/sh\nset -e\ndkms remove -m nvidia -v @VERSION@ --all || true\n",
}


@dataclass
class Package:
    """One package: its fields, its files and its maintainer scripts."""

    name: str
    version: str
    source: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    content: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    conffiles: list[str] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)
    architecture: str = "amd64"

    def build(self, folder: Path) -> Path:
        """Write NAME_VERSION_ARCHITECTURE.deb."""
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary, "root")
            control = root / "DEBIAN"
            control.mkdir(parents=True)
            root.chmod(0o755)
            lines = {"Package": self.name, "Version": self.version, "Architecture": self.architecture}
            if self.source:
                lines["Source"] = self.source
            lines |= {"Maintainer": "cudatools <cudatools@nvidia.com>", "Section": "non-free/misc", **self.fields}
            lines["Description"] = f"stands in for NVIDIA's {self.name}"
            (control / "control").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
            if self.conffiles:
                (control / "conffiles").write_text("".join(f"/{name}\n" for name in self.conffiles))
            for name, script in self.scripts.items():
                (control / name).write_text(script)
                (control / name).chmod(0o755)
            for name, (data, mode) in self.content.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                path.chmod(mode)
            for name, target in self.links.items():
                (root / name).symlink_to(target)
            path = folder / f"{self.name}_{self.version}_{self.architecture}.deb"
            command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root), str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return path


def keyring(distribution: str, key: bytes) -> Package:
    """cuda-keyring: the key, the source and the general priority. Its source is always NVIDIA's own address."""
    source = f"etc/apt/sources.list.d/cuda-{distribution}-x86_64.list"
    priority = "etc/apt/preferences.d/cuda-repository-pin-600"
    line = f"deb [signed-by=/{KEYRING}] {NVIDIA_URL}/{distribution}/x86_64/ /\n"
    return Package(
        "cuda-keyring",
        "1.1-1",
        content={
            KEYRING: (key, 0o644),
            source: (line.encode(), 0o644),
            priority: (b"Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: 600\n", 0o644),
        },
        conffiles=[source, priority],
        architecture="all",
    )


def pinning(branch: int, version: str) -> Package:
    """nvidia-driver-pinning-<branch>: an apt preferences file and nothing else. One of them at a time."""
    path = f"etc/apt/preferences.d/nvidia-driver-pinning-{branch}"
    text = (
        f"Package: src:*nvidia*:any src:cuda-drivers:any src:cuda-compat:any\nPin: version {branch}.*\n"
        "Pin-Priority: 1000\n"
    )
    virtual = "nvidia-driver-pinning"
    fields = {"Provides": virtual, "Conflicts": virtual, "Replaces": virtual}
    content = {path: (text.encode(), 0o644)}
    return Package(
        f"nvidia-driver-pinning-{branch}", version, fields=fields, content=content, conffiles=[path], architecture="all"
    )


def driver(version: str) -> list[Package]:
    """The packages of a driver. What depends on another part of it asks for "this version or a newer one" in
    cuda-drivers-<branch> only, as NVIDIA's does: without the pin it draws in the newest branch."""
    debian = f"{version}-1"
    source = "nvidia-graphics-drivers"
    part = f"(= {debian})"

    def module(name: str, kind: str, other: str) -> Package:
        folder = f"usr/src/nvidia-{version}"
        return Package(
            name,
            debian,
            source,
            {
                "Depends": "dkms",
                "Provides": f"nvidia-kernel-{version}",
                "Conflicts": other,
                "Replaces": other,
            },
            {f"{folder}/{key}": (data, 0o644) for key, data in files.kernel_module(version, kind).items()},
            scripts={key: files.fill(text, version=version) for key, text in DKMS_SCRIPTS.items()},
        )

    def libraries(name: str, *stems: str) -> Package:
        content = {f"{LIBRARIES}/{stem}.so.{version}": (files.library(stem, version), 0o644) for stem in stems}
        links = {f"{LIBRARIES}/{stem}.so.1": f"{stem}.so.{version}" for stem in stems}
        return Package(name, debian, source, content=content, links=links)

    def program(name: str, mode: int) -> Package:
        content = {f"usr/bin/{name}": (files.command(name, version), mode)}
        return Package(name, debian, content=content)

    newer = f"(>= {version})"
    with_open = ("nvidia-driver-cuda", "nvidia-kernel-open-dkms")
    everything = ("nvidia-driver", "nvidia-driver-cuda", "nvidia-kernel-dkms")
    return [
        module("nvidia-kernel-dkms", "proprietary", "nvidia-kernel-open-dkms"),
        module("nvidia-kernel-open-dkms", "open", "nvidia-kernel-dkms"),
        libraries("libcuda1", "libcuda"),
        libraries("libnvidia-ml1", "libnvidia-ml"),
        libraries("nvidia-driver-libs", "libGLX_nvidia"),
        program("nvidia-modprobe", 0o4755),
        program("nvidia-persistenced", 0o755),
        Package(
            "nvidia-driver-cuda",
            debian,
            source,
            {
                "Depends": f"libcuda1 {part}, libnvidia-ml1 {part}, nvidia-persistenced {part}, "
                f"nvidia-kernel-dkms {part} | nvidia-kernel-open-dkms {part}",
                "Conflicts": "nvidia-smi",
                "Replaces": "nvidia-smi",
            },
            {"usr/bin/nvidia-smi": (files.command("nvidia-smi", version), 0o755)},
        ),
        Package(
            "nvidia-driver",
            debian,
            source,
            {"Depends": f"nvidia-driver-libs {part}, nvidia-kernel-dkms {part} | nvidia-kernel-open-dkms {part}"},
        ),
        Package(
            f"cuda-drivers-{files.branch(version)}",
            debian,
            "cuda-drivers",
            {"Depends": ", ".join(f"{name} {newer}" for name in everything)},
        ),
        Package("cuda-drivers", debian, fields={"Depends": ", ".join(f"{name} {newer}" for name in everything)}),
        Package("nvidia-open", debian, fields={"Depends": ", ".join(f"{name} {newer}" for name in with_open)}),
    ]


def toolkit(version: str) -> list[Package]:
    """cuda-toolkit-12-9 and the package of it that has the compiler."""
    short, debian = version.rpartition(".")[0], f"{version}-1"
    dashed = short.replace(".", "-")
    nvcc = f"#!/bin/sh\necho 'Cuda compilation tools, release {short}, V{version}'\n"
    return [
        Package(f"cuda-nvcc-{dashed}", debian, content={f"usr/local/cuda-{short}/bin/nvcc": (nvcc.encode(), 0o755)}),
        Package(f"cuda-toolkit-{dashed}", debian, fields={"Depends": f"cuda-nvcc-{dashed} (>= {version})"}),
    ]
