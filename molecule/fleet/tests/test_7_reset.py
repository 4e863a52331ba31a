# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""reset.yml: nothing of the fleet is left but models and pictures, and the firewall is as it was before."""

from __future__ import annotations

from typing import Any

import pytest
from fleet.members import GATEWAY, MEMBERS, SERVERS

# Whatever is called so, wherever one of the roles could have left it; logs and caches live their own life.
LEFT = """
find /etc /usr/local /var/lib /run /opt -xdev \\( -path /var/lib/systemd -o -path /var/lib/dpkg \\) -prune -o \\
  -print | grep -E '/([^/]*(sd-gateway|sd_gateway|sd-mirror)|sd-webui|50-gateway[.]conf|by-sha256)' |
  grep -v '^/run/systemd/' || true
"""
UNITS = "systemctl list-units --all --plain --no-legend 'sd-gateway*' 'sd-mirror*' 'sd-webui*'"
PACKAGES = "dpkg-query -W -f='${Package} ${db:Status-Status}\\n' haproxy lighttpd | grep ' installed$' || true"
RULESET = "if command -v nft >/dev/null; then nft list ruleset; fi"


@pytest.fixture(scope="module", autouse=True)
def reset(fleet: Any, playbook: Any) -> None:
    run = playbook("playbooks/reset.yml", "sd_servers:sd_gateway")
    assert run.returncode == 0, run.output
    # One of each will do.
    again = playbook("playbooks/reset.yml", f"{GATEWAY}:{SERVERS[0]}")
    assert again.returncode == 0 and again.changed == 0, again.output


def test_the_firewall_is_as_it_was(fleet: Any) -> None:
    before = fleet.everywhere(MEMBERS, "cat /root/ruleset-before")
    assert "table inet person" in before["sd-fleet-1"] and before["sd-fleet-2"] == ""
    assert fleet.everywhere(MEMBERS, RULESET) == before
    assert fleet.run("sd-fleet-1", "systemctl is-active nftables").stdout.strip() == "active"


def test_nothing_is_left(fleet: Any) -> None:
    assert set(fleet.everywhere(MEMBERS, LEFT).values()) == {""}
    assert set(fleet.everywhere(MEMBERS, UNITS).values()) == {""}
    packages = fleet.everywhere(MEMBERS, PACKAGES)
    assert set(packages.values()) == {""}
    assert fleet.run(GATEWAY, "getent passwd haproxy").stdout == ""


def test_models_and_pictures_stay(fleet: Any) -> None:
    for server, listed in fleet.everywhere(SERVERS, "ls /srv/sd/models/lora").items():
        assert "big.safetensors" in listed, server
