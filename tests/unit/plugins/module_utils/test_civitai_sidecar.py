"""What lies beside a model, and whose file is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_sidecar import (
    are_there,
    find_preview,
    info_path,
    info_text,
    is_outdated,
    picture_kind,
    picture_urls,
    preview_path,
)

PICTURE = "https://image.civitai.com/key/0123/original=true/4567.jpeg"


def test_the_names_are_those_that_web_uis_look_for() -> None:
    assert info_path("/srv/lora/a.b.safetensors") == "/srv/lora/a.b.civitai.info"
    assert preview_path("/srv/lora/a.b.safetensors", "png") == "/srv/lora/a.b.preview.png"


def test_the_file_holds_the_whole_answer_and_never_the_token() -> None:
    answer = {"id": 1, "name": "é", "downloadUrl": "https://civitai.com/api/download/models/1?token=very-secret"}
    assert json.loads(info_text(answer, None)) == answer
    text = info_text(answer, "very-secret")
    assert "very-secret" not in text
    assert json.loads(text)["downloadUrl"].endswith("?token=***")


@pytest.mark.parametrize("text", [None, "{}", '{"id": 2, "name": "another version"}'])
def test_what_describes_nothing_or_another_version_is_replaced(text: str | None) -> None:
    assert is_outdated(text, 1)


@pytest.mark.parametrize(
    "text", ['{"id": 1, "trainedWords": ["mine"]}', "notes of a person", "[]", '{"note": "mine"}', ""]
)
def test_what_describes_this_version_or_is_a_persons_stays(text: str) -> None:
    assert not is_outdated(text, 1)


def test_the_pictures_are_stills_and_small() -> None:
    answer = {
        "images": [
            {"type": "video", "url": "https://image.civitai.com/key/0123/original=true/1.mp4"},
            {"type": "image", "url": PICTURE},
            {"type": "image"},
            {"url": "https://image.civitai.com/key/0123/width=1024/5.jpeg"},
            None,
            {"type": "image", "url": "https://example.com/6.png"},
            {"type": "image", "url": "https://example.com/7.png"},
        ]
    }
    assert picture_urls(answer) == [
        "https://image.civitai.com/key/0123/width=450/4567.jpeg",
        "https://image.civitai.com/key/0123/width=450/5.jpeg",
        "https://example.com/6.png",
    ]
    assert picture_urls({"images": None}) == picture_urls({}) == []


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n....", "png"),
        (b"\xff\xd8\xff\xe0..JFIF", "jpeg"),
        (b"RIFF\n\r\n\nWEBPVP8 ", "webp"),
        (b"GIF89a..", "gif"),
        (b"\x00\x00\x00\x20ftypisom", None),
        (b"\x1aE\xdf\xa3....webm", None),
        (b"<!DOCTYPE html>", None),
        (b"", None),
    ],
)
def test_the_kind_of_a_picture_is_told_by_its_content(data: bytes, kind: str | None) -> None:
    assert picture_kind(data) == kind


def test_a_picture_that_is_there_under_any_known_name_is_found(tmp_path: Path) -> None:
    model = str(tmp_path / "a.safetensors")
    assert find_preview(model) is None
    (tmp_path / "a.webp").touch()
    assert find_preview(model) == str(tmp_path / "a.webp")
    (tmp_path / "a.preview.jpg").touch()
    assert find_preview(model) == str(tmp_path / "a.preview.jpg")


def test_what_was_left_beside_a_model_is_missed_when_it_is_gone(tmp_path: Path) -> None:
    info, picture = tmp_path / "a.civitai.info", tmp_path / "a.preview.png"
    info.touch()
    assert are_there([]) and are_there([str(info)])
    assert not are_there([str(info), str(picture)])
