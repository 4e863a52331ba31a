"""What ControlNet needs: the guide's table, today's names, the files, and what a small card gets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.secondhand.diffusion.plugins.filter.controlnet import FilterModule

ROOT = Path(__file__).parents[3]
VARS: dict[str, Any] = yaml.safe_load((ROOT / "roles/sd_webui/vars/controlnet.yml").read_text(encoding="utf-8"))
TABLE: dict[str, Any] = VARS["_sd_webui_controlnet"]
PRESET: dict[str, Any] = VARS["_sd_webui_extension_presets"]["sd-webui-controlnet"]
# As the guide writes it.
GUIDE = """
canny -> control_canny - t2iadapter_canny
mlsd -> control_mlsd
hed -> control_hed
scribble -> control_scribble - t2iadapter_sketch
fake_scribble -> control_scribble - t2iadapter_sketch
openpose -> control_openpose - t2iadapter_openpose - t2iadapter_keypose
openpose_hand -> control_openpose - t2iadapter_openpose
segmentation -> control_seg - t2iadapter_seg
depth -> control_depth - t2iadapter_depth
depth_leres -> control_depth - t2iadapter_depth
depth_leres_boost -> control_depth - t2iadapter_depth
normal_map -> control_normal
binary -> control_scribble - t2iadapter_sketch
color -> t2iadapter_color
pidinet -> control_hed
clip_vision -> t2iadapter_style
"""
COMBINATIONS = {left: right.split(" - ") for left, right in (line.split(" -> ") for line in GUIDE.strip().splitlines())}
# In which of the extension's control types a preprocessor stands, and which other words in a model's name count for it
# (its scripts/supported_preprocessor.py: tags and tag_to_filters). One that is in none is found under "All".
CONTROL_TYPES = {
    "canny": {"canny"},
    "mlsd": {"mlsd"},
    "softedge": {"softedge"},
    "scribble": {"scribble", "sketch"},
    "invert": {"scribble", "sketch"},
    "openpose": {"openpose"},
    "dw_openpose": {"openpose"},
    "seg": {"segmentation", "seg"},
    "depth": {"depth"},
    "normal": {"normalmap", "normal"},
    "lineart": {"lineart"},
    "shuffle": {"shuffle"},
    "tile": {"tile"},
    "inpaint": {"inpaint"},
    "t2ia": {"t2iadapter"},
}
Choice = dict[str, Any]


def choose(*names: str, **options: Any) -> Choice:
    """What the role gets."""
    made: Choice = FilterModule().filters()["controlnet"](list(names), TABLE, **options)
    return made


def models(choice: Choice, kind: str) -> list[str]:
    """Names of the files of one type."""
    return [model["name"] for model in choice["models"] if model["type"] == kind]


def test_the_guides_table_is_whole() -> None:
    assert TABLE["guide"] == COMBINATIONS
    assert set(TABLE["guide_models"]) == {model for combination in COMBINATIONS.values() for model in combination}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_of_the_guide(name: str) -> None:
    control = [TABLE["guide_models"][model] for model in COMBINATIONS[name] if model.startswith("control_")]
    adapter = [TABLE["guide_models"][model] for model in COMBINATIONS[name] if model.startswith("t2iadapter_")]
    for memory_mib in (0, 6144, 24564):
        assert models(choose(name, memory_mib=memory_mib), "controlnet") == (control or adapter)[:1]
    for memory_mib in (1999, 2048, 4040, 4096):
        assert models(choose(name, memory_mib=memory_mib), "controlnet") == (adapter or control)[:1]


@pytest.mark.parametrize("name", [name for name, combination in COMBINATIONS.items() if len(combination) == 1])
def test_a_small_card_is_warned_of_a_large_model(name: str) -> None:
    notes = choose(name, memory_mib=2048)["notes"]
    if name in ("color", "clip_vision"):
        assert notes == []
    else:
        assert len(notes) == 1
        assert "2048 MiB" in notes[0]
        assert '"sd-profile cpu"' in notes[0]
        assert notes[0].startswith(f"{name}: ")
    assert choose(name)["notes"] == []
    assert choose(name, memory_mib=8192)["notes"] == []


@pytest.mark.parametrize(
    ("old", "new", "model"),
    [
        ("canny", "canny", "control_v11p_sd15_canny"),
        ("mlsd", "mlsd", "control_v11p_sd15_mlsd"),
        ("hed", "softedge_hed", "control_v11p_sd15_softedge"),
        ("scribble", "invert", "control_v11p_sd15_scribble"),
        ("fake_scribble", "scribble_hed", "control_v11p_sd15_scribble"),
        ("openpose", "openpose", "control_v11p_sd15_openpose"),
        ("openpose_hand", "openpose_hand", "control_v11p_sd15_openpose"),
        ("segmentation", "seg_ufade20k", "control_v11p_sd15_seg"),
        ("depth", "depth_midas", "control_v11f1p_sd15_depth"),
        ("depth_leres", "depth_leres", "control_v11f1p_sd15_depth"),
        ("depth_leres_boost", "depth_leres++", "control_v11f1p_sd15_depth"),
        ("normal_map", "normal_bae", "control_v11p_sd15_normalbae"),
        ("binary", "threshold", "control_v11p_sd15_scribble"),
        ("color", "t2ia_color_grid", "t2iadapter_color_sd14v1"),
        ("pidinet", "softedge_pidinet", "control_v11p_sd15_softedge"),
        ("clip_vision", "t2ia_style_clipvision", "t2iadapter_style_sd14v1"),
    ],
)
def test_old_names_and_new_ones(old: str, new: str, model: str) -> None:
    file = model + ("_fp16.safetensors" if model.startswith("control") else ".safetensors")
    assert choose(old)["pairs"] == [{"name": old, "preprocessor": new, "model": file}]
    assert choose(new)["pairs"] == [{"name": new, "preprocessor": new, "model": file}]
    without_names = [
        [{key: value for key, value in file.items() if key != "needed_by"} for file in choose(name)["models"]]
        for name in (old, new)
    ]
    assert without_names[0] == without_names[1]


def test_no_name_means_two_things() -> None:
    assert set(TABLE["renamed"]) <= set(TABLE["guide"])
    assert set(TABLE["renamed"].values()) <= set(TABLE["preprocessors"])
    assert set(TABLE["renamed"]).isdisjoint(TABLE["preprocessors"])
    assert set(TABLE["guide"]) <= set(TABLE["renamed"]) | set(TABLE["preprocessors"])


def test_files_are_named_once_with_all_that_need_them() -> None:
    choice = choose("openpose", "openpose_hand", "canny", "openpose")
    assert choice["problems"] == []
    assert choice["models"] == [
        {
            "type": "controlnet",
            "name": "control_v11p_sd15_openpose_fp16.safetensors",
            "repository": "comfyanonymous/ControlNet-v1-1_fp16_safetensors",
            "file": "control_v11p_sd15_openpose_fp16.safetensors",
            "needed_by": ["openpose", "openpose_hand"],
            "pickle": False,
            "size_mb": 723,
        },
        *(
            {
                "type": "annotator",
                "name": f"openpose/{file}",
                "repository": "lllyasviel/Annotators",
                "file": file,
                "needed_by": ["openpose", "openpose_hand"],
                "pickle": True,
                "revision": TABLE["revisions"]["lllyasviel/Annotators"],
                "size_mb": size_mb,
                "sha256": sha256,
            }
            for file, size_mb, sha256 in (
                ("body_pose_model.pth", 209, "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746"),
                ("hand_pose_model.pth", 147, "b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600"),
                ("facenet.pth", 154, "8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43"),
            )
        ),
        {
            "type": "controlnet",
            "name": "control_v11p_sd15_canny_fp16.safetensors",
            "repository": "comfyanonymous/ControlNet-v1-1_fp16_safetensors",
            "file": "control_v11p_sd15_canny_fp16.safetensors",
            "needed_by": ["canny"],
            "pickle": False,
            "size_mb": 723,
            "sha256": "8932b66e15aae835b3490dbf989f56c253104cee08a88bf21283762f557c9f10",
        },
    ]


def test_nothing_is_asked_for() -> None:
    assert choose() == {"models": [], "pairs": [], "notes": [], "problems": []}


def test_an_ini_inventory_gives_a_string() -> None:
    controlnet = FilterModule().filters()["controlnet"]
    assert controlnet("openpose, canny", TABLE) == choose("openpose", "canny")


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    choice = choose("canny", "opnpose", "control_hed")
    assert len(choice["problems"]) == 1
    sentence = choice["problems"][0]
    assert sentence.startswith('sd_webui_controlnet names "opnpose" and "control_hed", which ')
    for name in [*TABLE["guide"], *TABLE["preprocessors"]]:
        assert re.search(rf"\b{re.escape(name)}(,| \()", sentence), name
    assert models(choice, "controlnet") == ["control_v11p_sd15_canny_fp16.safetensors"]


def test_forge_differs_in_two_things() -> None:
    choice = choose("clip_vision", "normal_map", builtin=True)
    assert '"clip_vision"' in choice["problems"][0]
    assert "t2ia_style_clipvision" not in choice["problems"][0]
    assert models(choice, "annotator") == ["scannet.pt"]
    everything = [name for name in TABLE["preprocessors"] if name not in ("t2ia_style_clipvision", "normal_bae")]
    assert choose(*everything, builtin=True) == choose(*everything)


def test_every_file_is_known_and_needed() -> None:
    large, small = choose(*TABLE["preprocessors"]), choose(*TABLE["preprocessors"], memory_mib=2048)
    assert large["problems"] == small["problems"] == []
    assert {*models(large, "controlnet"), *models(small, "controlnet")} == set(TABLE["models"])
    assert set(models(large, "annotator")) == set(models(small, "annotator")) == set(TABLE["annotators"])


@pytest.mark.parametrize("name", TABLE["preprocessors"])
def test_files_say_what_they_are(name: str) -> None:
    for memory_mib in (0, 2048):
        for file in choose(name, memory_mib=memory_mib)["models"]:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", file["repository"])
            assert not file["file"].startswith("/")
            assert file["pickle"] is (Path(file["name"]).suffix in (".pt", ".pth"))
            if file["type"] == "controlnet":
                assert file["name"].endswith(".safetensors")
                assert file["file"].endswith(".safetensors")
            else:
                assert re.fullmatch(r"[a-z_]+/[\w.-]+", file["name"])


def test_checksums_and_commits_are_whole() -> None:
    """And each checksum stands at one file: one that was copied to a second would refuse that one for ever."""
    files = [*TABLE["models"].values(), *TABLE["annotators"].values()]
    checksums = [file["sha256"] for file in files if "sha256" in file]
    assert [checksum for checksum in checksums if not re.fullmatch("[0-9a-f]{64}", checksum)] == []
    assert len(checksums) == len(set(checksums))
    assert [commit for commit in TABLE["revisions"].values() if not re.fullmatch("[0-9a-f]{40}", commit)] == []
    assert set(TABLE["revisions"]) <= {file["repository"] for file in files}


def test_a_pickle_without_a_checksum_is_no_default() -> None:
    """What may hold code is held against a checksum; these two are for who chooses them by name."""
    choice = choose(*TABLE["preprocessors"])
    assert {file["name"] for file in choice["models"] if file["pickle"] and "sha256" not in file} == {
        "oneformer/150_16_swin_l_oneformer_coco_100ep.pth",
        "oneformer/250_16_swin_l_oneformer_ade20k_160k.pth",
    }
    assert all("sha256" in file for file in choose(*TABLE["guide"])["models"] if file["pickle"])


@pytest.mark.parametrize("name", TABLE["preprocessors"])
def test_the_extension_offers_the_model_with_the_preprocessor(name: str) -> None:
    """Its rule (global_state.select_control_type): a word in the name, and not a name of another family of models."""
    words = next((found for start, found in CONTROL_TYPES.items() if name.startswith(start)), None)
    for memory_mib in (0, 2048):
        (model,) = models(choose(name, memory_mib=memory_mib), "controlnet")
        assert words is None or any(word in model for word in words)
        assert "xl" not in model
        assert any(version in model for version in ("sd14", "sd15"))
        # Preferred are names with "11", which must be those of version 1.1.
        assert ("11" in model) is model.startswith("control_v11")
        # This one word changes how the weights are used (controlnet_model_guess.py; Forge: at the end of the name).
        assert ("shuffle" in model) is (name == "shuffle")
    if name == "shuffle":
        assert model.endswith("_shuffle_fp16.safetensors")


def test_the_extension_is_pinned() -> None:
    assert PRESET["repository"].startswith("https://github.com/")
    assert re.fullmatch("[0-9a-f]{40}", PRESET["commit"])
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", requirement) for requirement in PRESET["requirements"])


@pytest.mark.parametrize("python", ["3.9", "3.11"])
def test_its_packages_go_with_the_lock(python: str) -> None:
    """What the lock has already, the preset may name only in the same version."""
    lock = ROOT / f"roles/sd_webui/files/engines/automatic1111/locks/python{python}-base.txt"
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    wanted = dict(
        requirement.split("==")
        for requirement in VARS["_sd_webui_extension_presets"]["sd-webui-controlnet"]["requirements"]
    )
    assert {name: version for name, version in wanted.items() if locked.get(name, version) != version} == {}
    # Both put the module cv2 into the same folder.
    assert wanted["opencv-python-headless"] == locked["opencv-python"]


def test_the_documentation_names_everything() -> None:
    page = (ROOT / "docs/controlnet.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([^`\n]+)`", page))
    assert set(TABLE["guide"]) | set(TABLE["preprocessors"]) <= documented
