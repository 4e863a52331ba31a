# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sources nvidia_repo and runfile have installed: the driver for the card, and no newer one ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

testinfra_hosts = ["nvidia-repo"]

APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-confold"


@pytest.fixture
def runfile(on: Callable[[str], Any]) -> Any:
    """The host that NVIDIA's installer was run on."""
    return on("nvidia-runfile")


def module(host: Any) -> tuple[str, str]:
    """Version and licence of the module for the newest kernel with headers."""
    kernel = host.check_output("ls /lib/modules | tail -n 1")
    assert ": installed" in host.check_output(f"dkms status -k {kernel}")
    fields = [host.check_output(f"modinfo -k {kernel} -F {field} nvidia") for field in ("version", "license")]
    return fields[0], fields[1]


def test_repository_gives_the_last_branch_for_the_card(host: Any) -> None:
    assert module(host) == ("580.95.05", "NVIDIA")
    for name in ("nvidia-driver-cuda", "nvidia-kernel-dkms", "nvidia-modprobe", "nvidia-persistenced", "libcuda1"):
        assert host.package(name).version == "580.95.05-1"
    # Nothing for a screen, and no other module.
    unwanted = ("nvidia-driver", "nvidia-open", "nvidia-kernel-open-dkms", "cuda-drivers")
    assert [name for name in unwanted if host.package(name).is_installed] == []
    assert host.file("/usr/bin/nvidia-modprobe").mode == 0o4755


def test_pin_came_before_the_driver(host: Any) -> None:
    log = host.check_output("grep ' install ' /var/log/dpkg.log").splitlines()
    order = [line.split()[3].partition(":")[0] for line in log]
    assert order.index("cuda-keyring") < order.index("nvidia-driver-pinning-580") < order.index("libcuda1")


def test_no_upgrade_brings_the_newer_branch(host: Any) -> None:
    host.check_output("apt-get -q update")
    # Without the pin it would come, and so it would with the package that promises branch 580.
    unpinned = host.check_output(f"{APT} -o Dir::Etc::preferencesparts=/nonexistent -s dist-upgrade")
    assert "Inst nvidia-kernel-dkms [580.95.05-1] (590.48.01-1" in unpinned
    assert "590.48.01" not in host.check_output(f"{APT} -s install cuda-drivers-580")
    assert "590.48.01" not in host.check_output(f"{APT} dist-upgrade")
    assert module(host) == ("580.95.05", "NVIDIA")


def test_repository_is_trusted_by_its_key_only(host: Any) -> None:
    source = host.file("/etc/apt/sources.list.d/cuda-debian12-x86_64.list").content_string.split()
    assert source == [
        "deb",
        "[signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg]",
        "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/",
        "/",
    ]
    assert host.run("grep -ri 'trusted' /etc/apt").rc == 1
    assert host.run("ls /etc/apt/trusted.gpg /etc/apt/trusted.gpg.d/cuda*").rc != 0


def test_toolkit_still_knows_the_card(host: Any) -> None:
    # The driver runs CUDA 13, which no longer compiles for Maxwell.
    assert "release 12.9" in host.check_output("/usr/local/cuda-12.9/bin/nvcc --version")
    assert not host.file("/usr/local/cuda-13.0").exists


def test_installer_gives_its_driver(runfile: Any) -> None:
    assert module(runfile) == ("530.30.02", "NVIDIA")
    assert runfile.file("/usr/bin/nvidia-modprobe").mode == 0o4755
    assert runfile.file("/usr/lib/x86_64-linux-gnu/libcuda.so.530.30.02").exists
    # Nothing for a screen.
    assert not runfile.file("/usr/lib/x86_64-linux-gnu/libGLX_nvidia.so.530.30.02").exists
    said = runfile.run("nvidia-smi")
    assert (said.rc, "couldn't communicate with the NVIDIA driver" in said.stdout) == (9, True)


def test_installer_was_asked_for_the_right_things(runfile: Any) -> None:
    log = runfile.file("/var/log/nvidia-installer.log").content_string.splitlines()
    words = log[log.index("nvidia-installer command line:") + 1].split()
    assert {"--silent", "--dkms", "--no-opengl-files", "--kernel-module-build-directory=kernel"} <= set(words)
    assert not runfile.file("/var/cache/secondhand-diffusion-nvidia").exists
    assert runfile.package("nvidia-kernel-dkms").is_installed is False


def test_toolkit_of_the_guide(runfile: Any) -> None:
    assert "release 12.1" in runfile.check_output("/usr/local/cuda/bin/nvcc --version")
