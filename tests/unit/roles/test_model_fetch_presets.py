"""The presets: nothing without a checksum that could run code, and the same files as ControlNet's table names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.secondhand.diffusion.plugins.filter.model_requests import TYPES, FilterModule

ROOT = Path(__file__).parents[3]
FILE = (ROOT / "roles/model_fetch/vars/presets.yml").read_text(encoding="utf-8")
PRESETS: dict[str, Any] = yaml.safe_load(FILE)["_model_fetch_presets"]
CONTROLNET: dict[str, Any] = yaml.safe_load((ROOT / "roles/sd_webui/vars/controlnet.yml").read_text(encoding="utf-8"))[
    "_sd_webui_controlnet"
]
MODELS: list[dict[str, Any]] = [model for preset in PRESETS.values() for model in preset["models"]]
FOLDERS = {kind: f"/srv/sd/models/{kind}" for kind in TYPES}


def place(model: dict[str, Any]) -> str:
    """Where it lies below the store."""
    return f"{model['type']}/{model.get('name') or Path(model['file']).name}"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_asked_for(name: str) -> None:
    plan = FilterModule().filters()["model_requests"]([], PRESETS, chosen=[name], folders=FOLDERS)
    assert plan["problems"] == []
    assert len(plan["requests"]) == len(PRESETS[name]["models"])
    assert PRESETS[name]["description"]


def test_what_may_hold_code_has_a_checksum() -> None:
    for model in MODELS:
        holds_code = not place(model).endswith((".safetensors", ".onnx"))
        assert model.get("pickle", False) is holds_code, place(model)
        assert "sha256" in model or not holds_code, place(model)


def test_checksums_and_commits_are_whole() -> None:
    """And each checksum stands once: one that was copied to a second file would refuse that one for ever."""
    checksums = [model["sha256"] for model in MODELS if "sha256" in model]
    assert [checksum for checksum in checksums if not re.fullmatch("[0-9a-f]{64}", checksum)] == []
    assert len(checksums) == len(set(checksums))
    for model in MODELS:
        assert model["source"] == "url" or re.fullmatch("[0-9a-f]{40}|main", model["revision"]), place(model)


def test_no_two_files_have_one_place() -> None:
    places = [place(model) for model in MODELS]
    assert len(places) == len(set(places))


def test_every_checksum_names_a_source_that_is_described() -> None:
    described = set(re.findall(r"^#   ([a-z0-9-]+) ", FILE, re.MULTILINE))
    lines = re.findall(r"^ {6}# SHA-256: (.+)\.\n(?: {6}[- ] .+\n)+", FILE, re.MULTILINE)
    assert len(lines) == len(MODELS)
    named = {name for line in lines if line != "the hub's own" for name in line.split(", ") if " " not in name}
    assert named == described
    assert [line == "the hub's own" for line in lines] == ["sha256" not in model for model in MODELS]


def test_the_same_files_as_in_the_table_of_controlnet() -> None:
    """Who takes a preset and later the list of sd_webui_controlnet gets nothing twice."""
    table = {
        f"{kind}/{name}": {
            "repository": source["repository"],
            "revision": CONTROLNET["revisions"].get(source["repository"], "main"),
            "file": source.get("file", name),
            **{key: source[key] for key in ("size_mb", "sha256") if key in source},
        }
        for kind, section in (("controlnet", "models"), ("annotator", "annotators"))
        for name, source in CONTROLNET[section].items()
    }
    presets = {
        place(model): {key: value for key, value in model.items() if key not in ("source", "type", "name", "pickle")}
        for model in MODELS
        if model["type"] in ("controlnet", "annotator")
    }
    missing = set(table) - set(presets)
    assert {name: table[name] for name in presets} == presets
    assert all("sha256" not in table[name] and not name.endswith(".safetensors") for name in missing)
