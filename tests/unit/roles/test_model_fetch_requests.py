# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a list of models to requests: where each goes, what its module gets, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.secondhand.diffusion.plugins.filter.controlnet import controlnet
from ansible_collections.secondhand.diffusion.plugins.filter.model_requests import OPTIONS, TYPES, FilterModule

ROOT = Path(__file__).parents[3]
VARS: dict[str, Any] = yaml.safe_load((ROOT / "roles/model_fetch/vars/main.yml").read_text(encoding="utf-8"))
PRESETS: dict[str, Any] = yaml.safe_load((ROOT / "roles/model_fetch/vars/presets.yml").read_text(encoding="utf-8"))[
    "_model_fetch_presets"
]
FOLDERS = {kind: f"/srv/sd/models/{kind}" for kind in TYPES}
SHA256 = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LORA: dict[str, Any] = {"source": "civitai", "type": "lora", "version_id": 128713}
VAE: dict[str, Any] = {
    "source": "huggingface",
    "type": "vae",
    "repository": "maker/vae",
    "file": "models/vae.safetensors",
}
LINK: dict[str, Any] = {
    "source": "url",
    "type": "upscaler",
    "url": "https://example.org/up.safetensors",
    "sha256": SHA256,
}
GIT: dict[str, Any] = {
    "source": "git",
    "type": "checkpoint",
    "repository": "https://example.org/models.git",
    "commit": COMMIT,
    "include": ["*.safetensors"],
}


def plan(*models: Any, **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = FilterModule().filters()["model_requests"](list(models), PRESETS, FOLDERS, **options)
    return made


def one(model: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The only request, where nothing is wrong."""
    made = plan(model, **options)
    assert made["problems"] == []
    request: dict[str, Any] = made["requests"][0]
    return request


def refused(model: Any, **options: Any) -> str:
    """The only sentence."""
    made = plan(model, **options)
    assert made["requests"] == [] and len(made["problems"]) == 1, made
    return str(made["problems"][0])


@pytest.mark.parametrize(
    ("model", "dest"),
    [
        (LORA, "lora/"),
        ({**LORA, "name": "style/"}, "lora/style/"),
        ({**LORA, "name": "style/mine.safetensors"}, "lora/style/mine.safetensors"),
        (VAE, "vae/vae.safetensors"),
        ({**VAE, "name": "other.safetensors"}, "vae/other.safetensors"),
        ({"type": "vae", "source": "huggingface", "repository": "a/b", "allow_patterns": "*.safetensors"}, "vae/"),
        (
            {"type": "vae", "source": "huggingface", "repository": "a/b", "allow_patterns": ["*"], "name": "all"},
            "vae/all/",
        ),
        (LINK, "upscaler/"),
        (GIT, "checkpoint/"),
        ({**GIT, "include": None, "file": "models/a.safetensors"}, "checkpoint/a.safetensors"),
    ],
)
def test_the_type_decides_the_folder(model: dict[str, Any], dest: str) -> None:
    request = one(model)
    assert request["dest"] == f"/srv/sd/models/{dest}"
    assert request["folder"] == request["dest"].rpartition("/")[0]


def test_what_the_module_gets_is_what_is_asked_about(tmp_path: Path) -> None:
    assert one({**LORA, "version_id": "128713", "sidecar": "no"})["options"] == {
        "version_id": 128713,
        "sidecar": False,
        "pickle": "deny",
    }
    request = one({**LINK, "mirrors": "http://192.168.1.10:8190"}, mirrors=["/mnt/models"])
    assert request["mirrors"] == ["http://192.168.1.10:8190", "/mnt/models"]
    assert request["question"] == {"source": "url", "dest": request["dest"], **request["options"]}
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"a")
    local = {"source": "local", "type": "lora", "src": str(mine)}
    before = one(local)
    assert before["options"]["src"] == str(mine) and before["dest"].endswith("lora/mine.safetensors")
    # A file that has changed on the controller is another request.
    mine.write_bytes(b"ab")
    assert one(local)["key"] != before["key"]


def test_remarks_change_nothing() -> None:
    remarks = {"description": "Better eyes", "note": "a", "size_mb": 335, "needed_by": ["openpose"]}
    assert one({**VAE, **remarks}) == one(VAE)


def test_every_type_has_a_folder_in_every_layout() -> None:
    assert list(VARS["_model_fetch_layouts"]) == ["store", "automatic1111", "comfyui"]
    assert {tuple(folders) for folders in VARS["_model_fetch_layouts"].values()} == {TYPES}


def test_the_role_hands_on_every_option() -> None:
    tasks = yaml.safe_load((ROOT / "roles/model_fetch/tasks/fetch.yml").read_text(encoding="utf-8"))
    modules = {"civitai": "civitai_download", "huggingface": "huggingface_download", "url": "url_download"}
    modules["local"] = "resumable_copy"
    for source, module in modules.items():
        found = [task for task in tasks[0]["block"] if f"secondhand.diffusion.{module}" in task]
        given = found[0][f"secondhand.diffusion.{module}"]
        assert [name for name in OPTIONS[source] if name not in given] == [], module
        assert given["pickle"] == "{{ item.options.pickle }}"


# Pickles


def test_a_pickle_is_allowed_by_its_checksum_alone() -> None:
    annotator = {**VAE, "type": "annotator", "file": "body.pth", "pickle": True}
    assert one({**annotator, "sha256": SHA256.upper()})["options"]["pickle"] == "allow"
    assert "nobody vouches for it" in refused(annotator)
    # Who writes allow means that one; a list of another role only says that it is a pickle.
    assert one(annotator, pickle="scan")["options"]["pickle"] == "scan"
    assert "nobody vouches for it" in refused({**annotator, "pickle": "allow"}, pickle="scan")
    assert one({**annotator, "pickle": False}, pickle="scan")["options"]["pickle"] == "scan"
    assert one(VAE, pickle="scan")["options"]["pickle"] == "deny"
    assert one({**annotator, "pickle": "scan"})["options"]["pickle"] == "scan"


# Lists


def test_presets_alone_and_beside_the_list() -> None:
    vae = PRESETS["sd-vae-ft-mse"]["models"][0]
    assert one({"preset": "sd-vae-ft-mse"}) == one(vae)
    assert plan(chosen=["sd-vae-ft-mse"])["requests"] == plan(vae)["requests"]
    assert len(plan(chosen="sd-vae-ft-mse, lcm-lora-sd15")["requests"]) == 2
    assert len(plan(chosen='["sd-vae-ft-mse", "lcm-lora-sd15"]')["requests"]) == 2
    assert 'model_fetch_presets names the preset "sd16"' in plan(chosen=["sd16"])["problems"][0]
    assert "a preset stands alone" in refused({"preset": "sd-vae-ft-mse", "name": "x"})


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_asked_for(name: str) -> None:
    made = plan(chosen=[name])
    assert made["problems"] == []
    assert len(made["requests"]) == len(PRESETS[name]["models"])


def test_readme_names_every_preset() -> None:
    readme = (ROOT / "roles/model_fetch/README.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        size = sum(model.get("size_mb", 0) for model in preset["models"]) / 1000
        assert f"| `{name}` | {preset['description']} | {size:.1f} GB |" in readme


def test_the_list_for_controlnet_is_taken_as_it_is() -> None:
    table = yaml.safe_load((ROOT / "roles/sd_webui/vars/controlnet.yml").read_text(encoding="utf-8"))
    choice = controlnet(["openpose", "canny", "depth"], table["_sd_webui_controlnet"])
    made = plan(more=choice["models"])
    assert made["problems"] == []
    assert [request["dest"].rpartition("/models/")[2] for request in made["requests"]] == [
        f"{model['type']}/{model['name']}" for model in choice["models"]
    ]
    # A preset names some of the same files, in its own words.
    both = plan(chosen=["controlnet-1.1", "controlnet-annotators"], more=choice["models"])
    assert both["problems"] == []
    destinations = [request["dest"] for request in both["requests"]]
    assert len(destinations) == len(set(destinations))


def test_text_from_an_ini_inventory() -> None:
    made = FilterModule().filters()["model_requests"](json.dumps([LORA, VAE]), PRESETS, FOLDERS, more="")
    assert made == plan(LORA, VAE)
    made = FilterModule().filters()["model_requests"]("[{source: civitai}]", PRESETS, FOLDERS)
    assert made["requests"] == [] and made["problems"][0].startswith("model_fetch_models is no JSON (")
    made = FilterModule().filters()["model_requests"]('{"source": "civitai"}', PRESETS, FOLDERS)
    assert made["problems"] == [
        "model_fetch_models is no list of models; begin each with a hyphen, or put brackets around them."
    ]


def test_the_same_twice_is_once_and_two_at_one_place_are_refused() -> None:
    assert len(plan(VAE, dict(VAE))["requests"]) == 1
    other = {**VAE, "repository": "maker/other"}
    assert plan(VAE, other)["problems"] == [
        "entry 2 of model_fetch_models (vae.safetensors) wants to be /srv/sd/models/vae/vae.safetensors, which "
        "entry 1 of model_fetch_models (vae.safetensors) wants to be as well; rename one of them."
    ]
    # The same content from two places is the same.
    assert len(plan({**VAE, "sha256": SHA256}, {**other, "sha256": SHA256})["requests"]) == 1


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("civitai", 'is "civitai", which is no model'),
        (
            {**LORA, "source": "ftp"},
            'has the source "ftp"; set source to one of civitai, huggingface, url, local, git.',
        ),
        ({"type": "lora"}, 'has the source ""'),
        ({**LORA, "type": "loras"}, 'has the type "loras"; set type to one of checkpoint'),
        ({**LORA, "modelid": 1}, 'has "modelid", which source civitai does not know; it knows air, file_format'),
        ({**LORA, "token": "sesame"}, "holds a secret (token), which logs would show"),
        ({**LORA, "model_id": 1}, "has to be named by one of model_id, version_id, air and hash"),
        ({**LORA, "version_id": "latest"}, 'has the version_id "latest", which is no number'),
        ({**LORA, "name": "../x"}, 'has the name "../x", which is no path below the folder of its type'),
        ({**LORA, "name": "/etc/x"}, "which is no path below"),
        ({**LORA, "name": "a/-rf"}, "which is no path below"),
        ({**LORA, "name": "a\nb"}, "which is no path below"),
        ({**LORA, "sha256": "6ce01616"}, 'has the sha256 "6ce01616", which is none'),
        ({**LORA, "pickle": "maybe"}, 'has the pickle "maybe"; set it to deny, scan or allow.'),
        ({**VAE, "file": ""}, "lacks its file; name it, or name several with allow_patterns"),
        ({**VAE, "repository": ""}, "lacks its repository"),
        ({**VAE, "allow_patterns": "*"}, "has both a file and patterns"),
        ({**LINK, "sha256": None}, "lacks the sha256 of what its url serves"),
        ({**LINK, "url": "up.safetensors"}, 'has the url "up.safetensors", which is no address'),
        ({**LINK, "url": "https://me:sesame@example.org/x"}, "has a secret in its url on example.org"),
        ({**LINK, "url": "https://example.org/x?token=sesame"}, "has a secret in its url on example.org"),
        ({**GIT, "commit": "main"}, "lacks its commit; a branch or a tag can move"),
        ({**GIT, "repository": "ext::sh -c id"}, "which is no address for git"),
        ({**GIT, "repository": "--upload-pack=id"}, "which is no address for git"),
        ({**GIT, "repository": "https://me:sesame@example.org/x.git"}, "has a secret in the address of its repository"),
        ({**GIT, "file": "a"}, "names no file or two kinds"),
        ({**GIT, "name": "a.safetensors"}, "for several files; end it with a slash"),
        ({"source": "local", "type": "lora", "src": "/nonexistent"}, "which is no file on the controller"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(model: Any, sentence: str) -> None:
    said = refused(model)
    assert said.startswith("entry 1 of model_fetch_models") and sentence in said
    assert said.endswith(".") and "sesame" not in said


def test_a_link_may_say_that_nobody_knows_its_checksum() -> None:
    assert one({**LINK, "sha256": "none"})["options"]["sha256"] == "none"
