# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The web UI as its users reach it, from another machine on the network."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from testinfra.utils.ansible_runner import AnsibleRunner

UNIT = "sd-webui"


@dataclass
class WebUi:
    """The web UI of a host, with its login."""

    host: Any
    url: str
    login: tuple[str, str]

    def ask(self, path: str, login: bool = True, **options: Any) -> requests.Response:
        """What it answers; a POST where there is something to send."""
        options.setdefault("allow_redirects", False)
        method = "POST" if "json" in options or "data" in options else "GET"
        credentials = self.login if login else None
        return requests.request(method, self.url + path, auth=credentials, timeout=60, **options)

    def get(self, path: str) -> Any:
        """The JSON of an answer that has to be good."""
        answer = self.ask(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def generate(self, **asked: Any) -> tuple[str, dict[str, Any]]:
        """A tiny picture and what is said about it."""
        request = {"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 7, "sampler_name": "Euler", **asked}
        answer = self.ask("/sdapi/v1/txt2img", json=request)
        assert answer.status_code == 200, answer.text
        return answer.json()["images"][0], json.loads(answer.json()["info"])

    def browser(self) -> requests.Session:
        """A browser after its user has filled in the form."""
        session = requests.Session()
        user, password = self.login
        answer = session.post(f"{self.url}/login", data={"username": user, "password": password}, timeout=20)
        assert answer.status_code == 200, answer.text
        return session

    @property
    def pid(self) -> str:
        """The service's main process."""
        return str(self.host.check_output(f"systemctl show --property=MainPID --value {UNIT}"))

    @property
    def arguments(self) -> list[str]:
        """Its command line."""
        return str(self.host.check_output(f"tr '\\0' '\\n' < /proc/{self.pid}/cmdline")).splitlines()

    @property
    def release(self) -> str:
        """The current release, proven by its process."""
        self.host.check_output("python3 -Es /opt/sd-webui/libexec/check_running.py")
        return str(self.host.check_output("basename $(readlink -f /opt/sd-webui/current)"))

    @property
    def starts(self) -> int:
        """How often it was started so far."""
        return int(self.host.check_output(f"journalctl --quiet --output=cat -u {UNIT} | grep -c '^starting '"))

    def wait(self, seconds: int = 300) -> None:
        """Until the current release answers."""
        deadline = time.monotonic() + seconds
        while self.host.run("python3 -Es /opt/sd-webui/libexec/check_running.py").rc != 0:
            assert time.monotonic() < deadline, self.host.check_output(f"journalctl -u {UNIT} --no-pager -n 50")
            time.sleep(0.5)


@pytest.fixture
def webui(host: Any) -> WebUi:
    """The web UI of the scenario."""
    user, _, password = host.check_output("cat /etc/sd-webui/login").partition(":")
    engine = json.loads(host.check_output("cat /etc/sd-webui/engine.json"))
    return WebUi(host, f"http://{engine['address']}:{engine['port']}", (user, password))


@pytest.fixture
def asked_of_sources() -> Callable[[], list[dict[str, str]]]:
    """What was asked of the Git host and of PyTorch's index so far."""
    runner = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"])
    address = runner.get_variables("sd-sources")["ansible_host"]

    def asked() -> list[dict[str, str]]:
        found: list[dict[str, str]] = requests.get(f"http://{address}:8080/requests", timeout=20).json()
        return found

    return asked


@pytest.fixture
def untouched(host: Any, webui: WebUi) -> Iterator[None]:
    """The server runs on, the very same process with the very same files."""

    def state() -> tuple[str, str, str]:
        files = "cat /etc/sd-webui/* /srv/sd/webui/*.* | sha256sum; ls /opt/sd-webui/releases /var/cache"
        return webui.release, webui.pid, host.check_output(files)

    before = state()
    yield
    assert state() == before
