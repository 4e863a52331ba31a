# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role base makes a swap file that works: the containers of the test bed cannot switch one on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Machine

SWAP_FILE = "/var/lib/secondhand-diffusion/swapfile"
# Not what takes long under emulation and has no part in swap.
VARIABLES = {
    "base_swap_size_mb": 512,
    "base_min_free_gb": 5,
    "base_monitors": False,
    "base_firmware": False,
    "base_apt_cache_valid_time": 864000,
}


def swap_files(machine: Machine) -> list[str]:
    """What the kernel uses, with its size in bytes."""
    return machine.shell("swapon --show=NAME,SIZE --bytes --noheadings").splitlines()


def test_swap_file_is_used_after_a_reboot_too_and_goes_with_reset(machine: Machine) -> None:
    done = machine.play("swap.yml", entry_point="main", **VARIABLES)
    assert done.returncode == 0
    used = swap_files(machine)
    assert len(used) == 1
    name, size = used[0].split()
    assert name == SWAP_FILE
    # The first page is the header.
    assert int(size) == 512 * 1024 * 1024 - 4096
    assert machine.shell(f"stat --format=%a:%U {SWAP_FILE}").strip() == "600:root"

    again = machine.play("swap.yml", entry_point="main", **VARIABLES)
    assert (again.returncode, again.changed) == (0, 0)

    machine.reboot()
    assert swap_files(machine) == used

    done = machine.play("swap.yml", entry_point="reset", **VARIABLES)
    assert done.returncode == 0
    assert swap_files(machine) == []
    assert machine.shell(f"ls {SWAP_FILE} 2>/dev/null; grep swap /etc/fstab; true") == ""
