# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between Debian's releases: the Python, systemd's credentials, the sandbox, git."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests

testinfra_hosts = ["sd-a1111-11", "sd-a1111-13"]


@pytest.fixture
def url(host: Any) -> str:
    """Where the web UI listens."""
    engine = json.loads(host.check_output("cat /etc/sd-webui/engine.json"))
    return f"http://{engine['address']}:{engine['port']}"


@pytest.fixture
def login(host: Any) -> tuple[str, str]:
    """The generated one."""
    user, _, password = host.check_output("cat /etc/sd-webui/login").partition(":")
    return user, password


def test_the_python_that_fits(host: Any) -> None:
    version = host.check_output("/opt/sd-webui/current/venv/bin/python --version")
    brought_along = host.file("/opt/sd-webui/current/python/bin/python3").exists
    if host.system_info.release.startswith("11"):
        assert version.startswith("Python 3.9.") and not brought_along
    else:
        assert version.startswith("Python 3.11.") and brought_along


def test_the_login_is_in_front_and_fits(url: str, login: tuple[str, str]) -> None:
    assert requests.get(f"{url}/sdapi/v1/options", timeout=20).status_code == 401
    assert requests.get(f"{url}/internal/sysinfo", timeout=20).status_code == 401
    assert requests.get(f"{url}/sdapi/v1/options", auth=login, timeout=20).status_code == 200
    assert b"Log in" in requests.get(url, timeout=20).content


def test_a_picture(url: str, login: tuple[str, str]) -> None:
    asked = {"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 7}
    answer = requests.post(f"{url}/sdapi/v1/txt2img", json=asked, auth=login, timeout=60)
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1


def test_nobody_else_reads_the_login(host: Any) -> None:
    assert host.file("/etc/sd-webui/login").mode == 0o600
    places = "/run /etc /srv /opt/sd-webui/current/release.json /proc/[0-9]*/cmdline"
    found = host.run(f"cut -d: -f2- /etc/sd-webui/login | grep -rlsF -f - {places}").stdout.split()
    handed_over = {"/run/sd-webui/login", "/run/credentials/sd-webui.service/login"}
    assert "/etc/sd-webui/login" in found and set(found) <= {"/etc/sd-webui/login", *handed_over}
    for path in handed_over:
        assert host.run(f"runuser -u nobody -- cat {path}").rc != 0


def test_the_sandbox(host: Any) -> None:
    shown = host.check_output("systemd-analyze security sd-webui.service --no-pager | tail -n 1")
    # "Overall exposure level for sd-webui.service: 1.3 OK"
    assert float(shown.rpartition(":")[2].split()[0]) <= 3.5


def test_git_may_look_at_the_release(host: Any) -> None:
    asked = "HOME=/srv/sd/webui/cache/home git -C /opt/sd-webui/current/webui rev-parse HEAD"
    assert re.fullmatch("[0-9a-f]{40}", host.check_output(f"runuser -u sd -- env {asked}"))


def test_comes_back_and_stops_cleanly(host: Any) -> None:
    host.check_output("systemctl restart sd-webui")
    host.check_output("systemctl stop sd-webui")
    assert host.check_output("systemctl show --property=Result --value sd-webui") == "success"
    host.check_output("systemctl start sd-webui")
    host.check_output("python3 -Es /opt/sd-webui/libexec/check_running.py")
