# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What converge has left: the models, what the hubs were asked, and what nobody was told."""

from __future__ import annotations

import json
from typing import Any

testinfra_hosts = ["model-fetch"]

TARGET = "model-fetch"
ROLE = "molecule/model_fetch/converge.yml"
STORE = "/srv/sd/models"
# Path in the store, and its name at the hubs where they have it.
FETCHED = {
    "lora/style/lora.safetensors": "lora.safetensors",
    "vae/vae.safetensors": "vae.safetensors",
    "upscaler/upscaler.safetensors": "upscaler.safetensors",
    "controlnet/control_v11p.safetensors": "control.safetensors",
    "annotator/openpose/body.pth": "annotator.pth",
    "annotator/openpose/hand.pth": "annotator.pth",
    "embedding/mine.safetensors": None,
    "checkpoint/big.safetensors": None,
    "checkpoint/small.safetensors": None,
}


def test_one_of_each_source_is_in_the_folder_of_its_type(host: Any, hubs: Any) -> None:
    paths = " ".join(FETCHED)
    shown = host.check_output(f"cd {STORE} && stat --format='%U %G %a' {paths} && sha256sum {paths}").splitlines()
    assert set(shown[: len(FETCHED)]) == {"sd sd 664"}
    digests = dict(zip(FETCHED, (line.split()[0] for line in shown[len(FETCHED) :])))
    assert {path: digests[path] for path, name in FETCHED.items() if name} == {
        path: hubs.files[name]["sha256"] for path, name in FETCHED.items() if name
    }
    # What Git LFS has, and not the pointer to it.
    assert host.file(f"{STORE}/checkpoint/big.safetensors").size == 2_000_085
    # And nothing is left of the way there.
    assert host.check_output("find /srv/sd /var/cache/secondhand-diffusion -name '*.part*' -o -name 'git-*'") == ""


def test_folders_take_what_people_copy_in(host: Any) -> None:
    shown = host.check_output(f"find {STORE} -type d -printf '%u %g %m %P\\n'").splitlines()
    assert {line.split()[-1] for line in shown} >= {"checkpoint", "hypernetwork", "lora/style", "annotator/openpose"}
    assert {tuple(line.split()[:3]) for line in shown} == {("sd", "sd", "2775")}


def test_civitai_files_lie_beside_the_model(host: Any) -> None:
    known = json.loads(host.file(f"{STORE}/lora/style/lora.civitai.info").content_string)
    assert known["trainedWords"] == ["detailed"]
    assert host.file(f"{STORE}/lora/style/lora.preview.jpeg").user == "sd"


def test_a_second_web_ui_gets_the_same_file(host: Any, hubs: Any) -> None:
    for there, here, name in (
        ("models/VAE", "vae", "vae.safetensors"),
        ("models/ESRGAN", "upscaler", "upscaler.safetensors"),
    ):
        numbers = host.check_output(
            f"stat -c %i /srv/stable-diffusion-webui/{there}/{name} {STORE}/{here}/{name}"
        ).splitlines()
        assert len(set(numbers)) == 1
        # And a byte to ask where it is, each time that somebody asks.
        assert hubs.served(name) <= hubs.files[name]["size"] + 10


def test_no_token_leaves_the_hubs(host: Any, hubs: Any) -> None:
    seen: dict[str, set[str]] = {token: set() for token in hubs.tokens.values()}
    for request in hubs.requests():
        for token in seen:
            if token in json.dumps(request):
                seen[token].add(request["server"])
    assert seen == {hubs.tokens["civitai"]: {"civitai"}, hubs.tokens["huggingface"]: {"huggingface"}}
    # The first letter apart, so that the question itself, which sudo writes down, is no answer.
    pattern = "|".join(f"[{token[0]}]{token[1:]}" for token in seen)
    places = "/srv/sd /srv/stable-diffusion-webui /var/lib/secondhand-diffusion /etc /tmp /var/tmp /root /home"
    assert host.run(f"grep -rlE '{pattern}' {places}").stdout == ""
    assert host.run(f"journalctl --quiet --output=cat | grep -E '{pattern}'").stdout == ""


def test_a_second_run_changes_nothing_and_asks_nobody(playbook: Any, hubs: Any) -> None:
    before = len(hubs.requests())
    run = playbook(ROLE, TARGET, "-vvv")
    assert run.returncode == 0 and run.changed == 0, run.output
    # Not even for what names no commit: it was fetched, and is as it was.
    assert len(hubs.requests()) == before
    assert [token for token in hubs.tokens.values() if token in run.output] == []


def test_the_watch_runs_and_is_sandboxed(host: Any) -> None:
    for unit in ("secondhand-model-watch.path", "secondhand-model-watch.timer"):
        assert host.service(unit).is_running and host.service(unit).is_enabled, unit
    host.check_output("systemd-analyze verify /etc/systemd/system/secondhand-model-watch.service")
    host.check_output("systemd-analyze security --threshold=35 secondhand-model-watch.service")
