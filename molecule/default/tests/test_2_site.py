# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does with a server that site.yml has made: run it again, ask, measure, pull the plug."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
HOST = "sd-site"


def test_ends_with_the_lines_that_open_the_page(host: Any, playbook: Any, address: str) -> None:
    # The scenario has just proven that a run of all of it changes nothing.
    run = playbook("playbooks/site.yml", HOST, "--tags", "gateway")
    assert run.returncode == 0 and run.changed == 0, run.output
    assert f"{HOST} is ready: open  https://{address}/  and log in as user." in run.output
    fingerprint = host.check_output("openssl x509 -noout -fingerprint -sha256 -in /etc/sd-gateway/certificate.pem")
    assert fingerprint.partition("=")[2] in run.output
    # The web UI itself is out of reach.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, 7860), timeout=30)


def test_the_cpu_serves_until_the_driver_of_the_card_runs(host: Any, playbook: Any) -> None:
    """A test host has no kernel of its own to load a module into, which is as before a reboot."""
    assert host.run("nvidia-smi").rc == 9
    assert host.check_output("cat /etc/sd-webui/profile") == "cpu"
    run = playbook("playbooks/site.yml", HOST, "--tags", "nvidia_driver")
    assert run.returncode == 0 and run.changed == 0, run.output
    assert "driver 530.30.02 is installed, but a container has no kernel of its own" in run.output
    assert "Until then the CPU does the work." in run.output


def test_report_changes_nothing(playbook: Any) -> None:
    run = playbook("playbooks/report.yml", HOST)
    assert run.returncode == 0 and run.changed == 0, run.output
    assert "stable_diffusion_cpp" in run.output


def test_benchmark(playbook: Any, tmp_path: Path) -> None:
    run = playbook("playbooks/benchmark.yml", HOST, benchmark_preset="smoke", benchmark_output_dir=str(tmp_path))
    assert run.returncode == 0, run.output
    report = json.loads((tmp_path / "smoke.json").read_text(encoding="utf-8"))
    assert report["guide"][0]["machine"] == "Quadro P600"
    assert report["results"][0]["seconds"] > 0
    assert (tmp_path / f"smoke-{HOST}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "smoke.svg").read_text(encoding="utf-8")


def test_comes_up_by_itself_after_a_reboot(host: Any) -> None:
    subprocess.run([str(ROOT / "tests/testbed/testbed"), "restart", HOST], check=True, timeout=180)
    deadline = time.monotonic() + 300
    while host.run("python3 -Es /opt/sd-webui/libexec/check_running.py").rc != 0:
        assert time.monotonic() < deadline
        time.sleep(0.5)
