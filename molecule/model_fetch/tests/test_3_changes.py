# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Damage, other lists, wrong lists and two runs at a time. The tests run in the order of this file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from waiting import wait_for

testinfra_hosts = ["model-fetch"]

TARGET = "model-fetch"
ROLE = "molecule/model_fetch/converge.yml"
STORE = "/srv/sd/models"
ALONE = {"with_second_web_ui": False}
LATE = {"source": "civitai", "type": "lora", "version_id": 21}


def listed(*models: dict[str, Any]) -> dict[str, Any]:
    """Variables for a list of those, and nothing for ControlNet."""
    return {**ALONE, "model_fetch_models": list(models), "model_fetch_more_models": []}


def test_a_byte_that_has_changed_is_found_and_mended(host: Any, playbook: Any, hubs: Any) -> None:
    path = f"{STORE}/upscaler/upscaler.safetensors"
    file = hubs.files["upscaler.safetensors"]
    before = hubs.served("upscaler.safetensors")
    # Its size and its time stay as they were, so nothing but reading it can tell.
    host.check_output(
        f"touch -r {path} /run/time; printf X | dd of={path} bs=1 seek=900000 conv=notrunc status=none; "
        f"touch -r /run/time {path}"
    )
    model = {"source": "url", "type": "upscaler", "url": file["url"], "sha256": file["sha256"]}
    # And a list with gaps prunes nothing.
    settings = {"model_fetch_verify": "always", "model_fetch_prune": True, "model_fetch_list_is_whole": False}
    run = playbook(ROLE, TARGET, **listed(model), **settings)
    assert run.returncode == 0 and run.changed == 1, run.output
    assert "nothing is removed" in run.output
    assert host.file(path).sha256sum == file["sha256"]
    assert host.file(path).user == "sd"
    assert host.file(f"{STORE}/vae/vae.safetensors").exists
    assert hubs.served("upscaler.safetensors") - before <= file["size"] + 10


def test_wrong_lists_are_refused_as_a_whole(host: Any, playbook: Any, hubs: Any) -> None:
    before = len(hubs.requests())
    wrong: dict[str, dict[str, Any]] = {
        'has the source "ftp"; set source to one of civitai, huggingface, url, local, git.': {"source": "ftp"},
        'has the type "loras"; set type to one of checkpoint': {"source": "civitai", "type": "loras", "version_id": 1},
        "has to be named by one of model_id, version_id, air and hash": {"source": "civitai", "type": "lora"},
        "(detail.safetensors) lacks the sha256 of what its url serves": {
            "source": "url",
            "type": "lora",
            "url": "https://example.org/detail.safetensors",
        },
        "is a pickle, which can run programs when it is loaded, and nobody vouches for it": {
            "source": "huggingface",
            "type": "vae",
            "repository": "maker/vae",
            "file": "vae.pt",
            "pickle": "allow",
        },
        "holds a secret (token), which logs would show": {
            "source": "civitai",
            "type": "lora",
            "version_id": 11,
            "token": "sesame-open",
        },
        "which is no path below the folder of its type": {
            "source": "civitai",
            "type": "lora",
            "version_id": 11,
            "name": "../../etc/cron.d/x",
        },
        "lacks its commit; a branch or a tag can move": {
            "source": "git",
            "type": "lora",
            "repository": "https://example.org/x.git",
            "file": "x.safetensors",
            "commit": "main",
        },
        "which is no file on the controller": {"source": "local", "type": "lora", "src": "/nonexistent"},
        'names the preset "sd16", which does not exist; use one of stable-diffusion-1.5': {"preset": "sd16"},
    }
    settings = {"model_fetch_pickle": "allow", "model_fetch_store": "/srv", "model_fetch_connections": 99}
    run = playbook(ROLE, TARGET, **listed(*wrong.values()), **settings)
    assert run.returncode != 0
    assert [sentence for sentence in wrong if sentence not in run.message] == [], run.message
    for name in settings:
        assert name in run.message, name
    assert len(hubs.requests()) == before
    assert "sesame-open" not in run.message


def test_two_runs_at_once_and_a_model_that_is_gone(host: Any, playbook: Any, hubs: Any, webui: Any, told: Any) -> None:
    """They wait for each other, and what cannot be had keeps nothing else away."""
    count = len(webui.refreshes())
    control = (
        'import urllib.request as u; u.urlopen("http://127.0.0.3:8192/_control", b\'{"bytes_per_second": 1000000}\')'
    )
    host.check_output("python3 -c %s", control)
    slow = hubs.files["slow.safetensors"]
    wanted = listed(
        {"source": "civitai", "type": "lora", "version_id": 31},
        LATE,
        {"source": "url", "type": "lora", "url": slow["url"], "sha256": slow["sha256"]},
    )
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda _number: playbook(ROLE, TARGET, **wanted), range(2)))
    for run in runs:
        assert run.returncode != 0
        assert run.message.startswith("model-fetch: lora a file from Civitai version_id 31: "), run.message
    assert host.file(f"{STORE}/lora/slow.safetensors").sha256sum == slow["sha256"]
    assert hubs.served("slow.safetensors") <= slow["size"] + 10
    record = json.loads(host.check_output("cat /var/lib/secondhand-diffusion/model_fetch.json"))["stores"][STORE]
    assert {record[f"{STORE}/lora/{name}.safetensors"]["ours"] for name in ("slow", "late")} == {True}
    # The role was stopped, the watch was not.
    wait_for(lambda: all(f"lora/{name}.safetensors" in " ".join(told()) for name in ("slow", "late")))
    assert set(webui.refreshes()[count:]) == {"refresh-loras"}


def test_prune_lists_first_and_takes_only_what_the_role_has_fetched(host: Any, playbook: Any, webui: Any) -> None:
    # Somebody goes on working with one of them, and one is served.
    host.check_output(f"echo more >>{STORE}/vae/vae.safetensors")
    before = host.check_output(f"find {STORE} -type f | sort").splitlines()
    # An INI inventory and -e name=value give nothing but text; and false is false, not a word.
    texts = [
        "model_fetch_prune=true",
        "model_fetch_watch=false",
        "with_second_web_ui=false",
        "model_fetch_connections=4",
    ]
    texts += [
        "model_fetch_refresh=true",
        "model_fetch_presets=",
        "model_fetch_more_models=[]",
        "model_fetch_rate_limit=",
    ]
    lists = json.dumps({"model_fetch_models": json.dumps([LATE])})
    words = [word for text in [*texts, lists] for word in ("-e", text)]
    look = playbook(ROLE, TARGET, "--check", *words)
    assert look.returncode == 0, look.output
    assert "Stop the watch" in look.output
    assert host.check_output(f"find {STORE} -type f | sort").splitlines() == before
    # The role tells the web UI itself, without the watch, which it brings back.
    host.check_output("systemctl stop secondhand-model-watch.path secondhand-model-watch.timer")
    count = len(webui.refreshes())
    run = playbook(ROLE, TARGET, **listed(LATE), model_fetch_prune=True)
    assert run.returncode == 0, run.output
    for output in (look.output, run.output):
        assert f"{STORE}/lora/slow.safetensors is in no list any more and goes." in output
        assert f"{STORE}/vae/vae.safetensors was changed by somebody since it was fetched, so it stays" in output
        assert f"{STORE}/checkpoint/big.safetensors is the checkpoint that the web UI serves, so it stays" in output
    after = host.check_output(f"find {STORE} -type f | sort").splitlines()
    gone = {f"{STORE}/lora/style/lora.{end}" for end in ("safetensors", "civitai.info", "preview.jpeg")}
    gone |= {f"{STORE}/lora/slow.safetensors", f"{STORE}/upscaler/upscaler.safetensors"}
    gone |= {f"{STORE}/annotator/openpose/{name}.pth" for name in ("body", "hand")}
    gone |= {f"{STORE}/controlnet/control_v11p.safetensors", f"{STORE}/embedding/mine.safetensors"}
    assert set(before) - set(after) == gone
    # What belongs to another store is not this list's business.
    assert host.file("/srv/stable-diffusion-webui/models/VAE/vae.safetensors").exists
    assert host.service("secondhand-model-watch.path").is_running
    assert "told the web UI (gone: annotator/openpose/body.pth, " in run.output
    assert set(webui.refreshes()[count:]) >= {"refresh-loras", "refresh-embeddings"}


def test_the_checkpoint_of_the_web_ui_comes_the_same_way(host: Any, playbook: Any) -> None:
    wanted = {
        **listed(),
        "sd_webui_engine": "stable_diffusion_cpp",
        "sd_webui_checkpoint": "served.safetensors",
        "sd_webui_checkpoint_source": json.dumps({"source": "civitai", "version_id": 21, "sidecar": False}),
    }
    run = playbook("playbooks/models.yml", TARGET, **wanted)
    assert run.returncode == 0, run.output
    path = f"{STORE}/checkpoint/served.safetensors"
    assert host.check_output(f"stat --format='%U %G %a' {path}") == "sd sd 664"
    # It is the web UI's and not in this role's list, so nothing would ever prune it.
    assert path not in host.check_output("cat /var/lib/secondhand-diffusion/model_fetch.json")
