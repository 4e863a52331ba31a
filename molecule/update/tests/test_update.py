# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An update to the next pinned version, and the way back, by what the running process is."""

from __future__ import annotations

import json
from typing import Any

HOST = "sd-update"


def running(host: Any) -> str:
    """The version that answers, proven by its process."""
    host.check_output("python3 -Es /opt/sd-webui/libexec/check_running.py")
    pid = host.check_output("systemctl show --property=MainPID --value sd-webui")
    release = host.check_output(f"readlink /proc/{pid}/exe").rpartition("/bin/")[0]
    assert release == host.check_output("readlink -f /opt/sd-webui/current")
    return str(json.loads(host.check_output(f"cat {release}/release.json"))["version"])


def test_update_and_way_back(host: Any, playbook: Any) -> None:
    assert running(host) == "0.4.6"
    update = playbook("playbooks/update.yml", HOST, sd_webui_version="0.4.7")
    assert update.returncode == 0, update.output
    assert running(host) == "0.4.7"
    assert json.loads(host.check_output("cat /etc/sd-webui/engine.json"))["version"] == "0.4.7"

    back = playbook("playbooks/update.yml", HOST, sd_webui_version="previous")
    assert back.returncode == 0, back.output
    assert running(host) == "0.4.6"
