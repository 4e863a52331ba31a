# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets what: nobody anything without the login, and from the servers themselves not even an answer."""

from __future__ import annotations

import json
import re
import ssl
from typing import Any

import pytest
from fleet import client
from fleet.members import GATEWAY, LOGIN, MEMBERS, SERVERS, STRANGER
from waiting import wait_for

SECRET = b"secret-of-the-engine"
# Everything that must not be known, a line each; from the files that hold it.
SECRETS = r"""
cd /etc/sd-gateway 2>/dev/null || cd /
for file in servers-login /etc/sd-webui/login; do
  [ ! -e $file ] || { cat $file; cut -d: -f2- $file; tr -d '\n' <$file | base64 -w0; echo; }
done
[ ! -e session.key ] || { cat session.key; echo; }
[ ! -e users ] || cut -d: -f2- users
[ ! -e secrets.map ] || grep -oE '[A-Za-z0-9+/=:_-]{24,}' secrets.map
[ ! -e certificate.pem ] || sed -n '/PRIVATE KEY/,/PRIVATE KEY/p' certificate.pem | grep -v -- -----
"""
# The bytes of a file and not words on a command line, where the search would find itself.
SEARCH = """
set -eu
umask 077
cat >/root/secrets <<'END'
{secrets}
END
cd /
find / /run /dev/shm -xdev \\( -path /proc -o -path /sys -o -path /root \\) -prune -o -type f -perm -004 -size -8M \\
  -exec grep -lFf /root/secrets {{}} + || true
echo --- processes
for process in /proc/[0-9]*; do
  ! cat $process/cmdline $process/environ 2>/dev/null | grep -qaFf /root/secrets || tr '\\0' ' ' <$process/cmdline
done
echo --- journal
journalctl --quiet --no-pager --output=cat | grep -aFf /root/secrets | cut -c1-200 || true
rm /root/secrets
"""


def test_no_route_answers_without_a_login(fleet: Any) -> None:
    """All that the engine registers, and all that the real one has."""
    us = fleet.client()
    listed = us.ask("/openapi.json").json()["paths"]
    assert {"/sdapi/v1/txt2img", "/internal/sysinfo", "/internal/ping", "/queue/join"} <= set(listed)
    paths = sorted({path.replace("{path}", "/etc/passwd") for path in listed} | set(client.AUTOMATIC1111_ROUTES))
    assert len(paths) > 80
    stranger = fleet.client("")
    assert stranger.without_login(paths) == {}
    assert {path: stranger.upgrade(path, login=False) for path in ("/queue/join", "/", "/nowhere")} == {
        "/queue/join": 401,
        "/": 401,
        "/nowhere": 401,
    }
    some = ["/", "/sdapi/v1/txt2img", "/internal/sysinfo", "//sdapi/v1/options", "/nowhere"]
    assert stranger.without_login(some, client.METHODS) == {}
    assert stranger.without_login([*client.DENIED, *client.STRANGE], ("GET",)) == {}
    answer = stranger.ask("/", login=False)
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("login", ["keeper:", "nobody:correct-horse-battery", f"{LOGIN}x"])
def test_a_wrong_login_is_none(fleet: Any, login: str) -> None:
    assert fleet.client(login).ask("/internal/ping").status == 401


@pytest.mark.parametrize("value", ["Basic", "Basic %%%", "Bearer x"])
def test_what_is_no_login_is_none(fleet: Any, value: str) -> None:
    assert fleet.client("").ask("/internal/ping", headers={"Authorization": value}).status in (400, 401)


def test_what_leaks_or_controls_is_denied_to_everybody(fleet: Any) -> None:
    us = fleet.client()
    for path in client.DENIED:
        for method, content in (("GET", None), ("POST", {})):
            answer = us.ask(path, method, content)
            assert answer.status == 403 and SECRET not in answer.body, (method, path, answer.status)
    sentence = us.ask("/internal/sysinfo").body.decode()
    assert len(sentence.strip()) > 20, sentence
    for path in client.STRANGE:
        answer = us.ask(path)
        assert SECRET not in answer.body, path
    # And all servers are still there.
    assert {fleet.state(server)[:2] for server in SERVERS} == {"UP"}


def test_plain_http_only_redirects(fleet: Any) -> None:
    plain = fleet.client(LOGIN, "http")
    host = fleet.address(GATEWAY)
    for path in ("/", "/sdapi/v1/options", "/internal/sysinfo?a=b", "/nowhere"):
        for login in (True, False):
            answer = plain.ask(path, login=login)
            assert (answer.status, answer.headers["Location"]) == (308, f"https://{host}{path}"), path
    assert plain.ask("/sdapi/v1/txt2img", content={"prompt": "a"}).status == 308
    assert plain.upgrade("/queue/join") == 308


def test_a_neighbour_reaches_the_gateway_and_nothing_else(fleet: Any) -> None:
    assert fleet.open_ports(STRANGER, GATEWAY) == {22, 80, 443}
    for server in SERVERS:
        assert fleet.open_ports(STRANGER, server) == {22}, server


def test_members_reach_what_they_need(fleet: Any) -> None:
    for server in SERVERS:
        assert fleet.open_ports(GATEWAY, server) == {22, 7860, 7861}, server
    assert fleet.open_ports("sd-fleet-1", "sd-fleet-2") == {22, 7862}
    # A server asks its own web UI by the address that it listens on.
    assert 7860 in fleet.open_ports("sd-fleet-1", "sd-fleet-1")


def test_a_person_s_firewall_and_ours_live_side_by_side(fleet: Any) -> None:
    """Whoever loads /etc/nftables.conf again empties everything first, ours too; it has to come back."""
    for command in ("systemctl restart nftables", "systemctl reload nftables || true"):
        fleet.on("sd-fleet-1", command)
        tables = fleet.on("sd-fleet-1", "nft list tables").splitlines()
        assert {"table inet person", "table inet sd_gateway"} <= set(tables), command
        assert fleet.open_ports(STRANGER, "sd-fleet-1") == {22}, command
        assert fleet.open_ports(GATEWAY, "sd-fleet-1") == {22, 7860, 7861}, command
    assert "4711" in fleet.on("sd-fleet-1", "nft list table inet person")


def test_without_its_firewall_a_web_ui_does_not_start(fleet: Any) -> None:
    """Never open by accident."""
    rules, others = "/etc/sd-gateway/firewall.nft", "sd-webui sd-gateway-activity sd-mirror"
    fleet.on("sd-fleet-3", f"mv {rules} /root/; systemctl stop sd-gateway-firewall sd-webui")
    try:
        assert fleet.run("sd-fleet-3", "timeout 20 systemctl start sd-webui").returncode != 0
        assert fleet.open_ports(STRANGER, "sd-fleet-3") - {7861, 7862} == {22}
    finally:
        fleet.on("sd-fleet-3", f"mv /root/firewall.nft {rules}; systemctl restart sd-gateway-firewall {others}")
    assert fleet.open_ports(STRANGER, "sd-fleet-3") == {22}
    wait_for(lambda: fleet.state("sd-fleet-3").startswith("UP"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(fleet: Any, version: ssl.TLSVersion) -> None:
    refusal = fleet.client().refusal_of_tls(version)
    # By the other side, and not because this one cannot do it.
    assert "ALERT" in refusal.upper(), refusal
    assert fleet.client().refusal_of_tls(ssl.TLSVersion.TLSv1_2) == ""


def test_other_sites_cannot_use_a_browser_s_login(fleet: Any) -> None:
    us = fleet.client()
    asked = {"prompt": "a", "steps": 1}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Origin": us.url},
    ):
        answer = us.ask("/sdapi/v1/txt2img", content=asked, headers=headers)
        assert answer.status == 403, (headers, answer.status)
    for headers in ({"Origin": us.url, "Sec-Fetch-Site": "same-origin"}, {}):
        assert us.ask("/sdapi/v1/txt2img", content=asked, headers=headers).status == 200, headers
    cross = {"Sec-Fetch-Site": "cross-site"}
    link = {**cross, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert us.ask("/", headers=link).status == 200
    assert us.ask("/", headers={**link, "Sec-Fetch-Dest": "iframe"}).status == 403
    assert us.ask("/file=/etc/hostname", headers={**cross, "Sec-Fetch-Mode": "no-cors"}).status == 403
    # An old browser's reading of an answer.
    assert us.ask("/", headers={"Origin": "https://evil.example"}).status == 403
    page = us.ask("/").headers
    assert page["X-Content-Type-Options"] == "nosniff" and page["Referrer-Policy"] == "same-origin"
    assert page["X-Frame-Options"] == "SAMEORIGIN" and "frame-ancestors 'self'" in page["Content-Security-Policy"]
    assert page["Server"] is None and page["Strict-Transport-Security"] is None


def test_bodies_have_a_limit(fleet: Any) -> None:
    us = fleet.client()
    head = {"Content-Type": "application/json"}
    assert us.begin("/sdapi/v1/img2img", {**head, "Content-Length": str(101 * 2**20)}).status == 413
    assert us.begin("/sdapi/v1/img2img", {**head, "Transfer-Encoding": "chunked"}).status == 411
    large = {"prompt": "large", "steps": 1, "width": 64, "height": 64, "init_images": ["A" * 3_000_000]}
    assert us.ask("/sdapi/v1/img2img", content=large).status == 200


def test_who_guesses_passwords_has_to_wait(fleet: Any) -> None:
    """From a host of its own; whoever is logged in is not kept out by it."""
    script = f"""
python3 - {fleet.url} <<'END'
import base64, json, ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
def ask(login):
    headers = {{"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}} if login else {{}}
    request = urllib.request.Request(sys.argv[1] + "/internal/ping", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Retry-After") or ""
first = [ask("keeper:guess-%d" % number) for number in range(15)]
print(json.dumps([first, ask("{LOGIN}"), ask(""), ask("keeper:guess")]))
END
"""
    # So that the gateway knows the login.
    assert fleet.client().ask("/internal/ping").status == 200
    guesses, right, nothing, more = json.loads(fleet.on("sd-fleet-3", script))
    statuses = [status for status, _retry in guesses]
    assert statuses[:10] == [401] * 10 and statuses[-1] == 429, statuses
    assert all(int(retry) > 0 for status, retry in [*guesses, more] if status == 429)
    assert right[0] == 200 and nothing[0] == 429 and more[0] == 429
    # Nobody else has to.
    assert fleet.client("").ask("/").status == 401


def test_too_many_requests_are_refused(fleet: Any) -> None:
    script = f"""
python3 - {fleet.address(GATEWAY)} <<'END'
import http.client, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
seen = set()
for _connection in range(10):
    connection = http.client.HTTPSConnection(sys.argv[1], timeout=60, context=context)
    for _request in range(100):
        connection.request("GET", "/nowhere")
        answer = connection.getresponse()
        answer.read()
        seen.add(answer.status)
        if answer.status == 429:
            break
    connection.close()
print(*sorted(seen))
END
"""
    # A machine that needs more than ten seconds for six hundred requests sends no flood.
    assert fleet.on("sd-fleet-2", script).split() in (["401", "429"], ["401"])


def test_secrets_are_in_no_file_that_others_read(fleet: Any) -> None:
    """Nor on a command line, in an environment, or in the journal, on any host of the fleet."""
    found = fleet.everywhere(MEMBERS, SECRETS)
    secrets = {line for text in found.values() for line in text.splitlines() if len(line) > 8}
    secrets |= {LOGIN.partition(":")[2]}
    # The key of the certificate alone has several lines.
    assert len(secrets) > 8 and found["sd-fleet-1"]
    assert len({text for host, text in found.items() if host in SERVERS}) == 1
    # The search finds what it looks for.
    planted = "/var/tmp/planted"
    fleet.on(GATEWAY, f"install -m 0644 /etc/sd-gateway/servers-login {planted}")
    seen = fleet.everywhere(MEMBERS, SEARCH.format(secrets="\n".join(sorted(secrets))))
    fleet.on(GATEWAY, f"rm {planted}")
    nothing = ["--- processes", "--- journal"]
    expected = {host: [planted, *nothing] if host == GATEWAY else nothing for host in MEMBERS}
    assert {host: text.split("\n") for host, text in seen.items()} == expected


def test_files_have_the_modes_that_they_should(fleet: Any) -> None:
    listed = fleet.on(GATEWAY, "cd /etc/sd-gateway && stat --format='%n %U:%G %a' *").splitlines()
    modes = {line.split()[0]: " ".join(line.split()[1:]) for line in listed}
    assert modes.pop("gateway.json") == "root:root 644" and modes["servers-login"] == "root:root 600"
    assert {"haproxy.cfg", "certificate.pem", "users"} <= set(modes)
    assert {name: mode for name, mode in modes.items() if mode not in ("root:haproxy 640", "root:root 600")} == {}
    assert "keeper:$5$" in fleet.on(GATEWAY, "cat /etc/sd-gateway/users")


def test_services_are_sandboxed(fleet: Any) -> None:
    units = {GATEWAY: ["sd-gateway"], "sd-fleet-1": ["sd-gateway-activity", "sd-mirror"]}
    for host, names in units.items():
        for name in names:
            report = fleet.on(host, f"systemd-analyze security --no-pager {name}.service || true")
            exposure = re.search(r"exposure level for \S+: ([\d.]+)", report)
            assert exposure and float(exposure[1]) <= 3.5, report
    # Debian's own service, which the package would have started.
    assert fleet.run(GATEWAY, "systemctl is-active haproxy").stdout.strip() == "inactive"


def test_no_unit_has_failed(fleet: Any) -> None:
    assert set(fleet.everywhere(MEMBERS, "systemctl --failed --no-legend --plain").values()) == {""}
