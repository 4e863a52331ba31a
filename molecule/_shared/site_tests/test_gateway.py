# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway that site.yml puts in front, on every supported Debian release, whose HAProxy is another one each."""

from __future__ import annotations

import base64
import json
import re
import ssl
from typing import Any

import pytest
from fleet import client

NAME = "site-tests"


@pytest.fixture(scope="module")
def gateway(host: Any, playbook: Any, tmp_path_factory: pytest.TempPathFactory) -> client.Client:
    """With one more user, whose password is generated and shown this once."""
    wanted = {"gateway_users": [{"name": "sd"}, {"name": NAME}]}
    run = playbook("playbooks/site.yml", host.check_output("hostname"), "--tags", "gateway", **wanted)
    assert run.returncode == 0, run.output
    shown = re.search(rf"as {NAME} with the password (\S{{20,}});", run.output)
    assert shown, run.output
    cafile = tmp_path_factory.mktemp("gateway") / "gateway.pem"
    cafile.write_text(host.check_output("openssl x509 -in /etc/sd-gateway/certificate.pem"), encoding="ascii")
    address = host.check_output("hostname -I").split()[0]
    return client.Client(f"https://{address}", f"{NAME}:{shown[1]}", str(cafile))


def test_the_page_and_a_picture(gateway: client.Client) -> None:
    page = gateway.ask("/")
    assert page.status == 200 and len(page.body) > 100_000
    asked = {"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 7, "sampler_name": "Euler"}
    picture = gateway.ask("/sdapi/v1/txt2img", content=asked)
    assert picture.status == 200 and base64.b64decode(picture.json()["images"][0]).startswith(b"\x89PNG")


def test_nothing_without_the_login(gateway: client.Client) -> None:
    stranger = client.Client(gateway.url, cafile=gateway.cafile)
    assert stranger.without_login(client.AUTOMATIC1111_ROUTES) == {}
    assert stranger.without_login([*client.DENIED, *client.STRANGE], ("GET",)) == {}
    assert stranger.upgrade("/queue/join") == 401
    wrong = client.Client(gateway.url, f"{gateway.login}x", gateway.cafile)
    assert wrong.ask("/").status == 401


def test_a_browser_logs_in_once(gateway: client.Client) -> None:
    given = "; ".join(value.partition(";")[0] for value in gateway.ask("/").headers.get_all("Set-Cookie") or [])
    assert gateway.ask("/", login=False, headers={"Cookie": given}).status == 200
    forged = re.sub("sd_gateway=[^;]{9}", "sd_gateway=000000000", given)
    assert forged != given and gateway.ask("/", login=False, headers={"Cookie": forged}).status == 401


def test_what_leaks_or_controls_is_denied(gateway: client.Client) -> None:
    for path in client.DENIED:
        assert gateway.ask(path).status == 403, path


def test_other_sites_large_bodies_and_guesses_are_refused(gateway: client.Client) -> None:
    asked = {"prompt": "a", "width": 64, "height": 64, "steps": 1}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}):
        assert gateway.ask("/sdapi/v1/txt2img", content=asked, headers=headers).status == 403, headers
    head = {"Content-Type": "application/json", "Content-Length": str(101 * 2**20)}
    assert gateway.begin("/sdapi/v1/img2img", head).status == 413
    guesser = client.Client(gateway.url, "sd:guess", gateway.cafile)
    statuses = [guesser.ask("/").status for _time in range(15)]
    assert statuses[0] == 401 and statuses[-1] == 429, statuses
    assert gateway.ask("/").status == 200


def test_plain_http_only_redirects(gateway: client.Client) -> None:
    plain = client.Client(gateway.url.replace("https:", "http:"), gateway.login)
    for path in ("/", "/sdapi/v1/options"):
        answer = plain.ask(path)
        assert (answer.status, answer.headers["Location"]) == (308, gateway.url + path)


def test_old_tls_is_refused(gateway: client.Client) -> None:
    assert "ALERT" in gateway.refusal_of_tls(ssl.TLSVersion.TLSv1_1).upper()
    assert gateway.refusal_of_tls(ssl.TLSVersion.TLSv1_2) == ""


def test_it_is_sandboxed_and_all_that_listens(host: Any, gateway: client.Client) -> None:
    unit = json.loads(host.check_output("cat /etc/sd-gateway/gateway.json"))["unit"]
    report = host.run(f"systemd-analyze security --no-pager {unit}").stdout
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", report)
    assert exposure is not None and float(exposure[1]) <= 3.5, report
    listeners = {line.split()[3] for line in host.check_output("ss -Hltn").splitlines()}
    public = {place.rpartition(":")[2] for place in listeners if not place.startswith(("127.", "[::1]"))}
    assert public == {"22", "80", "443"}, listeners
