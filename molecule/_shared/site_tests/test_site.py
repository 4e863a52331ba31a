# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every supported Debian release has to show after site.yml."""

from __future__ import annotations

import json
import time
from typing import Any


def test_serves_and_comes_back(host: Any) -> None:
    host.check_output("python3 -Es /opt/sd-webui/libexec/check_running.py")
    pid = host.check_output("systemctl show --property=MainPID --value sd-webui")
    host.check_output(f"kill -9 {pid}")
    time.sleep(1)
    deadline = time.monotonic() + 300
    while host.run("python3 -Es /opt/sd-webui/libexec/check_running.py").rc != 0:
        assert time.monotonic() < deadline, host.check_output("journalctl -u sd-webui --no-pager -n 50")
        time.sleep(0.5)
    request = json.dumps({"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 7, "sampler_name": "Euler"})
    answer = host.check_output(f"wget -q -O- --post-data='{request}' http://127.0.0.1:7860/sdapi/v1/txt2img")
    assert json.loads(answer)["images"][0].startswith("iVBOR")


def test_page(host: Any) -> None:
    assert len(host.check_output("wget -q -O- http://127.0.0.1:7860/")) > 100_000


def test_is_sandboxed(host: Any) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value sd-webui")
    status = host.check_output(f"cat /proc/{pid}/status")
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status and "CapEff:\t0000000000000000" in status


def test_reset_takes_it_away(host: Any, playbook: Any) -> None:
    name = host.check_output("hostname")
    run = playbook("playbooks/reset.yml", name)
    assert run.returncode == 0, run.output
    for path in ("/opt/sd-webui", "/etc/sd-webui", "/var/lib/sd-webui", "/etc/systemd/system/sd-webui.service"):
        assert not host.file(path).exists
    assert host.file("/srv/sd/models/checkpoint/random-sd15.safetensors").exists
    assert playbook("playbooks/reset.yml", name).changed == 0
