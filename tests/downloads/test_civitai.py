"""civitai_download against a hub that behaves as Civitai does."""

from __future__ import annotations

import json
import os
import socket
import stat
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hubs import Hubs, Model, ModelFile, ModelVersion, StoredFile
from module_runs import Modules, Run

SIZE = 1 << 20
MODEL, VERSION, FILE = 4384, 128713, 91371
JPEG = b"\xff\xd8\xff\xe0 a small picture"
DEADLINE = datetime(2099, 9, 1, 12, 30, tzinfo=timezone.utc)
# One attempt is enough where nothing is to be had.
ONCE = {"retries": 0}


class Site:
    """The hub with one model, and the module that asks it."""

    def __init__(self, hubs: Hubs, run_module: Modules, folder: Path) -> None:
        self.hubs = hubs
        self.hub = hubs.civitai
        self.folder = folder / "models"
        self._run_module = run_module
        self.stored = hubs.storage.add("dreamshaper_8.safetensors", SIZE, seed=8)
        self.picture = hubs.storage.add_bytes("preview.jpeg", JPEG)
        self.model = self.publish()

    def publish(self, *versions: ModelVersion, **more: Any) -> Model:
        """Replaces what there is."""
        self.model = self.hub.add_model(MODEL, versions or (self.version(),), **{"name": "DreamShaper", **more})
        return self.model

    def version(self, number: int = VERSION, *files: ModelFile, **more: Any) -> ModelVersion:
        values: dict[str, Any] = {"name": "8", "trained_words": ["dreamy"], "images": [self.picture]}
        return ModelVersion(number, files or (self.file(),), **{**values, **more})

    def file(self, number: int = FILE, stored: StoredFile | None = None, **more: Any) -> ModelFile:
        return ModelFile(number, stored or self.stored, **more)

    def __call__(self, **options: Any) -> Run:
        values = {
            "dest": f"{self.folder}/",
            "base_urls": [self.hub.url],
            "allowed_hosts": [self.hubs.storage.url],
        }
        return self._run_module("civitai_download", **{**values, **options})

    def paths(self, server: str) -> list[str]:
        return [request.path for request in self.hubs.asked(server)]

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder)) if self.folder.is_dir() else []

    def info(self, name: str = "dreamshaper_8") -> Any:
        return json.loads((self.folder / f"{name}.civitai.info").read_text(encoding="utf-8"))


@pytest.fixture
def site(hubs: Hubs, run_module: Modules, tmp_path: Path) -> Site:
    hubs.civitai.models.clear()
    hubs.civitai.download_limit, hubs.civitai.blocked = None, False
    return Site(hubs, run_module, tmp_path)


def test_a_pinned_version_comes_whole_with_its_sidecars_and_never_again(site: Site) -> None:
    first = site(version_id=VERSION)
    path = site.folder / "dreamshaper_8.safetensors"
    assert first.result["changed"] is True, first.output
    assert path.read_bytes() == site.stored.path.read_bytes()
    assert site.names() == ["dreamshaper_8.civitai.info", "dreamshaper_8.preview.jpeg", "dreamshaper_8.safetensors"]
    assert (site.folder / "dreamshaper_8.preview.jpeg").read_bytes() == JPEG
    assert site.info()["id"] == VERSION and site.info()["model"]["name"] == "DreamShaper"
    expected = {
        "path": str(path),
        "sha256": site.stored.sha256,
        "size": SIZE,
        "base_model": "SD 1.5",
        "trained_words": ["dreamy"],
        "model_id": MODEL,
        "model_name": "DreamShaper",
        "version_id": VERSION,
        "version_name": "8",
        "file_id": FILE,
        "air": f"urn:air:sd1:checkpoint:civitai:{MODEL}@{VERSION}",
        "sidecar": str(site.folder / "dreamshaper_8.civitai.info"),
        "preview": str(site.folder / "dreamshaper_8.preview.jpeg"),
    }
    assert {name: first.result[name] for name in expected} == expected
    assert first.result["downloaded_bytes"] == SIZE
    assert first.result["source"] == f"{site.hub.url}/api/download/models/{VERSION}"
    # By the file's number, from an address of our own making, and never with HEAD.
    assert [path for path in site.paths("civitai") if "/download/" in path] == [
        f"/api/download/models/{VERSION}?fileId={FILE}"
    ]
    assert {request.method for request in site.hubs.asked()} == {"GET"}
    agents = {request.headers["User-Agent"] for request in site.hubs.asked()}
    assert len(agents) == 1 and agents.pop().startswith("secondhand.diffusion")

    site.hubs.requests.clear()
    second = site(version_id=VERSION)
    assert second.result["changed"] is False
    assert site.hubs.requests == []
    assert {name: second.result[name] for name in expected} == expected


def test_a_model_gives_the_version_that_the_hub_lists_first(site: Site) -> None:
    old = site.hubs.storage.add("dreamshaper_7.safetensors", SIZE, seed=7)
    site.publish(
        site.version(200, published=False, name="9"),
        site.version(),
        site.version(100, site.file(5, old), name="7", images=()),
    )
    assert site(model_id=MODEL).result["version_id"] == VERSION
    named = site(model_id=MODEL, version_name="7")
    assert (named.result["version_id"], named.result["sha256"]) == (100, old.sha256)

    # It could be another one by now, so the hub is asked, and nothing else.
    site.hubs.requests.clear()
    again = site(model_id=MODEL)
    assert again.result["changed"] is False
    assert site.paths("civitai") == [f"/api/v1/models/{MODEL}", f"/api/v1/model-versions/{VERSION}"]
    assert site.paths("storage") == []

    missing = site(model_id=MODEL, version_name="6")
    assert missing.result["failed"] and "'8' (version_id 128713), '7' (version_id 100)" in missing.message


def test_an_air_and_a_hash_find_the_file_that_they_name(site: Site) -> None:
    pruned = site.hubs.storage.add("pruned.safetensors", SIZE, seed=9)
    site.publish(site.version(VERSION, site.file(), site.file(7, pruned, metadata={"format": "SafeTensor"})))
    by_air = site(air=f"urn:air:sd1:checkpoint:civitai:{MODEL}@{VERSION}+7.safetensor", dest=str(site.folder / "a.st"))
    assert by_air.result["sha256"] == pruned.sha256
    assert site.names() == ["a.civitai.info", "a.preview.jpeg", "a.st"]
    by_hash = site(hash=pruned.sha256[:10], dest=str(site.folder / "b.safetensors"))
    # One download serves both.
    assert (by_hash.result["sha256"], by_hash.result["downloaded_bytes"]) == (pruned.sha256, 0)
    wrong = site(air=f"civitai:1@{VERSION}")
    assert f"belongs to the model {MODEL}, and air says 1" in wrong.message


def test_two_files_of_one_name_can_lie_in_one_folder(site: Site) -> None:
    fp8 = site.hubs.storage.add("fp8/flux.safetensors", SIZE, seed=80)
    fp16 = site.hubs.storage.add("fp16/flux.safetensors", SIZE, seed=16)
    site.publish(
        site.version(
            691639,
            site.file(1, fp16, metadata={"format": "SafeTensor", "size": "full", "fp": "fp16"}),
            site.file(2, fp8, metadata={"format": "SafeTensor", "size": "full", "fp": "fp8"}),
        )
    )
    whole = site(version_id=691639, preview=False, sidecar=False)
    small = site(version_id=691639, fp="fp8", preview=False, sidecar=False)
    assert (whole.result["sha256"], small.result["sha256"]) == (fp16.sha256, fp8.sha256)
    assert site.names() == ["flux.2.safetensors", "flux.safetensors"]
    none = site(version_id=691639, fp="fp4")
    assert "no file with fp fp4: there is flux.safetensors (file_id 1, Model, SafeTensor, full, fp16" in none.message


NOBODY = "a-token-that-nobody-has"


@pytest.mark.parametrize(
    ("version", "token", "sentence"),
    [
        ({"require_login": True}, None, "wants a login for DreamShaper 8 (version 128713): make an API key at"),
        ({"require_login": True}, NOBODY, "does not accept the token for DreamShaper 8"),
        ({"downloads_disabled": True}, "buyer", "The creator of DreamShaper 8 (version 128713) has disabled downloads"),
        ({"early_access_until": DEADLINE}, "other", "is in early access until 2099-09-01 12:30 UTC: buy it at"),
        ({"private": True}, "other", "does not let the token's account download DreamShaper 8"),
    ],
)
def test_a_version_that_is_not_for_everybody_says_what_to_do(
    site: Site, version: dict[str, Any], token: str | None, sentence: str
) -> None:
    site.publish(site.version(**version))
    token = {"buyer": site.hub.token, "other": site.hub.other_token}.get(token or "", token)
    run = site(version_id=VERSION, token=token)
    assert run.result["failed"] and sentence in run.message
    assert site.paths("storage") == [] and site.names() == []
    # Asking again would not help, so it was asked once.
    assert len(site.hubs.asked("civitai", "/download/")) == 1


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (403, {"error": "Forbidden"}, "has blocked this host's address or account"),
        (404, {"error": "File not found"}, "does not find dreamshaper_8.safetensors (file_id 91371"),
        (410, {"error": "Model archived, not available for download"}, "is archived on Civitai"),
        (451, {"error": "Not in your region", "code": "REGION_BLOCKED"}, "does not serve the region of this host"),
    ],
)
def test_a_refused_download_says_why(site: Site, status: int, body: dict[str, str], sentence: str) -> None:
    site.hubs.fail("civitai", status, times=9, body=body, path="/download/")
    run = site(version_id=VERSION, **ONCE)
    assert run.result["failed"] and sentence in run.message


def test_the_daily_count_is_not_fought_against(site: Site) -> None:
    site.hub.download_limit = 0
    run = site(version_id=VERSION, base_urls=[site.hub.url, f"{site.hub.url}/elsewhere"])
    assert "too many downloads by this account or address within a day" in run.message
    assert len(site.hubs.asked("civitai", "/download/")) == 1


def test_a_404_of_a_storage_with_hiccups_is_tried_again(site: Site) -> None:
    site.hubs.fail("civitai", 404, times=1, body={"error": "File not found"}, path="/download/")
    run = site(version_id=VERSION)
    assert run.result["sha256"] == site.stored.sha256
    assert len(site.hubs.asked("civitai", "/download/")) == 2


def test_what_does_not_exist_or_is_archived_names_the_way_out(site: Site) -> None:
    assert "no published version 1 (the number may be a model's, which model_id takes)" in site(version_id=1).message
    assert "no model 1 (the number may be a version's, which version_id takes)" in site(model_id=1).message
    assert "no published file with the hash 0123456789" in site(hash="0123456789").message
    assert [len(site.hubs.asked("civitai", path)) for path in ("/models/1", "-versions/1")] == [1, 1]
    site.publish(mode="Archived")
    assert "is archived on Civitai" in site(version_id=VERSION).message


def test_the_next_address_is_asked_when_one_is_down_or_does_not_have_it(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        down = f"http://127.0.0.1:{closed.getsockname()[1]}"
    elsewhere = f"{site.hub.url}/elsewhere"
    run = site(version_id=VERSION, base_urls=[down, elsewhere, site.hub.url], **ONCE)
    assert run.result["source"] == f"{site.hub.url}/api/download/models/{VERSION}"
    # What answered is asked first from then on.
    assert [path for path in site.paths("civitai") if "/download/" in path and "elsewhere" in path] == []

    site.hubs.fail("civitai", 451, times=1, body={"code": "REGION_BLOCKED"})
    other = site(version_id=VERSION, base_urls=[elsewhere, site.hub.url], dest=str(site.folder / "b.safetensors"))
    assert other.result["sha256"] == site.stored.sha256

    nowhere = site(version_id=VERSION, base_urls=[down], dest=str(site.folder / "c.safetensors"), **ONCE)
    assert nowhere.result["failed"] and "it refuses the connection" in nowhere.message


def test_the_token_goes_to_the_hub_alone_and_into_no_file(site: Site, tmp_path: Path) -> None:
    token = site.hub.token
    site.publish(site.version(early_access_until=DEADLINE, require_login=True))
    run = site(version_id=VERSION, token=token)
    assert run.result["sha256"] == site.stored.sha256
    assert site.hubs.told(token) == ["civitai"]
    assert all(token not in request.path for request in site.hubs.asked())
    assert token not in run.output
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert token.encode() not in path.read_bytes(), path


def test_check_mode_asks_for_no_file_and_foresees_a_refusal(site: Site) -> None:
    site.publish(site.version(require_login=True))
    check = site(version_id=VERSION, check=True)
    assert check.result["changed"] is True
    assert (check.result["sha256"], check.result["size"]) == (site.stored.sha256, SIZE)
    assert check.result["diff"][0]["before"].endswith("state: absent\n")
    assert "wants a login" in str(check.result["warnings"])
    assert site.names() == [] and site.paths("storage") == []
    assert [path for path in site.paths("civitai") if "/download/" in path] == []
    assert {request.method for request in site.hubs.asked()} == {"GET"}

    assert site(version_id=VERSION, token=site.hub.token).result["changed"] is True
    after = site(version_id=VERSION, token=site.hub.token, check=True, verify="always")
    assert after.result["changed"] is False and "warnings" not in after.result


def test_scanned_and_dangerous_is_refused_and_not_yet_scanned_is_a_choice(site: Site) -> None:
    site.publish(site.version(VERSION, site.file(virus_scan="Danger")))
    danger = site(version_id=VERSION, scan_pending="allow")
    assert "something dangerous in dreamshaper_8.safetensors" in danger.message
    site.publish(site.version(VERSION, site.file(virus_scan="Pending")))
    pending = site(version_id=VERSION)
    assert "set scan_pending to allow" in pending.message
    assert site.names() == [] and site.hubs.asked("civitai", "/download/") == []
    assert site(version_id=VERSION, scan_pending="allow").result["sha256"] == site.stored.sha256


def test_the_hubs_wrong_sha256_can_be_corrected(site: Site) -> None:
    site.publish(site.version(VERSION, site.file(sha256="0" * 64)))
    wrong = site(version_id=VERSION)
    assert wrong.result["failed"] and site.stored.sha256 in wrong.message
    assert "dreamshaper_8.safetensors" not in site.names()
    right = site(version_id=VERSION, sha256=site.stored.sha256.upper())
    assert right.result["sha256"] == site.stored.sha256
    # It had come whole before.
    assert right.result["downloaded_bytes"] < SIZE


def test_a_persons_files_beside_a_model_stay(site: Site) -> None:
    site.folder.mkdir()
    info, picture = site.folder / "dreamshaper_8.civitai.info", site.folder / "dreamshaper_8.png"
    info.write_text(json.dumps({"id": VERSION, "trainedWords": ["mine"]}))
    picture.write_bytes(b"my own picture")
    run = site(version_id=VERSION)
    assert (run.result["sidecar"], run.result["preview"]) == (str(info), str(picture))
    assert site.info()["trainedWords"] == ["mine"] and picture.read_bytes() == b"my own picture"
    assert site.names() == [info.name, picture.name, "dreamshaper_8.safetensors"]


def test_a_sidecar_of_another_version_and_a_lost_one_are_made_anew(site: Site) -> None:
    site.folder.mkdir()
    info = site.folder / "dreamshaper_8.civitai.info"
    info.write_text(json.dumps({"id": 1, "name": "another version"}))
    assert site(version_id=VERSION).result["changed"] is True
    assert site.info()["id"] == VERSION
    info.unlink()
    again = site(version_id=VERSION, mode="0640")
    assert (again.result["changed"], again.result["downloaded_bytes"]) == (True, 0)
    assert {stat.S_IMODE(path.stat().st_mode) for path in site.folder.iterdir()} == {0o640}
    assert site.info()["id"] == VERSION
    assert site(version_id=VERSION, mode="0640").result["changed"] is False


def test_a_picture_that_cannot_be_had_is_a_warning_and_a_video_is_no_picture(site: Site) -> None:
    video = site.hubs.storage.add_bytes("preview.mp4", b"\x00\x00\x00\x20ftypisom")
    site.publish(site.version(images=[video]))
    run = site(version_id=VERSION)
    assert run.result["sha256"] == site.stored.sha256 and run.result["preview"] is None
    assert "is no picture that web UIs show" in str(run.result["warnings"])
    assert site.names() == ["dreamshaper_8.civitai.info", "dreamshaper_8.safetensors"]

    # For the moment only, so the next run tries again.
    site.publish(site.version(100, site.file(), images=[site.picture]))
    site.hubs.fail("storage", 503, times=9, path="preview.jpeg")
    first = site(version_id=100, **ONCE)
    assert not first.result.get("failed") and "stays without a preview picture" in str(first.result["warnings"])
    site.hubs.faults.clear()
    assert site(version_id=100).result["preview"] == str(site.folder / "dreamshaper_8.preview.jpeg")


def test_nothing_lies_beside_a_model_where_nobody_wants_it(site: Site) -> None:
    run = site(version_id=VERSION, sidecar=False, preview=False)
    assert (run.result["sidecar"], run.result["preview"]) == (None, None)
    assert site.names() == ["dreamshaper_8.safetensors"]


def test_exactly_one_way_to_name_the_model_is_taken(site: Site) -> None:
    assert "mutually exclusive" in site(version_id=VERSION, model_id=MODEL).message
    assert "one of the following is required" in site().message
    assert site.hubs.requests == []
