"""What civitai_download asks for, which file it takes, and what it says when there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai import (
    HOSTS,
    foreseen,
    request_key,
    sources,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_errors import explanation
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_request import (
    Request,
    bases,
    parse_air,
    request_of,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_version import (
    File,
    Version,
    check_scans,
    choose_file,
    choose_version,
    expected_sha256,
    version_of,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError, HostPolicy, HttpError

SHA256 = "A5F58EB1C33616C4F06BCA55AF39876A7B817913CD829CAA8ACB111B770C85CC"
HUB = "https://civitai.com"
OK = ("Success", "Success")


def file(number: int | None = 1, **more: Any) -> File:
    values: dict[str, Any] = {"name": "model.safetensors", "type": "Model", "format": "SafeTensor", "scans": OK}
    return File(**{"id": number, **values, **more})


def version(*files: File, **more: Any) -> Version:
    values: dict[str, Any] = {
        "id": 128713,
        "model_id": 4384,
        "name": "8",
        "model_name": "DreamShaper",
        "base_model": "SD 1.5",
        "trained_words": (),
        "air": None,
        "archived": False,
        "usage": "Download",
        "early_access_until": None,
        "for_sale": False,
        "answer": {},
    }
    return Version(**{**values, "files": files, **more})


# The options


@pytest.mark.parametrize(
    ("air", "expected"),
    [
        ("urn:air:sdxl:checkpoint:civitai:827184@2514310", Request(model_id=827184, version_id=2514310)),
        ("air:sdxl:checkpoint:civitai:827184@2514310", Request(model_id=827184, version_id=2514310)),
        ("sdxl:checkpoint:civitai:827184@2514310", Request(model_id=827184, version_id=2514310)),
        ("civitai:827184", Request(model_id=827184)),
        (" URN:AIR:SDXL:LORA:CIVITAI:827184 ", Request(model_id=827184)),
        (
            "urn:air:sdxl:checkpoint:civitai:827184@2514310+2402203",
            Request(model_id=827184, version_id=2514310, file_id=2402203),
        ),
        (
            "urn:air:sdxl:checkpoint:civitai:827184@2514310+2402203.safetensor",
            Request(model_id=827184, version_id=2514310, file_id=2402203, file_format="SafeTensor"),
        ),
        (
            "urn:air:sd1:checkpoint:civitai:4384@128713.ckpt",
            Request(model_id=4384, version_id=128713, file_format="PickleTensor"),
        ),
        ("urn:air:sd1:embedding:civitai:7808.pt", Request(model_id=7808, file_format="PickleTensor")),
    ],
)
def test_an_air_names_model_version_file_and_format(air: str, expected: Request) -> None:
    assert parse_air(air) == expected


@pytest.mark.parametrize(
    ("air", "problem"),
    [
        ("https://civitai.com/models/4384", "is no AIR"),
        ("urn:air:sdxl:checkpoint", "the source 'sdxl'"),
        ("urn:air:sdxl:checkpoint:civitai:dreamshaper@8", "no numbers"),
        ("urn:air:sdxl:checkpoint:civitai:4384@v8", "no numbers"),
        ("urn:air:sd1:checkpoint:civitai:4384@128713.zip", "'zip' is no format"),
        ("urn:air:other:other:civitai-r2:civitai-worker-assets@sam_vit_b_01ec64.pth", "the source 'civitai-r2'"),
    ],
)
def test_what_is_no_air_of_civitai_is_refused(air: str, problem: str) -> None:
    with pytest.raises(DownloadError, match=problem):
        parse_air(air)


def test_an_air_of_hugging_face_names_the_other_module() -> None:
    with pytest.raises(DownloadError) as caught:
        parse_air("urn:air:sd1:checkpoint:huggingface:stable-diffusion-v1-5/stable-diffusion-v1-5@main")
    assert "huggingface_download with repository stable-diffusion-v1-5/stable-diffusion-v1-5" in str(caught.value)


def test_the_options_and_the_air_must_agree() -> None:
    air = "urn:air:sd1:checkpoint:civitai:4384@128713"
    assert request_of({"air": air, "file_id": 5}).file_id == 5
    assert request_of({"air": f"{air}+7.safetensor", "file_id": 7}).file_format is None
    with pytest.raises(DownloadError, match="names the file 7, and file_id 8"):
        request_of({"air": f"{air}+7", "file_id": 8})
    with pytest.raises(DownloadError, match="names the format PickleTensor, and file_format GGUF"):
        request_of({"air": f"{air}.ckpt", "file_format": "GGUF"})


@pytest.mark.parametrize("text", ["a5f58eb1", "A5F58EB1C3", "22d8cb95b807", SHA256, f" {SHA256.lower()}\n"])
def test_a_hash_of_any_kind_is_taken(text: str) -> None:
    assert request_of({"hash": text}).hash == text.strip().upper()


@pytest.mark.parametrize("text", ["", "a5f58eb1c", "g5f58eb1", "sha256:" + SHA256, "A" * 40])
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(DownloadError, match="is no hash"):
        request_of({"hash": text})


def test_numbers_are_positive_and_a_name_chooses_among_versions_only() -> None:
    with pytest.raises(DownloadError, match="version_id is 0"):
        request_of({"version_id": 0})
    with pytest.raises(DownloadError, match="with model_id alone"):
        request_of({"version_id": 128713, "version_name": "8"})


def test_base_urls_are_addresses_without_a_slash_and_without_secrets() -> None:
    assert bases(["https://civitai.com/", "https://civitai.red", "https://civitai.com"]) == (HUB, "https://civitai.red")
    assert bases(["http://10.0.0.5:8190/civitai/"]) == ("http://10.0.0.5:8190/civitai",)
    for wrong in ("civitai.red", "ftp://civitai.com", "https://civitai.com/?token=secret"):
        with pytest.raises(DownloadError, match="is no address") as caught:
            bases([wrong])
        assert "secret" not in str(caught.value)
    with pytest.raises(DownloadError, match="holds a password") as caught:
        bases(["https://me:secret@civitai.com"])
    assert "secret" not in str(caught.value)
    with pytest.raises(DownloadError, match="is empty"):
        bases([])


def test_a_request_is_remembered_only_when_it_names_content() -> None:
    assert request_key({"dest": "/srv", "model_id": 4384}) is None
    assert request_key({"dest": "/srv", "air": "civitai:4384"}) is None
    assert request_key({"dest": "/srv", "hash": "no hash"}) is None
    assert request_key({"dest": "/srv", "version_id": 128713}) is not None
    assert request_key({"dest": "/srv", "hash": SHA256}) is not None
    assert request_key({"dest": "/srv", "air": "civitai:4384@128713"}) is not None
    assert request_key({"dest": "/srv", "model_id": 4384, "sha256": SHA256}) is not None


def test_options_left_out_make_the_same_key_as_their_defaults() -> None:
    short = request_key({"dest": "/srv", "version_id": 128713, "sha256": SHA256})
    written_out = {
        "dest": "/srv",
        "version_id": 128713,
        "sha256": SHA256.lower(),
        "model_id": None,
        "hash": None,
        "air": None,
        "sidecar": True,
        "preview": True,
        "scan_pending": "refuse",
        "pickle": "deny",
        "base_urls": [HUB],
        "token": "secret",
    }
    assert request_key(written_out) == short
    assert "secret" not in json.dumps(short)
    for change in ({"dest": "/mnt"}, {"fp": "fp16"}, {"sidecar": False}, {"preview": False}, {"pickle": "allow"}):
        assert request_key({**written_out, **change}) != short


# Choosing


MODEL = {
    "modelVersions": [
        {"id": 128713, "name": "8"},
        {"id": 109123, "name": "7"},
        {"id": 94081, "name": "3.31 baked VAE"},
        {"id": 94082, "name": "3.31 Baked VAE"},
    ]
}


def test_without_a_name_the_version_is_the_one_that_the_hub_lists_first() -> None:
    assert choose_version(MODEL, 4384, None) == 128713


def test_a_version_is_found_by_its_name() -> None:
    assert choose_version(MODEL, 4384, " 7 ") == 109123
    with pytest.raises(DownloadError, match=r"no version with the name '9'.*'8' \(version_id 128713\), '7'"):
        choose_version(MODEL, 4384, "9")
    with pytest.raises(DownloadError, match="several versions with the name"):
        choose_version(MODEL, 4384, "3.31 baked vae")


def test_a_model_without_versions_is_said_to_have_none() -> None:
    empty: list[Any] = [{"modelVersions": []}, {}, [], None]
    for answer in empty:
        with pytest.raises(DownloadError, match="no published version"):
            choose_version(answer, 4384, None)


PRUNED = file(1, format="SafeTensor", size="pruned", fp="fp16", primary=True, size_kb=2082642.5)
FULL = file(2, format="SafeTensor", size="full", fp="fp32")
PICKLE = file(3, name="model.ckpt", format="PickleTensor", size="full", fp="fp32")
VAE = file(4, name="vae.pt", type="VAE", format="PickleTensor")
SAFE_VAE = file(5, name="vae.safetensors", type="VAE", format="SafeTensor")
ALL = (PRUNED, FULL, PICKLE, VAE, SAFE_VAE)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Request(), PRUNED),
        (Request(file_id=3), PICKLE),
        (Request(file_size="FULL", file_format="safetensor"), FULL),
        (Request(file_format="PickleTensor", file_type="Model"), PICKLE),
        (Request(fp="fp16"), PRUNED),
        # Both are there, and only one of them runs code.
        (Request(file_type="vae"), SAFE_VAE),
        (Request(file_size="full"), FULL),
    ],
)
def test_the_file_is_the_one_that_the_options_mean(asked: Request, expected: File) -> None:
    assert choose_file(version(*ALL), asked) is expected


def test_a_hash_means_the_file_that_has_it() -> None:
    hashed = file(9, hashes={"SHA256": SHA256, "AutoV2": SHA256[:10]})
    assert choose_file(version(*ALL, hashed), Request(hash=SHA256[:10])) is hashed


def test_safetensors_go_before_a_pickle_that_the_hub_calls_primary() -> None:
    pickle = file(1, name="a.ckpt", format="PickleTensor", primary=True)
    assert choose_file(version(pickle, file(2)), Request()) == file(2)
    # A VAE is no replacement for the model.
    assert choose_file(version(pickle, SAFE_VAE), Request()) is pickle
    assert choose_file(version(pickle, SAFE_VAE), Request(file_format="PickleTensor")) is pickle


def test_a_file_of_weights_alone_among_others_needs_no_mark() -> None:
    assert choose_file(version(file(1, format="GGUF"), SAFE_VAE), Request()) == file(1, format="GGUF")


def test_nothing_fitting_and_more_than_one_list_what_there_is() -> None:
    with pytest.raises(DownloadError) as caught:
        choose_file(version(PRUNED, PICKLE), Request(file_format="GGUF", fp="fp8"))
    assert str(caught.value) == (
        "DreamShaper 8 (version 128713) has no file with file_format GGUF, fp fp8: there is "
        "model.safetensors (file_id 1, Model, SafeTensor, pruned, fp16, 2034 MiB); "
        "model.ckpt (file_id 3, Model, PickleTensor, full, fp32)."
    )
    with pytest.raises(DownloadError, match="has several files to choose from: add file_id, there is"):
        choose_file(version(file(1, fp="fp16"), file(2, fp="fp8")), Request())
    with pytest.raises(DownloadError, match="has several files with file_type Model to choose from"):
        choose_file(version(file(1), file(2), SAFE_VAE), Request(file_type="Model"))


def test_a_version_without_files_says_why() -> None:
    with pytest.raises(DownloadError, match="is archived on Civitai"):
        choose_file(version(archived=True), Request())
    with pytest.raises(DownloadError, match="shows no files"):
        choose_file(version(), Request())


def test_files_of_one_name_do_not_overwrite_each_other() -> None:
    first, second, third = file(1, primary=True), file(2), file(3, name="MODEL.safetensors")
    several = version(first, second, third, VAE)
    names = [several.file_name(each) for each in (first, second, third, VAE)]
    assert names == ["model.safetensors", "model.2.safetensors", "MODEL.3.safetensors", "vae.pt"]
    assert version(file(1, name="README"), file(2, name="README")).file_name(file(2, name="README")) == "README.2"


# Judging


@pytest.mark.parametrize("scans", [("Danger", "Success"), ("Success", "Danger"), ("Danger", None)])
def test_what_the_scanners_call_dangerous_is_refused_always(scans: tuple[str | None, str | None]) -> None:
    with pytest.raises(DownloadError, match="something dangerous"):
        check_scans(version(), file(scans=scans), "allow")


@pytest.mark.parametrize(
    ("scans", "words"),
    [
        (("Pending", "Success"), r"has not yet scanned .*\(virus scan\)"),
        (("Success", "Error"), r"could not scan .*\(pickle scan\)"),
        ((None, None), r"has not yet scanned .*\(virus and pickle scan\)"),
    ],
)
def test_what_was_not_scanned_is_the_users_decision(scans: tuple[str | None, str | None], words: str) -> None:
    with pytest.raises(DownloadError, match=words):
        check_scans(version(), file(scans=scans), "refuse")
    check_scans(version(), file(scans=scans), "allow")


def test_a_file_with_two_good_scans_passes() -> None:
    check_scans(version(), file(), "refuse")


def test_the_users_sha256_goes_before_the_hubs() -> None:
    known = file(hashes={"SHA256": SHA256})
    assert expected_sha256(version(), known, None) == SHA256.lower()
    assert expected_sha256(version(), known, "B" * 64) == "b" * 64
    for nothing in ({}, {"SHA256": "A5F58EB1C3"}, {"AutoV2": "A5F58EB1C3"}):
        with pytest.raises(DownloadError, match="tells no SHA-256"):
            expected_sha256(version(), file(hashes=nothing), None)


def test_check_mode_foresees_what_the_hub_tells_beforehand() -> None:
    date = "2026-09-01T12:30:00.000Z"
    gate = {"checkPermission": True, "earlyAccessEndsAt": date}
    assert foreseen(version(), {"requireAuth": False, "checkPermission": False}, token=False) is None
    assert foreseen(version(), None, token=False) is None
    assert foreseen(version(), {"requireAuth": True}, token=True) is None
    assert "wants a login" in str(foreseen(version(), {"requireAuth": True}, token=False))
    assert "until 2026-09-01 12:30 UTC" in str(foreseen(version(), gate, token=True))
    assert "disabled downloads" in str(foreseen(version(usage="InternalGeneration"), None, token=True))


# Where it is


def test_the_address_is_our_own_and_has_the_files_number_and_no_token() -> None:
    found = sources(version(), PRUNED, ("https://civitai.red", HUB), token=True)
    assert [source.url for source in found] == [
        "https://civitai.red/api/download/models/128713?fileId=1",
        "https://civitai.com/api/download/models/128713?fileId=1",
    ]
    assert all(404 in source.retry for source in found)


def test_a_component_is_asked_for_by_its_kind_as_well() -> None:
    component = file(4, type="Text Encoder", format="SafeTensor", fp="fp8")
    by_number, by_kind = sources(version(), component, (HUB,), token=False)
    assert by_number.url == f"{HUB}/api/download/models/128713?fileId=4"
    assert by_kind.url == f"{HUB}/api/download/models/128713?type=Text%20Encoder&format=SafeTensor&fp=fp8"
    # Its file may be another version's, and then the first address never becomes right.
    assert 404 not in by_number.retry and 404 in by_kind.retry


def test_a_file_without_a_number_is_asked_for_by_its_kind() -> None:
    (source,) = sources(version(), file(None), (HUB,), token=False)
    assert source.url == f"{HUB}/api/download/models/128713?type=Model&format=SafeTensor"


@pytest.mark.parametrize(
    "host",
    [
        "civitai.com",
        "b2.civitai.com",
        "image.civitai.com",
        "civitai.red",
        "civitai.green",
        "civitai-delivery-worker-prod.0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com",
        "s3.us-west-004.backblazeb2.com",
    ],
)
def test_the_hubs_storage_hosts_may_be_asked(host: str) -> None:
    HostPolicy(allowed=HOSTS).check(f"https://{host}/model", proxied=True)


@pytest.mark.parametrize("host", ["civitai.com.example", "example.com", "evilcivitai.com", "r2.cloudflarestorage.com"])
def test_other_hosts_may_not(host: str) -> None:
    with pytest.raises(DownloadError, match="none of the hub's known hosts"):
        HostPolicy(allowed=HOSTS).check(f"https://{host}/model", proxied=True)


# What the hub answers


def test_a_version_is_read_as_the_api_writes_it() -> None:
    answer = {
        "id": 2514310,
        "modelId": 827184,
        "name": "v16.0",
        "baseModel": "Illustrious",
        "air": "urn:air:sdxl:checkpoint:civitai:827184@2514310",
        "trainedWords": ["masterpiece", None],
        "usageControl": "Download",
        "paidAccess": {"permanent": False, "endsAt": "2026-09-01T00:00:00.000Z"},
        "model": {"name": "WAI", "type": "Checkpoint", "mode": "Archived"},
        "files": [
            {
                "id": 2402203,
                "name": "wai_v160.safetensors",
                "type": "Model",
                "sizeKB": 6775430.35,
                "metadata": {"format": "SafeTensor", "size": "pruned", "fp": "fp16"},
                "pickleScanResult": "Pending",
                "virusScanResult": "Success",
                "hashes": {"SHA256": SHA256.lower(), "AutoV2": "A5F58EB1C3", "CRC32": None},
                "primary": True,
            }
        ],
    }
    read = version_of(answer)
    assert read is not None
    assert (read.id, read.model_id, str(read)) == (2514310, 827184, "WAI v16.0 (version 2514310)")
    assert (read.base_model, read.trained_words, read.archived) == ("Illustrious", ("masterpiece",), True)
    assert read.early_access_until == "2026-09-01T00:00:00.000Z"
    (only,) = read.files
    assert (only.id, only.format, only.size, only.fp, only.primary) == (2402203, "SafeTensor", "pruned", "fp16", True)
    assert only.hashes == {"SHA256": SHA256, "AutoV2": "A5F58EB1C3"}
    assert only.sha256 == SHA256.lower()
    assert only.scans == ("Success", "Pending")


@pytest.mark.parametrize("answer", [None, [], "text", {}, {"id": "1"}, {"error": "Model not found"}])
def test_another_answer_is_no_version(answer: Any) -> None:
    assert version_of(answer) is None


def test_half_an_answer_is_read_as_far_as_it_goes() -> None:
    read = version_of({"id": 1, "files": [{}, None, {"metadata": None, "hashes": []}], "model": None})
    assert read is not None
    assert [(each.id, each.name, each.type, each.hashes, each.scans) for each in read.files] == [
        (None, "", "Model", {}, (None, None))
    ] * 2


def answer(status: int, body: Any = b"", url: str = f"{HUB}/api/download/models/128713") -> HttpError:
    return HttpError(url, status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


LOGIN = {"error": "Unauthorized", "message": "The creator of this asset requires you to be logged in to download it"}
DISABLED = {"error": "Unauthorized", "message": "The creator of this asset has disabled downloads on this file"}
EARLY = {"error": "Early Access", "deadline": "2026-09-01T12:30:00.000Z", "message": "You can use Buzz access it now!"}
NO_GRANT = {"error": "You do not have access to download this file"}
TOO_MANY = {"error": "We've noticed an unusual amount of downloading from your account."}
REGION = {"error": "Access to this service is not available in your region.", "code": "REGION_BLOCKED"}


@pytest.mark.parametrize(
    ("error", "token", "cause", "step"),
    [
        (answer(400, {"error": "Invalid fileId"}), False, "cannot read the request", "with file_id"),
        (answer(401, LOGIN), False, "civitai.com wants a login", "make an API key at https://civitai.com/user/account"),
        (answer(401, LOGIN), True, "does not accept the token", "make a new one at https://civitai.com/user/account"),
        (answer(401, DISABLED), True, "has disabled downloads", "choose another version"),
        (
            answer(403, EARLY),
            False,
            "is in early access until 2026-09-01 12:30 UTC",
            "buy it at https://civitai.com/models/4384?modelVersionId=128713",
        ),
        (answer(403, {"error": "Early Access"}), False, "is in early access: buy it", "choose an older version"),
        (answer(403, NO_GRANT), True, "does not let the token's account", "ask its creator"),
        (answer(403, {"error": "Forbidden"}), False, "has blocked this host's address", "support@civitai.com"),
        (answer(403, b"error code: 1010"), False, "The firewall before civitai.com", "try again later"),
        (answer(404, {"error": "File not found"}), False, "does not find model.safetensors", "try again later"),
        (answer(410, {"error": "Model archived"}), False, "is archived on Civitai", "url_download"),
        (answer(429, TOO_MANY), True, "too many downloads by this account or address within a day", "tomorrow"),
        (answer(429, b"<html>slow down</html>"), False, "too many requests", "in some minutes"),
        (answer(451, REGION), False, "does not serve the region", "base_urls"),
        (answer(500, {"error": "Boom"}), False, "status 500 (Boom)", "try again later"),
        (
            answer(503, b"<Error/>", "https://b2.civitai.com/file/a?X-Amz-Signature=abc"),
            False,
            "b2.civitai.com, where civitai.com keeps model.safetensors",
            "try again later",
        ),
    ],
)
def test_each_status_becomes_one_sentence_with_cause_and_next_step(
    error: HttpError, token: bool, cause: str, step: str
) -> None:
    sentence = str(explanation(version(), file(), HUB, token)(error))
    assert cause in sentence and step in sentence
    assert sentence.endswith(".") and "\n" not in sentence
    assert "X-Amz" not in sentence


def test_names_that_the_hub_tells_do_not_break_a_sentence() -> None:
    nasty = version(file(name="a\nb\x1b[31m.safetensors"), model_name="new\nline" + "x" * 300)
    text = str(explanation(nasty, nasty.files[0], HUB, False)(answer(404)))
    assert "\n" not in text and "\x1b" not in text and len(text) < 500
