# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every supported Debian release has to show after role nvidia_driver, and after it has been taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BRANCH = {"11": "470", "12": "535", "13": "550"}
ROLE = "molecule/nvidia_driver/converge.yml"
SNAPSHOT = Path(__file__).parents[2] / "base/snapshot.sh"


def release(host: Any) -> str:
    return str(host.check_output("cut -d. -f1 /etc/debian_version"))


def test_the_module_is_built_from_the_drivers_own_package(host: Any) -> None:
    version = str(host.package("nvidia-kernel-dkms").version).partition("-")[0]
    assert version.partition(".")[0] == BRANCH[release(host)]
    kernels = [line.split("/")[3] for line in host.check_output("ls -d /lib/modules/*/build").split()]
    assert kernels != []
    for kernel in kernels:
        assert ": installed" in host.check_output(f"dkms status -m nvidia-current -k {kernel}")
        assert host.check_output(f"modinfo -k {kernel} -F version nvidia-current") == version


def test_the_real_nvidia_smi_finds_no_running_driver(host: Any) -> None:
    said = host.run("nvidia-smi")
    assert said.rc != 0
    assert "couldn't communicate with the NVIDIA driver" in said.stdout


def test_no_unit_has_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


def test_nouveau_is_kept_away(host: Any) -> None:
    assert "blacklist nouveau" in host.check_output("modprobe --showconfig").splitlines()


def test_the_initramfs_keeps_nouveau_away_too(host: Any) -> None:
    """Where there is a kernel to start: the list in the initramfs is the one that counts."""
    for image in host.run("ls /boot/initrd.img-*").stdout.split():
        listed = host.check_output(f"lsinitramfs {image}").splitlines()
        assert [name for name in listed if "modprobe.d" in name and "nouveau" in name] != [], image


def test_absent_leaves_the_host_as_it_was(host: Any, playbook: Any) -> None:
    assert playbook(ROLE, "all", nvidia_driver_state="absent").returncode == 0
    assert "blacklist nouveau" not in host.run("modprobe --showconfig").stdout
    host.check_output("sh -c %s - /run/after", SNAPSHOT.read_text())
    # An initramfs that is built again is never of quite the same size.
    different = host.run("diff /run/before /run/after").stdout.splitlines()
    assert [line for line in different if line[:1] in "<>" and "/boot/initrd.img-" not in line] == []
    assert playbook(ROLE, "all", nvidia_driver_state="absent").changed == 0
