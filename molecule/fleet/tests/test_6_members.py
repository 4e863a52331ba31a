# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another inventory, another fleet: a second way in comes and goes, a server leaves, stands alone, and comes back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet import client
from fleet.members import GATEWAY, LOGIN, SERVERS, STRANGER

SITE, WHOLE = "playbooks/site.yml", "sd_servers:sd_gateway"
FIRST, SECOND, LEAVING = SERVERS
PICTURE = {"prompt": "members", "steps": 1, "width": 64, "height": 64}


@pytest.fixture
def regroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """For the playbooks that follow, other hosts are in the groups."""

    def change(**members: list[str]) -> None:
        given = Path(os.environ["MOLECULE_INVENTORY_FILE"])
        content = yaml.safe_load(given.read_text(encoding="utf-8"))
        for group, hosts in members.items():
            content[group]["hosts"] = {host: {} for host in hosts}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
        (tmp_path / "group_vars").symlink_to(given.parent / "group_vars")
        monkeypatch.setenv("MOLECULE_INVENTORY_FILE", str(tmp_path / "hosts.yml"))

    return change


@pytest.fixture
def at(fleet: Any, tmp_path: Path) -> Any:
    """Somebody who opens the gateway of a host."""

    def open_it(host: str) -> client.Client:
        cafile = tmp_path / f"{host}.pem"
        cafile.write_text(fleet.on(host, "openssl x509 -in /etc/sd-gateway/certificate.pem"), encoding="ascii")
        return client.Client(f"https://{fleet.address(host)}", LOGIN, str(cafile))

    return open_it


def makers(us: client.Client) -> set[str]:
    """Who serves the page behind a gateway."""
    return {us.ask("/test/request").json()["host"] for _time in range(30)}


def test_a_second_gateway(fleet: Any, playbook: Any, regroup: Any, at: Any) -> None:
    """One of the servers becomes one too: its own web UI and the others' are behind both, and either may go."""
    regroup(sd_gateway=[GATEWAY, SECOND])
    run = playbook(SITE, WHOLE, "--tags", "sd_webui,gateway")
    assert run.returncode == 0, run.output
    assert f"https://{fleet.address(SECOND)}" in run.output
    logins = fleet.everywhere([GATEWAY, SECOND], "cat /etc/sd-gateway/servers-login")
    assert logins[GATEWAY] == logins[SECOND] != ""
    for host in (GATEWAY, SECOND):
        assert makers(at(host)) == set(SERVERS), host
        assert fleet.open_ports(host, FIRST) >= {7860, 7861}, host
    assert fleet.open_ports(STRANGER, SECOND) == {22, 80, 443}
    assert fleet.open_ports(STRANGER, FIRST) == {22}
    assert at(SECOND).without_login(client.AUTOMATIC1111_ROUTES) == {}
    fleet.on(GATEWAY, "systemctl stop sd-gateway")
    try:
        assert at(SECOND).ask("/sdapi/v1/txt2img", content=PICTURE).status == 200
    finally:
        fleet.on(GATEWAY, "systemctl start sd-gateway")
    again = playbook(SITE, WHOLE, "--tags", "sd_webui,gateway")
    assert again.returncode == 0 and again.changed == 0, again.output


def test_it_goes_again(fleet: Any, playbook: Any, at: Any) -> None:
    run = playbook(SITE, WHOLE, "--tags", "sd_webui,gateway")
    assert run.returncode == 0, run.output
    assert fleet.run(SECOND, "systemctl is-active sd-gateway").stdout.strip() == "inactive"
    assert fleet.on(SECOND, "ls /etc/sd-gateway") == fleet.on(FIRST, "ls /etc/sd-gateway")
    assert fleet.open_ports(STRANGER, SECOND) == {22}
    assert fleet.open_ports(SECOND, FIRST) == {22, 7862}
    assert makers(at(GATEWAY)) == set(SERVERS)


def test_a_server_leaves_and_stands_alone(fleet: Any, playbook: Any, regroup: Any, at: Any) -> None:
    """With an inventory of its own. It was not reset before, and serves its page itself, to who knows its login."""
    regroup(sd_servers=[LEAVING], sd_gateway=[])
    run = playbook(SITE, "sd_servers", "--tags", "sd_webui,gateway")
    assert run.returncode == 0, run.output
    engine = json.loads(fleet.on(LEAVING, "cat /etc/sd-webui/engine.json"))
    assert engine["address"] == "127.0.0.1", engine
    assert fleet.open_ports(STRANGER, LEAVING) == {22, 80, 443}
    assert fleet.open_ports(GATEWAY, LEAVING) == {22, 80, 443}
    assert "sd_gateway" not in fleet.on(LEAVING, "nft list tables")
    assert at(LEAVING).without_login(client.AUTOMATIC1111_ROUTES) == {}
    assert makers(at(LEAVING)) == {LEAVING}
    assert at(LEAVING).ask("/sdapi/v1/txt2img", content=PICTURE).status == 200
    again = playbook(SITE, "sd_servers", "--tags", "sd_webui,gateway")
    assert again.returncode == 0 and again.changed == 0, again.output


def test_the_others_do_without_it(fleet: Any, playbook: Any, regroup: Any, at: Any) -> None:
    regroup(sd_servers=[FIRST, SECOND])
    run = playbook(SITE, WHOLE, "--tags", "gateway")
    assert run.returncode == 0, run.output
    described = json.loads(fleet.on(GATEWAY, "cat /etc/sd-gateway/gateway.json"))
    assert [server["name"] for server in described["servers"]] == [FIRST, SECOND]
    assert makers(at(GATEWAY)) == {FIRST, SECOND}
    # It is a stranger now.
    assert fleet.open_ports(LEAVING, FIRST) == {22}


def test_it_comes_back(fleet: Any, playbook: Any, at: Any) -> None:
    run = playbook(SITE, WHOLE, "--tags", "sd_webui,gateway")
    assert run.returncode == 0, run.output
    assert makers(at(GATEWAY)) == set(SERVERS)
    assert fleet.open_ports(STRANGER, LEAVING) == {22}
    assert fleet.open_ports(LEAVING, FIRST) == {22, 7862}
    assert at(GATEWAY).ask("/sdapi/v1/txt2img", content=PICTURE).status == 200
