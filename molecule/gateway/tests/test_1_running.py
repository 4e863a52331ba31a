# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway of one PC, as it runs on each Debian release: its answers, its refusals, its service and its secrets."""

from __future__ import annotations

import re
import ssl
from typing import Any

from fleet import client
from waiting import wait_for

testinfra_hosts = ["gateway-debian11", "gateway-debian12", "gateway-debian13"]


def name(host: Any) -> str:
    return str(host.check_output("hostname"))


def test_it_asks_for_the_login_and_passes_on(us: client.Client) -> None:
    stranger = client.Client(us.url, cafile=us.cafile)
    assert stranger.without_login(["/", "/internal/ping", "/sdapi/v1/txt2img", *client.DENIED]) == {}
    assert stranger.upgrade("/queue/join") == 401
    assert us.ask("/").body == b"<!DOCTYPE html><title>stand-in</title>"
    assert us.ask("/sdapi/v1/txt2img", content={"prompt": "a", "steps": 1}).json()["images"]
    assert us.ask("/internal/ping").headers["X-SD-Server"].startswith("gateway-debian")


def test_a_session(us: client.Client) -> None:
    given = [value.partition(";")[0] for value in us.ask("/").headers.get_all("Set-Cookie") or []]
    (cookie,) = [value for value in given if value.startswith("sd_gateway=")]
    stranger = client.Client(us.url, cafile=us.cafile)
    assert stranger.ask("/", headers={"Cookie": cookie}).status == 200
    for wrong in (f"{cookie}0", cookie[:-1], cookie.lower(), "sd_gateway="):
        assert stranger.ask("/", headers={"Cookie": wrong}).status == 401, wrong


def test_what_is_denied(us: client.Client) -> None:
    for path in client.DENIED:
        assert us.ask(path).status == 403, path
    assert us.ask("/sdapi/v1/interrupt", content={}).status == 403
    assert (
        us.ask("/sdapi/v1/txt2img", content={"prompt": "a"}, headers={"Origin": "https://evil.example"}).status == 403
    )
    assert us.begin("/sdapi/v1/img2img", {"Content-Length": str(101 * 2**20)}).status == 413
    assert us.begin("/sdapi/v1/img2img", {"Transfer-Encoding": "chunked"}).status == 411


def test_no_request_hides_behind_another(us: client.Client) -> None:
    for method in ("CONNECT", "OPTIONS", "TRACE"):
        # 400 is HAProxy's own word for a CONNECT to a path, since 2.4.
        assert us.ask("/internal/ping", method).status in (400, 405), method
    upgrade = {"Connection": "Upgrade", "Upgrade": "x"}
    assert us.ask("/sdapi/v1/txt2img", content={"prompt": "a"}, headers=upgrade).status == 400


def test_no_request_hides_in_a_body(host: Any, us: client.Client) -> None:
    """The web UI answers a GET without reading its body, as stable-diffusion.cpp's server answers some requests."""
    hidden = "GET /hidden-in-a-body HTTP/1.1\r\nHost: x\r\n\r\n"
    with us.connected() as connection:
        connection.request("GET", "/internal/ping?carrier", body=hidden, headers=us.basic)
        assert connection.getresponse().status == 200
    us.ask("/after-the-carrier")

    def log() -> str:
        return str(host.check_output("journalctl --quiet --output=cat --unit=sd-webui"))

    wait_for(lambda: "/after-the-carrier" in log())
    assert "/internal/ping?carrier" in log() and "/hidden-in-a-body" not in log()


def test_http_redirects_and_old_tls_is_refused(us: client.Client) -> None:
    plain = client.Client(us.url.replace("https:", "http:"), us.login)
    answer = plain.ask("/a?b=c")
    assert (answer.status, answer.headers["Location"]) == (308, f"{us.url}/a?b=c")
    assert us.refusal_of_tls(ssl.TLSVersion.TLSv1_1) != "" and us.refusal_of_tls(ssl.TLSVersion.TLSv1_2) == ""


def test_the_certificate_is_for_all_its_names(host: Any, us: client.Client) -> None:
    text = host.check_output("openssl x509 -noout -ext subjectAltName -in /etc/sd-gateway/certificate.pem")
    names = {part.strip().partition(":")[2] for part in text.splitlines()[1].split(",")}
    assert {name(host), f"{name(host)}.local", "pc.example.org", us.url.removeprefix("https://")} <= names


def test_its_service(host: Any) -> None:
    assert host.service("sd-gateway").is_running and host.service("sd-gateway").is_enabled
    assert not host.service("haproxy").is_running and not host.service("haproxy").is_enabled
    report = host.run("systemd-analyze security --no-pager sd-gateway.service").stdout
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", report)
    assert exposure is not None and float(exposure[1]) <= 2.0, report
    assert host.check_output("ps -o user= -C haproxy | sort -u") == "haproxy"
    assert host.run("systemctl --failed --no-legend --plain").stdout == ""
    metrics = host.check_output(
        "python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8405/metrics').read(9))\""
    )
    assert "#" in metrics


def test_its_log(host: Any, us: client.Client) -> None:
    us.ask("/needle")

    def log() -> str:
        return str(host.check_output("journalctl --quiet --output=cat --unit=sd-gateway"))

    # The answer comes first, then the line about it, which journald takes in when it has time.
    wait_for(lambda: "GET /needle" in log())
    assert re.search(r"keeper page/\S+ 404 .*GET /needle", log())


def test_secrets(host: Any) -> None:
    modes = host.check_output("cd /etc/sd-gateway && stat --format='%n %U:%G %a' * | sort").splitlines()
    assert modes == [
        "certificate.pem root:haproxy 640",
        "gateway.json root:root 644",
        "haproxy.cfg root:haproxy 640",
        "secrets.map root:haproxy 640",
        "session.key root:root 600",
        "users root:haproxy 640",
        "users.cfg root:haproxy 640",
    ]
    # After a reload, too: HAProxy starts itself anew then.
    host.check_output("systemctl reload sd-gateway; sleep 1")
    secrets = "/etc/sd-gateway/session.key"
    assert host.run(f"grep -laFf {secrets} /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null").stdout == ""
    assert host.run(f"journalctl --quiet | grep -Ff {secrets}").stdout == ""
    assert host.run("journalctl --quiet | grep -F \"$(printf 'correct-%s: b' horse)\"").stdout == ""


def test_it_comes_back_after_a_kill(host: Any, us: client.Client) -> None:
    before = host.check_output("systemctl show --property=MainPID --value sd-gateway")
    host.check_output(f"kill -KILL {before}")

    def is_back() -> bool:
        process = host.check_output("systemctl show --property=MainPID --value sd-gateway")
        try:
            return process not in (before, "0") and us.ask("/").status == 200
        except OSError:
            return False

    wait_for(is_back)
