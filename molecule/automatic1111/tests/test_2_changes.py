# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person changes stays, what the inventory changes arrives, and what cannot work is refused."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

testinfra_hosts = ["sd-a1111"]

UPDATE = "playbooks/update.yml"
TARGET = "sd-a1111"
STYLES = "/srv/sd/webui/styles.csv"


def styles(host: Any) -> dict[str, str]:
    """The prompts of styles.csv by name, in their order."""
    rows = csv.DictReader(io.StringIO(host.check_output(f"cat {STYLES}").lstrip("\ufeff")))
    return {row["name"]: row["prompt"] for row in rows}


def test_changes_arrive_and_a_persons_own_stay(host: Any, webui: Any, playbook: Any) -> None:
    """A setting and a style of their own stay; of the managed ones, those that the inventory changes are changed."""
    saved = webui.ask("/sdapi/v1/options", json={"jpeg_quality": 55, "CLIP_stop_at_last_layers": 4})
    assert saved.status_code == 200
    host.check_output(f'echo \'my own,"a, b","ugly"\' >> {STYLES}')
    run = playbook(
        UPDATE,
        TARGET,
        sd_webui_settings={"CLIP_stop_at_last_layers": 2, "eta_noise_seed_delta": 31337},
        sd_webui_styles=[{"name": "house style", "prompt": "{prompt}, water colour"}],
        scenario_extension_enabled=False,
        sd_webui_extra_args=["--api-log"],
        sd_webui_environment={"SD_TEST": "it's here"},
    )
    assert run.returncode == 0, run.output
    options = webui.get("/sdapi/v1/options")
    assert options["jpeg_quality"] == 55
    # Changed in the page, and not since in the inventory.
    assert options["CLIP_stop_at_last_layers"] == 4
    assert options["eta_noise_seed_delta"] == 31337
    assert styles(host) == {"house style": "{prompt}, water colour", "my own": "a, b"}
    assert options["disabled_extensions"] == ["sd-webui-greeting"]
    assert webui.ask("/secondhand-test/hello").status_code == 404
    assert "--api-log" in webui.arguments
    assert "SD_TEST=it's here" in host.check_output(f"tr '\\0' '\\n' < /proc/{webui.pid}/environ").splitlines()


def test_profiles_switch_in_one_restart(host: Any, webui: Any) -> None:
    """As a person does for a large ControlNet, and back."""
    assert "active:   cpu" in host.check_output("sd-profile status")
    assert "--lowvram" not in webui.arguments
    before = webui.starts
    host.check_output("sd-profile gpu_lowvram --for 1h --reason 'a test'")
    assert "--lowvram" in webui.arguments and "--use-cpu" not in webui.arguments
    assert "gpu_lowvram" in host.check_output("sd-profile status")
    environment = host.check_output(f"tr '\\0' '\\n' < /proc/{webui.pid}/environ")
    assert "PYTORCH_CUDA_ALLOC_CONF=" in environment
    host.check_output("sd-profile clear")
    assert "--use-cpu" in webui.arguments
    assert webui.starts == before + 2
    webui.generate()


def test_benchmark_logs_in(webui: Any, playbook: Any, tmp_path: Any) -> None:
    run = playbook(
        "playbooks/benchmark.yml", TARGET, "--become", benchmark_preset="smoke", benchmark_output_dir=str(tmp_path)
    )
    assert run.returncode == 0, run.output
    results = (tmp_path / "smoke.json").read_text()
    assert "tiny" in results
    assert webui.login[1] not in results + run.output


@pytest.mark.usefixtures("untouched")
def test_all_that_is_wrong_is_said_at_once(playbook: Any) -> None:
    """Flags that do not exist or open the server, and extensions that are not pinned."""
    wrong = {
        "sd_webui_extra_args": [
            "--no-such-flag",
            "--always-batch-cond-uncond",
            "--share",
            "--listen",
            "--api-auth=a:b",
            "--gradio-auth",
            "a:b",
            "--enable-insecure-extension-access",
            "--allow-code",
        ],
        "sd_webui_login_password": "a b",
        "sd_webui_extensions": [
            {"name": "one", "repository": "https://github.com/somebody/one.git", "commit": "v1.0"},
            {"name": "../two", "repository": "https://github.com/somebody/two.git", "commit": "0" * 40},
            {
                "name": "three",
                "repository": "https://github.com/somebody/three.git",
                "commit": "0" * 40,
                "requirements": ["webcolors"],
            },
        ],
        "sd_webui_requirements_lock": "/nowhere/lock.txt",
        "sd_webui_sources": {"webui": {"commit": "v1.10.1"}},
        "sd_webui_environment": {"COMMANDLINE_ARGS": "--share"},
    }
    run = playbook(UPDATE, TARGET, **wrong)
    assert run.returncode != 0
    for sentence in (
        "automatic1111 1.10.1 has no flag --no-such-flag; correct sd_webui_extra_args",
        "sd_webui_extra_args may not hold --share; a tunnel to the Internet has no place here.",
        "sd_webui_extra_args may not hold --listen; set sd_webui_address instead.",
        "sd_webui_extra_args may not hold --api-auth; set sd_webui_login_password instead.",
        "sd_webui_extra_args may not hold --gradio-auth; set sd_webui_login_password instead.",
        "--enable-insecure-extension-access; set sd_webui_insecure_extension_access instead.",
        "sd_webui_extra_args may not hold --allow-code; it lets everybody who reaches the page run programs.",
        "no comma or blank in sd_webui_login_password",
        "the extension one lacks its repository or its commit (40 digits); a branch or a tag can move",
        "an extension's name \"../two\" is no folder's name",
        'the extension three requires "webcolors", which is no exact version',
        "there is no lock file /nowhere/lock.txt on the controller",
        'sd_webui_sources.webui.commit "v1.10.1" is no commit; a branch or a tag can move',
        "sd_webui_environment may not hold COMMANDLINE_ARGS",
    ):
        assert sentence in run.message
    assert "a:b" not in run.message


def test_damaged_settings_are_not_lost(host: Any, webui: Any) -> None:
    """A disk that was full once: the web UI starts, with the managed values, and the damaged file is kept."""
    host.check_output("cp -p /srv/sd/webui/config.json /root/config.json")
    host.check_output("""printf '{"jpeg_quality": 5' | tee /srv/sd/webui/config.json""")
    host.check_output("systemctl restart sd-webui")
    try:
        assert webui.get("/sdapi/v1/options")["CLIP_stop_at_last_layers"] == 2
        kept = host.check_output("cat /srv/sd/webui/config.json.damaged-*")
        assert kept == '{"jpeg_quality": 5'
    finally:
        host.check_output("rm -f /srv/sd/webui/config.json.damaged-*; systemctl stop sd-webui")
        host.check_output("cp -p /root/config.json /srv/sd/webui/config.json; systemctl start sd-webui")
    assert webui.get("/sdapi/v1/options")["jpeg_quality"] == 55
