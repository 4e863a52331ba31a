# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cannot work is refused before anything is touched, all of it at once, and the fleet serves on."""

from __future__ import annotations

from typing import Any

import pytest
from fleet.members import GATEWAY

SITE = "playbooks/site.yml"


@pytest.fixture(autouse=True)
def unchanged(fleet: Any) -> Any:
    """The very same processes with the very same files."""

    def state() -> tuple[str, ...]:
        files = "cat /etc/sd-gateway/* /etc/sd-webui/* 2>/dev/null | sha256sum"
        units = "systemctl show --property=MainPID --value sd-gateway sd-webui sd-gateway-activity sd-mirror"
        return tuple(fleet.everywhere([GATEWAY, "sd-fleet-1"], f"{files}; {units}").values())

    before = state()
    yield
    assert state() == before
    assert fleet.client().ask("/internal/ping").status == 200


def test_of_the_gateway(playbook: Any) -> None:
    wrong = {
        "gateway_users": [{"name": "one", "password": "short"}, {"name": "two"}, {"name": "two"}, {"name": "a:b"}],
        "gateway_weight": 999,
        "gateway_http_port": 443,
        "gateway_max_body_mib": 0,
        "gateway_listen_address": "192.0.2.99",
        "gateway_certificate_key_file": "/root/key.pem",
        "gateway_names": ["not a name"],
        "gateway_more_denied_paths": ["it's"],
    }
    run = playbook(SITE, GATEWAY, "--tags", "gateway", **wrong)
    assert run.returncode != 0
    for sentence in (
        "the password of one in gateway_users has less than 8 characters",
        "gateway_users names two twice",
        "entry 4 of gateway_users has no name that one could log in with",
        'gateway_weight "999" of sd-fleet-2 is not possible; set it to a whole number from 1 to 256',
        "gateway_https_port and gateway_http_port are the same port, 443",
        'gateway_max_body_mib "0" is not possible; set it to a whole number from 1',
        'gateway_listen_address "192.0.2.99" is no address of this host',
        "gateway_certificate_key_file is set without its certificate",
        '"not a name" is neither a name nor an address that a certificate could be for; correct gateway_names',
        "has a quotation mark or a line break; write it without",
    ):
        assert sentence in run.message, run.message
    assert run.message.startswith(f"{GATEWAY}: ") and "short;" not in run.message


def test_of_a_server(fleet: Any, playbook: Any) -> None:
    wrong = {"gateway_server_address": "192.0.2.99", "gateway_activity_port": 80, "gateway_mirror_port": 7860}
    run = playbook(SITE, "sd-fleet-1", "--tags", "gateway_server", **wrong)
    assert run.returncode != 0
    for sentence in (
        'gateway_server_address "192.0.2.99" is no address of this host; set it to one of '
        + fleet.address("sd-fleet-1"),
        "gateway_activity_port 80 is not a port that an unprivileged service can use; choose one from 1024 to 65535",
        "gateway_mirror_port 7860 is the port of the web UI too; choose another one",
    ):
        assert sentence in run.message, run.message
