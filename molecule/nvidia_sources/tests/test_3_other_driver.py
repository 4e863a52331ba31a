# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From one driver to another, and to none. The tests run in the order of this file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

testinfra_hosts = ["nvidia-repo"]

SWITCH, ABSENT = "molecule/nvidia_sources/switch.yml", "molecule/nvidia_sources/absent.yml"
SNAPSHOT = Path(__file__).parents[2] / "base/snapshot.sh"
RUNFILE = "nvidia-runfile"


def module_version(host: Any) -> str:
    """Of the module for the newest kernel with headers; DKMS keeps no other one."""
    kernel = host.check_output("ls /lib/modules | tail -n 1")
    version = str(host.check_output(f"modinfo -k {kernel} -F version nvidia"))
    assert [line.split(",")[0] for line in host.check_output("dkms status").splitlines()] == [f"nvidia/{version}"]
    return version


def test_other_drivers_take_the_place_of_the_first(
    host: Any, on: Callable[[str], Any], playbook: Callable[..., Any]
) -> None:
    assert playbook(SWITCH, "all").returncode == 0
    # An older branch, which is from before the packages that pin one.
    assert module_version(host) == "560.35.05"
    assert host.package("nvidia-driver-pinning-580").is_installed is False
    assert "560.35.05" in host.check_output("apt-cache policy nvidia-kernel-dkms | grep Candidate")
    assert "Inst nvidia" not in host.check_output("apt-get -s dist-upgrade")
    # A newer installer, with the option that its branch has for the kind of module.
    runfile = on(RUNFILE)
    assert module_version(runfile) == "580.95.05"
    assert "--kernel-module-type=proprietary" in runfile.file("/var/log/nvidia-installer.log").content_string
    assert runfile.run("ls /usr/src/nvidia-530.30.02 /usr/lib/x86_64-linux-gnu/libcuda.so.530.30.02").stdout == ""


def test_absent_leaves_the_hosts_as_they_were(
    host: Any, on: Callable[[str], Any], playbook: Callable[..., Any]
) -> None:
    assert playbook(ABSENT, "all").returncode == 0
    for each in (host, on(RUNFILE)):
        each.check_output("sh -c %s - /run/after", SNAPSHOT.read_text())
        assert each.run("diff /run/before /run/after").stdout == ""
    assert playbook(ABSENT, "all").changed == 0
