# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change makes of the gateway, and what is left of it at the end. The tests run in the order of this file."""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path
from typing import Any

from fleet import client

ROLE, RESET = "molecule/gateway/converge.yml", "molecule/gateway/reset.yml"
USERS = [{"name": "guest"}]
testinfra_hosts = ["gateway-debian12"]


def name(host: Any) -> str:
    return str(host.check_output("hostname"))


def started(host: Any) -> str:
    """Of the main process: a reload keeps it."""
    return str(host.check_output("systemctl show --property=MainPID,NRestarts sd-gateway"))


def test_a_change_is_a_reload_and_cuts_nothing(host: Any, playbook: Any, us: client.Client) -> None:
    before = started(host)
    assert us.ask("/sdapi/v1/options").status == 200
    run = playbook(ROLE, name(host), gateway_more_denied_paths=["^/sdapi/v1/options"])
    assert run.returncode == 0, run.output
    assert us.ask("/sdapi/v1/options").status == 403 and started(host) == before
    again = playbook(ROLE, name(host), gateway_more_denied_paths=["^/sdapi/v1/options"])
    assert (again.returncode, again.changed) == (0, 0), again.output


def test_a_configuration_that_haproxy_refuses_changes_nothing(host: Any, playbook: Any, us: client.Client) -> None:
    run = playbook(ROLE, name(host), gateway_more_denied_paths=["^/(never"])
    assert run.returncode != 0 and "HAProxy refuses the configuration" in run.message and "never" in run.message
    assert us.ask("/").status == 200
    assert playbook(ROLE, name(host)).returncode == 0


def test_who_is_taken_out_is_out(host: Any, playbook: Any, us: client.Client) -> None:
    line = host.check_output("grep ^guest: /etc/sd-gateway/users")
    cookie = "; ".join(value.partition(";")[0] for value in us.ask("/").headers.get_all("Set-Cookie") or [])
    run = playbook(ROLE, name(host), gateway_users=USERS)
    assert run.returncode == 0 and us.ask("/").status == 401
    assert client.Client(us.url, cafile=us.cafile).ask("/", headers={"Cookie": cookie}).status == 401
    # And nobody was given another password.
    assert host.check_output("cat /etc/sd-gateway/users") == line
    assert playbook(ROLE, name(host)).returncode == 0 and us.ask("/").status == 200


def test_a_certificate_of_one_s_own(host: Any, playbook: Any, us: client.Client, tmp_path: Path) -> None:
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=x -keyout /root/{0}.key -out /root/{0}.crt"
    for each in ("own", "other"):
        host.check_output(make.format(each))
    own = {"gateway_certificate_file": "/root/own.crt", "gateway_certificate_key_file": "/root/own.key"}
    wrong = playbook(
        ROLE, name(host), **{**own, "gateway_certificate_key_file": "/root/other.key"}, gateway_http_port=443
    )
    assert wrong.returncode != 0
    assert "is not the one of /root/own.crt" in wrong.message and "are the same port, 443" in wrong.message
    missing = playbook(ROLE, name(host), **{**own, "gateway_certificate_file": "/root/none.crt"})
    assert "/root/none.crt cannot be read on this host" in missing.message
    assert playbook(ROLE, name(host), **own).returncode == 0
    told = json.loads(host.check_output("cat /etc/sd-gateway/gateway.json"))
    assert told["certificate"] == "own"
    served = ssl.get_server_certificate((us.url.removeprefix("https://"), 443))
    assert ssl.PEM_cert_to_DER_cert(served) == ssl.PEM_cert_to_DER_cert(
        host.check_output("openssl x509 -in /root/own.crt")
    )
    assert playbook(ROLE, name(host)).returncode == 0


def test_a_port_that_somebody_has(host: Any, playbook: Any) -> None:
    host.check_output("systemd-run --unit=squatter --collect python3 -m http.server 8444")
    host.check_output("timeout 300 sh -c 'until ss -Hltn sport = :8444 | grep -q .; do sleep 0.2; done'")
    run = playbook(ROLE, name(host), gateway_https_port=8444)
    host.check_output("systemctl stop squatter")
    assert run.returncode != 0
    assert re.search(
        r"port 8444 is taken by python3 \(unit and process id: squatter.service, \d+\); stop it or set another "
        r"gateway_https_port",
        run.message,
    ), run.message


def test_nothing_is_left_of_it(host: Any, playbook: Any) -> None:
    assert playbook(RESET, name(host)).returncode == 0
    places = "/etc/sd-gateway /run/sd-gateway /var/lib/sd-gateway /etc/systemd/system/sd-gateway* /etc/haproxy"
    assert host.run(f"ls -d {places} 2>/dev/null").stdout == "" and not host.package("haproxy").is_installed
    assert host.run("ss -Hltn '( sport = :443 or sport = :80 or sport = :8405 )'").stdout == ""
    assert playbook(RESET, name(host)).changed == 0
