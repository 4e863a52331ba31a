# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running state: the process, its answers, its sandbox, its return after a kill and a reboot."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
testinfra_hosts = ["sd-webui"]


def engine(host: Any) -> dict[str, Any]:
    """The contract file that other roles read."""
    return dict(json.loads(host.check_output("cat /etc/sd-webui/engine.json")))


def http(host: Any, path: str, data: str = "") -> str:
    """The body that the web UI answers with, asked from the host itself."""
    script = (
        "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], sys.argv[2].encode() or None).read().decode())"
    )
    return str(host.check_output(f"python3 -c {shlex.quote(script)} http://127.0.0.1:7860{path} {shlex.quote(data)}"))


def wait_until_running(host: Any, seconds: int = 300) -> None:
    """Until the current release's process answers on its health path."""
    deadline = time.monotonic() + seconds
    while host.run("python3 -Es /opt/sd-webui/libexec/check_running.py").rc != 0:
        assert time.monotonic() < deadline, host.check_output("journalctl -u sd-webui --no-pager -n 50")
        time.sleep(0.5)


def test_process_is_the_current_release(host: Any) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value sd-webui")
    executable = host.check_output(f"readlink /proc/{pid}/exe")
    assert executable == host.check_output("readlink -f /opt/sd-webui/current") + "/bin/sd-server"
    assert host.check_output(f"ps -o user= -p {pid}").strip() == "sd"


def test_listens_on_loopback_only(host: Any) -> None:
    listeners = host.check_output("ss -Hltn 'sport = :7860'").splitlines()
    assert [line.split()[3] for line in listeners] == ["127.0.0.1:7860"]


def test_engine_file_keeps_the_contract(host: Any) -> None:
    found = engine(host)
    assert found["schema"] == 1
    assert found["engine"] == "stable_diffusion_cpp"
    assert found["release"] == host.check_output("basename $(readlink -f /opt/sd-webui/current)")
    assert found["profiles"] == ["cpu"]
    for key in ("health_path", "readiness_path"):
        assert json.loads(http(host, found[key]))["sd_model_checkpoint"] == "random-sd15"


def test_page_is_the_built_front_end(host: Any) -> None:
    page = http(host, "/")
    assert len(page) > 100_000
    assert '<div id="app">' in page


def test_txt2img_makes_the_same_picture_for_the_same_seed(host: Any) -> None:
    request = json.dumps({"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 7, "sampler_name": "Euler"})
    first, second = (json.loads(http(host, "/sdapi/v1/txt2img", request))["images"][0] for _ in range(2))
    assert first == second
    assert first.startswith("iVBOR")


def test_sandbox(host: Any) -> None:
    report = host.run("systemd-analyze security --no-pager sd-webui.service").stdout
    exposure = re.search(r"exposure level for sd-webui.service: ([\d.]+)", report)
    assert exposure is not None and float(exposure.group(1)) <= 3.5, report
    pid = host.check_output("systemctl show --property=MainPID --value sd-webui")
    # What the kernel enforces on the process, not what the unit file says.
    status = host.check_output(f"cat /proc/{pid}/status")
    assert re.search(r"NoNewPrivs:\s+1", status) and re.search(r"Seccomp:\s+2", status)
    assert re.search(r"CapEff:\s+0000000000000000", status)
    inside = f"nsenter --target {pid} --mount --"
    assert host.run(f"{inside} touch /etc/sd-was-here").rc != 0
    assert host.run(f"{inside} touch /srv/sd/models/checkpoint/sd-was-here").rc != 0


def test_people_can_copy_models_in(host: Any) -> None:
    assert host.file("/srv/sd/models/lora").mode == 0o2775
    assert host.file("/srv/sd/models/lora").group == "sd"


def test_profiles(host: Any) -> None:
    assert "active:   cpu" in host.check_output("sd-profile status")
    refused = host.run("sd-profile gpu_lowvram")
    assert refused.rc == 2 and "choose cpu" in refused.stderr
    host.check_output("sd-profile cpu --for 6h --reason 'a large ControlNet'")
    assert "a large ControlNet" in host.check_output("sd-profile status")


def test_switching_the_profile_restarts_with_its_arguments(host: Any) -> None:
    """With a recipe of two profiles: the second one's arguments arrive, and clear goes back."""
    recipe = host.check_output("readlink -f /opt/sd-webui/current/release.json")
    host.check_output(f"cp -p {recipe} /root/release.json")
    data = json.loads(host.check_output(f"cat {recipe}"))
    data["profiles"]["gpu_full"] = {"arguments": ["--type", "f16", "--verbose"], "environment": {}}
    host.check_output(f"echo {shlex.quote(json.dumps(data))} > {recipe}")

    def arguments() -> list[str]:
        pid = host.check_output("systemctl show --property=MainPID --value sd-webui")
        return str(host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/cmdline")).split()

    try:
        assert "--verbose" not in arguments()
        host.check_output("sd-profile gpu_full --for 1h --reason test")
        assert "--verbose" in arguments()
        host.check_output("sd-profile clear")
        assert "--verbose" not in arguments()
    finally:
        host.check_output(f"rm -f /var/lib/sd-webui/profile-override.json; mv /root/release.json {recipe}")
    wait_until_running(host)


def test_site_does_not_clear_an_override(host: Any, playbook: Any) -> None:
    host.check_output("sd-profile cpu --for 6h --reason 'kept by the playbook'")
    run = playbook("playbooks/update.yml", "sd-webui")
    assert run.returncode == 0 and run.changed == 0, run.output
    assert "kept by the playbook" in host.check_output("sd-profile status")
    host.check_output("sd-profile clear")
    assert "override" not in host.check_output("sd-profile status")


def test_expired_override_ends(host: Any) -> None:
    override = '{"schema": 1, "profile": "cpu", "reason": "old", "expires": 1000, "set_by": "test"}'
    host.check_output(f"echo '{override}' | tee /var/lib/sd-webui/profile-override.json")
    assert "override" not in host.check_output("sd-profile status")
    host.check_output("systemctl start sd-profile-expire.service")
    assert not host.file("/var/lib/sd-webui/profile-override.json").exists
    wait_until_running(host)


def test_drain_waits_for_a_picture(host: Any) -> None:
    wait_until_running(host)
    request = json.dumps({"prompt": "a", "width": 192, "height": 192, "steps": 2, "seed": 7, "sampler_name": "Euler"})
    with ThreadPoolExecutor() as pool:
        picture = pool.submit(http, host, "/sdapi/v1/txt2img", request)
        # As soon as it has begun.
        while "the restart cuts it" not in host.check_output("python3 -Es /opt/sd-webui/libexec/drain.py --timeout 1"):
            assert not picture.done()
        assert not picture.done()
        assert host.check_output("python3 -Es /opt/sd-webui/libexec/drain.py --timeout 300") == ""
        assert json.loads(picture.result(timeout=300))["images"][0].startswith("iVBOR")


def test_comes_back_after_kill(host: Any) -> None:
    before = host.check_output("systemctl show --property=MainPID --value sd-webui")
    host.check_output(f"kill -9 {before}")
    time.sleep(1)
    wait_until_running(host)
    assert host.check_output("systemctl show --property=MainPID --value sd-webui") not in {before, "0"}


def test_stops_cleanly(host: Any) -> None:
    started = time.monotonic()
    host.check_output("systemctl stop sd-webui")
    assert time.monotonic() - started < 30
    assert host.check_output("systemctl show --property=Result --value sd-webui") == "success"
    host.check_output("systemctl start sd-webui")
    wait_until_running(host)


def test_stops_cleanly_while_it_starts(host: Any) -> None:
    host.check_output("systemctl stop sd-webui")
    starting = 'until [ "$(systemctl show --property=SubState --value sd-webui)" = start-post ]; do sleep 0.01; done'
    host.check_output(f"systemctl start --no-block sd-webui; timeout 30 sh -c {shlex.quote(starting)}")
    host.check_output("systemctl stop sd-webui")
    assert host.check_output("systemctl show --property=Result --value sd-webui") == "success"
    host.check_output("systemctl start sd-webui")


def test_comes_up_after_a_reboot(host: Any) -> None:
    subprocess.run([str(ROOT / "tests/testbed/testbed"), "restart", "sd-webui"], check=True, timeout=180)
    wait_until_running(host)
