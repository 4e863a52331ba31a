# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver goes again, whole, and nouveau may have the card back. The tests run in the order of this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

testinfra_hosts = ["driver-card"]

CARD = "driver-card"
ROLE, RESET = "molecule/nvidia_driver/converge.yml", "molecule/nvidia_driver/reset.yml"
SNAPSHOT = Path(__file__).parents[2] / "base/snapshot.sh"
RECORD = "/var/lib/secondhand-diffusion/nvidia_driver.json"


def driver_packages(host: Any) -> list[str]:
    listed = host.check_output("dpkg-query --show --showformat='${Package}\\n'").split()
    return [name for name in listed if "nvidia" in name or "cuda" in name]


def test_reset_keeps_a_driver_that_was_there_before(host: Any, playbook: Any) -> None:
    # As if the driver had been installed by hand before the role ran for the first time.
    host.check_output(f"cp -a {RECORD} /run/record")
    host.check_output(f"""echo '{{"schema": 1, "installed": false, "packages": []}}' >{RECORD}""")
    assert playbook(RESET, CARD, "--check").returncode == 0
    before = driver_packages(host)
    assert playbook(RESET, CARD).returncode == 0
    assert driver_packages(host) == before
    assert not host.file("/etc/systemd/system/secondhand-nvidia-devices.service").exists
    host.check_output(f"install -D /run/record {RECORD}")


def test_absent_takes_everything_away(host: Any, playbook: Any) -> None:
    assert playbook(ROLE, CARD, nvidia_driver_state="absent").returncode == 0
    assert driver_packages(host) == []
    # apt's own cache and the logs tell what was there.
    places = "/bin /boot /etc /lib /opt /root /run /sbin /srv /usr /var/lib"
    assert host.run(f"find {places} -xdev -iname '*nvidia*'").stdout.splitlines() == []


def test_nouveau_gets_the_card_back(host: Any) -> None:
    assert "blacklist nouveau" not in host.run("modprobe --showconfig").stdout


def test_the_host_is_as_it_was(host: Any) -> None:
    host.check_output("sh -c %s - /run/after", SNAPSHOT.read_text())
    assert host.run("diff /run/before /run/after").stdout == ""


def test_absent_twice_changes_nothing(playbook: Any) -> None:
    run = playbook(ROLE, CARD, nvidia_driver_state="absent")
    assert (run.returncode, run.changed) == (0, 0)
    assert playbook(RESET, CARD).changed == 0
