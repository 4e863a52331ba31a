# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of role model_fetch share: the hubs' log, and a web UI that says what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waiting import wait_for

LOGIN = "sd:secret-of-the-web-ui"


class Hubs:
    """The stand-ins on the host."""

    def __init__(self, host: Any) -> None:
        self.host = host
        described = json.loads(host.check_output("cat /srv/hub-files/hubs.json"))
        self.tokens: dict[str, str] = described["tokens"]
        self.files: dict[str, dict[str, Any]] = described["files"]

    def requests(self) -> list[dict[str, Any]]:
        """All so far, the oldest first."""
        lines = self.host.check_output("cat /srv/hub-files/requests.jsonl").splitlines()
        return [json.loads(line) for line in lines]

    def served(self, name: str) -> int:
        """Bytes of a file that have left the storage host."""
        return sum(
            request["bytes_sent"]
            for request in self.requests()
            if request["server"] == "storage" and f"/{name}" in request["path"]
        )


@pytest.fixture
def hubs(host: Any) -> Hubs:
    return Hubs(host)


class WebUi:
    """The stand-in of the web UI, as a service of the host."""

    def __init__(self, host: Any) -> None:
        self.host = host

    def asked(self) -> list[str]:
        """Method and path of what it was asked."""
        lines = self.host.check_output("journalctl --quiet --unit=sd-webui --output=cat").splitlines()
        found = [json.loads(line) for line in lines if line.startswith('{"method"')]
        return [f"{request['method']} {request['path']}" for request in found]

    def refreshes(self) -> list[str]:
        """The lists that it was asked to read again."""
        return [line.rpartition("/")[2] for line in self.asked() if "refresh-" in line or "model_list" in line]


@pytest.fixture
def told(host: Any) -> Callable[[], list[str]]:
    """What the watch has said so far."""
    command = "journalctl --quiet --unit=secondhand-model-watch --output=cat"
    return lambda: [str(line) for line in host.check_output(command).splitlines()]


@pytest.fixture(scope="module")
def webui(host: Any) -> Iterator[WebUi]:
    """Runs as the service's user, like the real one, with a login; makes a picture at one step a second."""
    host.check_output(
        "systemd-run --quiet --unit=sd-webui --uid=sd python3 -B /srv/webui.py --kind automatic1111 --log "
        f"--auth {LOGIN} --seconds-per-step 1"
    )
    wait_for(lambda: host.run("ss -Hltn 'sport = :7860'").stdout)
    yield WebUi(host)
    host.check_output("systemctl stop sd-webui")
