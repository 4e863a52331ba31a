# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-ins of the model hubs answer as the hubs do, and fail in each of the ways that can be asked for."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import hubs
import pytest
import requests
from hubs import ModelFile, ModelVersion, StoredFile

SERVERS = Path(__file__).resolve().parents[2] / "servers"
SIZE = 1_500_000
SMALL = b"{}\n"
COMMITTED = {"empty.txt": b"", "config.json": SMALL}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hubs.Hubs]:
    with hubs.Hubs(tmp_path_factory.mktemp("hubs")) as servers:
        yield servers


@pytest.fixture
def h(running: hubs.Hubs) -> hubs.Hubs:
    """The same servers for all tests, with nothing of the last test in them."""
    running.reset()
    return running


@pytest.fixture
def model(h: hubs.Hubs) -> StoredFile:
    return h.storage.add("model.safetensors", SIZE, seed=7)


def get(url: str, headers: Mapping[str, str] | None = None, method: str = "GET", **more: Any) -> requests.Response:
    """One request, and no redirect followed."""
    answer = requests.request(method, url, headers=headers, allow_redirects=False, timeout=60, **more)
    answer.close()
    return answer


class Follower(requests.Session):
    """Takes its token along to wherever it is led."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Leave it as it is."""


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Content.


def test_a_file_is_the_same_for_the_same_seed_and_valid_safetensors(h: hubs.Hubs, model: StoredFile) -> None:
    data = model.path.read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (SIZE, model.sha256)
    (length,) = struct.unpack("<Q", data[:8])
    tensors = json.loads(data[8 : 8 + length])
    ends = [tensor["data_offsets"] for tensor in tensors.values()]
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == SIZE - 8 - length
    assert h.storage.add("again.safetensors", SIZE, seed=7).sha256 == model.sha256
    assert h.storage.add("other.safetensors", SIZE, seed=8).sha256 != model.sha256
    with pytest.raises(ValueError, match="too few"):
        h.storage.add("short.safetensors", 300)


def test_no_block_of_a_file_is_like_another(h: hubs.Hubs) -> None:
    data = h.storage.add("file.bin", 5 << 20).path.read_bytes()
    assert len({data[place : place + (1 << 20)] for place in range(0, len(data), 1 << 20)}) == 5


# Storage.


def test_storage_serves_whole_files_and_ranges(h: hubs.Hubs, model: StoredFile) -> None:
    data = model.path.read_bytes()
    whole = get(model.url)
    assert (whole.status_code, whole.content, whole.headers["Accept-Ranges"]) == (200, data, "bytes")
    cases = {
        "bytes=0-0": (206, data[:1], f"bytes 0-0/{SIZE}"),
        "bytes=1000-1999": (206, data[1000:2000], f"bytes 1000-1999/{SIZE}"),
        f"bytes={SIZE - 5}-{SIZE + 99}": (206, data[-5:], f"bytes {SIZE - 5}-{SIZE - 1}/{SIZE}"),
        "bytes=-7": (206, data[-7:], f"bytes {SIZE - 7}-{SIZE - 1}/{SIZE}"),
        f"bytes={SIZE}-": (416, b"", f"bytes */{SIZE}"),
        "bytes=0-1,5-6": (200, data, None),
        "lines=0-1": (200, data, None),
    }
    for header, expected in cases.items():
        answer = get(model.url, {"Range": header})
        assert (answer.status_code, answer.content, answer.headers.get("Content-Range")) == expected, header


def test_etags_decide_about_a_range(h: hubs.Hubs, model: StoredFile) -> None:
    etag = get(model.url).headers["ETag"]
    assert etag.strip('"') != model.sha256
    for header, value, status in [
        ("If-Range", etag, 206),
        ("If-Range", '"other"', 200),
        ("If-Match", etag, 206),
        ("If-Match", '"other"', 412),
    ]:
        assert get(model.url, {"Range": "bytes=5-9", header: value}).status_code == status, (header, value)


def test_one_connection_serves_many_requests(h: hubs.Hubs, model: StoredFile) -> None:
    connection = http.client.HTTPConnection(h.storage.url.partition("://")[2], timeout=60)
    with contextlib.closing(connection):
        connection.connect()
        first = connection.sock
        for path, length in [
            ("/plain/model.safetensors", 100),
            ("/plain/nothing", None),
            ("/plain/model.safetensors", 100),
        ]:
            connection.request("GET", path, headers={"Range": "bytes=0-99"})
            body = connection.getresponse().read()
            assert length in (None, len(body))
        assert connection.sock is first


def test_a_signed_url_takes_no_token_and_no_head(h: hubs.Hubs, model: StoredFile) -> None:
    url = h.storage.sign(model, "nice name.safetensors")
    answer = get(url)
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == 'attachment; filename="nice name.safetensors"'
    with_token = get(url, bearer("secret"))
    assert (with_token.status_code, with_token.headers["Content-Type"]) == (400, "application/xml")
    assert b"<Code>InvalidArgument</Code>" in with_token.content
    assert get(url, method="HEAD").status_code == 403
    assert get(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=9999")).status_code == 403
    assert get(url.partition("?")[0]).status_code == 403
    assert h.told("secret") == ["storage"]


def test_signed_urls_expire(h: hubs.Hubs, model: StoredFile) -> None:
    url = h.storage.sign(model)
    h.faults.url_requests = 2
    assert [get(url).status_code for _ in range(3)] == [200, 200, 403]
    h.faults.clear()
    h.faults.expired_status = 401
    h.faults.expire_now()
    assert get(url).status_code == 401
    fresh = h.storage.sign(model)
    assert get(fresh).status_code == 200
    h.faults.url_lifetime = 0.05
    time.sleep(0.06)
    assert get(fresh).status_code == 401
    assert b"expired" in get(fresh).content
    h.faults.clear()
    assert get(h.storage.sign(model, lifetime=0)).status_code == 403


def test_the_other_places_of_a_storage_host(h: hubs.Hubs, model: StoredFile) -> None:
    assert get(f"{h.storage.url}/plain/nothing").status_code == 404
    assert get(f"{h.storage.url}/nowhere/{model.name}").status_code == 404
    assert get(model.url, method="HEAD").headers["Content-Length"] == str(SIZE)
    assert get(model.url, method="POST").status_code == 405
    private = f"{h.storage.url}/private/{model.name}"
    h.storage.tokens.add("right")
    assert [get(private, headers).status_code for headers in ({}, bearer("wrong"), bearer("right"))] == [401, 401, 200]
    moved = get(h.storage.redirect_to("http://192.0.2.1/a?b=c", 301))
    assert (moved.status_code, moved.headers["Location"]) == (301, "http://192.0.2.1/a?b=c")
    named = get(f"{model.url}?response-content-disposition=attachment%3B%20filename%3D..%2Fevil")
    assert named.headers["Content-Disposition"] == "attachment; filename=../evil"


def test_a_mirror_serves_by_sha256_and_by_name(h: hubs.Hubs, model: StoredFile) -> None:
    assert get(f"{h.mirror.url}/{model.sha256}").status_code == 404
    right = h.mirror.share(model)
    assert right == f"{h.mirror.url}/{model.sha256}"
    for url in (right, f"{h.mirror.url}/{model.name}"):
        assert hashlib.sha256(get(url).content).hexdigest() == model.sha256
    assert get(h.mirror.share_wrong(model, b"something else")).content == b"something else"
    assert h.bytes_sent("mirror", model.sha256) == SIZE + len(b"something else")


# Faults.


def test_an_answer_may_be_late_and_slow(h: hubs.Hubs, model: StoredFile) -> None:
    h.faults.latency, h.faults.bytes_per_second = 0.1, 1_000_000
    begun = time.monotonic()
    assert len(get(model.url, {"Range": "bytes=0-199999"}).content) == 200_000
    assert 0.28 < time.monotonic() - begun < 30


def test_a_drip_begins_after_some_bytes(h: hubs.Hubs, model: StoredFile) -> None:
    h.faults.trickle, h.faults.trickle_after = 1000, 100_000
    begun = time.monotonic()
    assert len(get(model.url, {"Range": "bytes=0-100199"}).content) == 100_200
    assert 0.18 < time.monotonic() - begun < 30


@pytest.mark.parametrize("politely", [False, True])
def test_a_connection_is_cut_so_often(h: hubs.Hubs, model: StoredFile, politely: bool) -> None:
    h.faults.cut_after, h.faults.cut_politely = 50_000, politely
    with pytest.raises(requests.exceptions.RequestException):
        get(model.url)
    assert h.bytes_sent() == 50_000
    assert hashlib.sha256(get(model.url).content).hexdigest() == model.sha256


def test_a_byte_is_wrong_so_often(h: hubs.Hubs, model: StoredFile) -> None:
    data = model.path.read_bytes()
    h.faults.wrong_byte = 1_200_000
    assert get(model.url, {"Range": "bytes=0-99"}).content == data[:100]
    broken = get(model.url, {"Range": "bytes=1199999-"}).content
    assert (broken[0], broken[1], broken[2:]) == (data[1_199_999], data[1_200_000] ^ 0xFF, data[1_200_001:])
    assert get(model.url).content == data
    h.faults.wrong_byte, h.faults.wrong_times = 0, hubs.ALWAYS
    assert [get(model.url).content[0] ^ data[0] for _ in range(2)] == [0xFF, 0xFF]


def test_a_content_length_may_lie(h: hubs.Hubs, model: StoredFile) -> None:
    h.faults.content_length_delta = 10
    with pytest.raises(requests.exceptions.RequestException):
        get(model.url)
    h.faults.content_length_delta = -10
    assert len(get(model.url).content) == SIZE - 10


def test_ranges_may_be_ignored_or_refused(h: hubs.Hubs, model: StoredFile) -> None:
    h.faults.ignore_range = True
    assert len(get(model.url, {"Range": "bytes=5-9"}).content) == SIZE
    h.faults.clear()
    h.faults.refuse_range = True
    refused = get(model.url, {"Range": "bytes=5-9"})
    assert (refused.status_code, refused.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert get(model.url).status_code == 200


def test_a_file_may_change_on_the_way(h: hubs.Hubs, model: StoredFile) -> None:
    h.faults.etag_after = 2
    tags = [get(model.url, {"Range": "bytes=0-0"}).headers["ETag"] for _ in range(4)]
    assert tags[0] == tags[1] != tags[2] == tags[3]
    assert get(model.url, {"Range": "bytes=5-9", "If-Range": tags[0]}).status_code == 200
    h.faults.etag_after = 1
    assert get(model.url).headers["ETag"] == tags[0]
    h.faults.clear()
    h.faults.size_change_after = 1
    sizes = [get(model.url, {"Range": "bytes=0-0"}).headers["Content-Range"] for _ in range(2)]
    assert sizes == [f"bytes 0-0/{SIZE}", f"bytes 0-0/{SIZE - 1}"]


def test_a_transfer_may_fall_silent(h: hubs.Hubs, model: StoredFile) -> None:
    h.faults.stall_after = 10_000
    connection = http.client.HTTPConnection(h.storage.url.partition("://")[2], timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/plain/model.safetensors")
        answer = connection.getresponse()
        assert answer.length == SIZE and len(answer.read(10_000)) == 10_000
        connection.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            answer.read(1)
        assert h.bytes_sent() == 10_000
    assert get(model.url).status_code == 200


def test_a_page_instead_of_a_file_and_chunks_instead_of_a_length(h: hubs.Hubs, model: StoredFile) -> None:
    h.faults.html_error = True
    page = get(model.url)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.content.startswith(b"<!DOCTYPE html>")
    h.faults.clear()
    h.faults.no_content_length = True
    answer = get(model.url)
    assert "Content-Length" not in answer.headers
    assert hashlib.sha256(answer.content).hexdigest() == model.sha256


def test_planned_answers_come_first(h: hubs.Hubs, model: StoredFile) -> None:
    h.fail("storage", 503, times=2, headers={"Retry-After": "1"}, path="/plain/")
    h.fail("storage", 429, body={"error": "slow down"})
    h.fail("mirror", 500)
    assert get(h.storage.sign(model)).json() == {"error": "slow down"}
    answers = [get(model.url) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert get(h.mirror.share(model)).status_code == 500
    h.fail("storage", 418, times=hubs.ALWAYS)
    assert [get(model.url).status_code for _ in range(3)] == [418, 418, 418]
    h.faults.clear()
    assert get(model.url).status_code == 200


def test_faults_may_be_for_some_files_only(h: hubs.Hubs, model: StoredFile) -> None:
    other = h.storage.add("other.bin", 1000)
    h.faults.only, h.faults.html_error = "other", True
    kinds = [get(url).headers["Content-Type"] for url in (model.url, other.url)]
    assert kinds == ["application/octet-stream", "text/html; charset=utf-8"]


def test_the_list_of_requests(h: hubs.Hubs, model: StoredFile) -> None:
    get(model.url, {"Range": "bytes=0-99", "X-Own": "token-in-a-header"})
    get(f"{h.civitai.url}/api/v1/models/1?token=token-in-a-query")
    get(f"{h.civitai.url}/api/v1/models/1", method="POST", data="token-in-a-body")
    first, second, third = h.requests
    assert (first.server, first.method, first.path) == ("storage", "GET", f"/plain/{model.name}")
    assert (first.status, first.range, first.bytes_sent, first.headers["x-own"]) == (
        206,
        "bytes=0-99",
        100,
        "token-in-a-header",
    )
    assert "X-OWN" in first.headers and "Authorization" not in first.headers
    assert h.told("token-in-a-header") == ["storage"]
    assert h.told("token-in-a-query") == h.told("token-in-a-body") == ["civitai"]
    assert h.told("never said") == []
    assert [request.method for request in h.asked("civitai", "/models/")] == [second.method, third.method]
    assert h.bytes_sent() == 100


def test_a_server_that_broke_is_no_fault(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a stand-in broke"), hubs.Hubs(tmp_path) as servers:
        servers.storage.add("gone.bin", 10).path.unlink()
        servers.civitai.models[1] = cast("hubs.Model", None)
        with pytest.raises(requests.exceptions.ConnectionError):
            get(f"{servers.civitai.url}/api/v1/models/1")


# Civitai.


@pytest.fixture
def two_files(h: hubs.Hubs, model: StoredFile) -> tuple[ModelFile, ModelFile]:
    """Of one version and of one name, as it happens."""
    small = h.storage.add("small.safetensors", 600_000)
    return (
        ModelFile(31, small, "same.safetensors", metadata={"format": "SafeTensor", "size": "pruned", "fp": "fp8"}),
        ModelFile(32, model, "same.safetensors"),
    )


def version_of(h: hubs.Hubs, model: StoredFile, **fields: Any) -> str:
    """A model of one version, and where that is downloaded from."""
    h.civitai.add_model(1, [ModelVersion(2, [ModelFile(3, model)], **fields)])
    return f"{h.civitai.url}/api/download/models/2"


def test_civitai_tells_of_models_and_versions(h: hubs.Hubs, two_files: tuple[ModelFile, ModelFile]) -> None:
    picture = h.storage.add_bytes("picture.png", b"a picture")
    h.civitai.add_model(
        10,
        [
            ModelVersion(21, two_files, trained_words=["a word"], images=[picture]),
            ModelVersion(22, [two_files[1]], published=False),
        ],
        name="Nice",
        type="LORA",
    )
    api = f"{h.civitai.url}/api/v1"
    told = get(f"{api}/models/10").json()
    assert (told["id"], told["name"], told["type"], len(told["modelVersions"])) == (10, "Nice", "LORA", 1)
    in_model = told["modelVersions"][0]
    version = get(f"{api}/model-versions/21").json()
    assert (version["modelId"], version["model"]["name"], version["trainedWords"]) == (10, "Nice", ["a word"])
    assert version["air"] == "urn:air:sd1:lora:civitai:10@21"
    for files in (version["files"], in_model["files"]):
        assert [file["name"] for file in files] == ["same.safetensors"] * 2
        assert [file.get("primary", False) for file in files] == [False, True]
        assert [file["sizeKB"] * 1024 for file in files] == [600_000, SIZE]
        assert files[1]["hashes"]["SHA256"] == two_files[1].stored.sha256.upper()
        assert files[1]["downloadUrl"] == f"{h.civitai.url}/api/download/models/21"
        assert "fp=fp8" in files[0]["downloadUrl"]
    assert get(version["images"][0]["url"]).content == b"a picture"
    for kind, value in two_files[0].hashes.items():
        assert get(f"{api}/model-versions/by-hash/{value.lower()}").json()["id"] == 21, kind
    mini = get(f"{api}/model-versions/mini/21").json()
    assert (mini["fileName"], mini["hashes"]["SHA256"]) == ("same.safetensors", two_files[1].stored.sha256.upper())
    assert (mini["requireAuth"], mini["checkPermission"]) == (False, False)


def test_civitai_does_not_know_everything(h: hubs.Hubs, model: StoredFile) -> None:
    version_of(h, model)
    for path, status in {
        "models/77": 404,
        "models/word": 400,
        "model-versions/77": 404,
        "model-versions/mini/77": 404,
        "model-versions/word": 400,
        "model-versions/by-hash/ABCD": 404,
        "nothing": 404,
    }.items():
        assert get(f"{h.civitai.url}/api/v1/{path}").status_code == status, path
    assert get(f"{h.civitai.url}/api/v1/models/77").json() == {"error": "No model with id 77"}


def test_civitai_finds_many_by_sha256(h: hubs.Hubs, model: StoredFile) -> None:
    version_of(h, model)
    api = f"{h.civitai.url}/api/v1/model-versions/by-hash"
    wanted = [model.sha256, "0" * 64]
    assert [found["id"] for found in get(api, method="POST", json=wanted).json()] == [2]
    found = get(f"{api}/ids", method="POST", json=wanted).json()
    assert found == [{"modelVersionId": 2, "hash": model.sha256.upper()}]
    for wrong in (["0" * 63], [], ["0" * 64] * 101):
        assert get(api, method="POST", json=wrong).status_code == 400


def test_civitai_leads_to_its_storage(h: hubs.Hubs, two_files: tuple[ModelFile, ModelFile]) -> None:
    h.civitai.add_model(10, [ModelVersion(21, two_files)])
    url = f"{h.civitai.url}/api/download/models/21"
    led = get(url, bearer(h.civitai.token))
    assert (led.status_code, led.headers["Cache-Control"]) == (307, "no-store, max-age=0")
    assert led.headers["Location"].startswith(f"{h.storage.url}/signed/")
    arrived = get(led.headers["Location"])
    assert hashlib.sha256(arrived.content).hexdigest() == two_files[1].stored.sha256
    assert arrived.headers["Content-Disposition"] == 'attachment; filename="same.safetensors"'
    # A client that takes its token along is caught, here and in the list of requests.
    assert Follower().get(url, headers=bearer(h.civitai.token), timeout=60).status_code == 400
    assert h.told(h.civitai.token) == ["civitai", "storage"]
    h.faults.second_storage = True
    assert get(url).headers["Location"].startswith(f"{h.storage2.url}/signed/")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", SIZE),
        ("fileId=31", 600_000),
        ("fileId=32&fp=fp8", SIZE),
        ("fp=fp8", 600_000),
        ("type=Model&format=SafeTensor&size=pruned&fp=fp16", SIZE),
        ("fileId=99", 404),
        ("fp=fp32", 404),
        ("size=full", 404),
        ("format=PickleTensor", 404),
        ("type=VAE", 404),
        ("type=Nonsense", 400),
        ("fileId=word", 400),
    ],
)
def test_civitai_chooses_a_file(
    h: hubs.Hubs, two_files: tuple[ModelFile, ModelFile], query: str, expected: int
) -> None:
    h.civitai.add_model(10, [ModelVersion(21, two_files)])
    answer = get(f"{h.civitai.url}/api/download/models/21?{query}")
    if answer.status_code == 307:
        assert len(get(answer.headers["Location"]).content) == expected
    else:
        assert answer.status_code == expected


SOON = datetime(2035, 6, 7, 8, 9, 10, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("fields", "statuses", "said"),
    [
        ({"require_login": True}, (401, 307, 307), "logged in"),
        ({"downloads_disabled": True}, (401, 401, 401), "has disabled downloads"),
        ({"early_access_until": SOON}, (403, 403, 307), "2035-06-07T08:09:10.000Z"),
        ({"early_access_until": SOON - timedelta(days=9999)}, (307, 307, 307), "Redirecting"),
        ({"private": True}, (401, 403, 307), "Unauthorized"),
    ],
)
def test_civitai_says_who_may_have_it(
    h: hubs.Hubs, model: StoredFile, fields: dict[str, Any], statuses: tuple[int, ...], said: str
) -> None:
    """Without a token, with one of somebody who bought nothing, with one of a buyer."""
    url = version_of(h, model, **fields)
    answers = [get(url), get(url, bearer(h.civitai.other_token)), get(f"{url}?token={h.civitai.token}")]
    assert tuple(answer.status_code for answer in answers) == statuses
    assert said in answers[0].text
    assert get(url, bearer("nobody's")).status_code == statuses[0]


def test_civitai_has_archived_models(h: hubs.Hubs, model: StoredFile) -> None:
    h.civitai.add_model(1, [ModelVersion(2, [ModelFile(3, model)])], mode="Archived")
    assert get(f"{h.civitai.url}/api/download/models/2").status_code == 410
    assert "files" not in get(f"{h.civitai.url}/api/v1/models/1").json()["modelVersions"][0]
    version = get(f"{h.civitai.url}/api/v1/model-versions/2").json()
    assert (version["files"], version["model"]["mode"], "downloadUrl" in version) == ([], "Archived", False)


def test_civitai_counts_downloads(h: hubs.Hubs, model: StoredFile) -> None:
    url = version_of(h, model)
    h.civitai.download_limit = 1
    answers = [get(url) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [307, 429]
    assert "Retry-After" not in answers[1].headers
    assert get(url, bearer(h.civitai.token)).status_code == 307
    h.civitai.blocked = True
    assert get(url, bearer(h.civitai.token)).json() == {"error": "Forbidden"}


def test_civitai_looks_at_the_user_agent(h: hubs.Hubs, model: StoredFile) -> None:
    url = version_of(h, model, require_login=True)
    assert get(url, {"User-Agent": "Python-urllib/3.11"}).status_code == 403
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}
    led = get(url, browser)
    assert (led.status_code, led.headers["Location"].partition("?")[0]) == (307, "/login")
    page = get(h.civitai.url + led.headers["Location"], browser)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    missing = get(f"{h.civitai.url}/api/download/models/99", browser)
    assert (missing.status_code, missing.headers["Content-Type"]) == (404, "text/html; charset=utf-8")


def test_civitai_knows_no_head(h: hubs.Hubs, model: StoredFile) -> None:
    assert get(version_of(h, model), bearer(h.civitai.token), "HEAD").status_code == 401


# Hugging Face.


@pytest.fixture
def commit(h: hubs.Hubs, model: StoredFile) -> str:
    return h.huggingface.add_repo("org/name", {**COMMITTED, "sub/folder/model.safetensors": model})


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()


def test_huggingface_lists_files(h: hubs.Hubs, model: StoredFile, commit: str) -> None:
    tree = f"{h.huggingface.url}/api/models/org/name/tree/main"
    top = get(tree)
    assert top.headers["X-Repo-Commit"] == commit
    assert [(entry["type"], entry["path"]) for entry in top.json()] == [
        ("file", "config.json"),
        ("file", "empty.txt"),
        ("directory", "sub"),
    ]
    everything = {entry["path"]: entry for entry in get(f"{tree}?recursive=True").json()}
    assert sorted(everything) == ["config.json", "empty.txt", "sub", "sub/folder", "sub/folder/model.safetensors"]
    small, large = everything["config.json"], everything["sub/folder/model.safetensors"]
    assert (small["oid"], small["size"], "lfs" in small) == (git_sha1(b"{}\n"), 3, False)
    assert (large["lfs"]["oid"], large["lfs"]["size"], large["size"]) == (model.sha256, SIZE, SIZE)
    assert len(large["oid"]) == 40 and large["xetHash"] != model.sha256
    folder = get(f"{tree}/sub%2Ffolder?expand=true").json()
    assert [(entry["path"], entry["securityFileStatus"]["status"]) for entry in folder] == [
        ("sub/folder/model.safetensors", "safe")
    ]
    assert get(f"{tree}/nowhere").headers["X-Error-Code"] == "EntryNotFound"


def test_huggingface_lists_in_pages(h: hubs.Hubs, commit: str) -> None:
    h.faults.hub_page_size = 2
    pages = []
    url = f"{h.huggingface.url}/api/models/org/name/tree/{commit}?recursive=true"
    while url:
        answer = get(url)
        pages.append([entry["path"] for entry in answer.json()])
        url = answer.links.get("next", {}).get("url", "")
    assert pages == [["config.json", "empty.txt"], ["sub", "sub/folder"], ["sub/folder/model.safetensors"]]


def test_huggingface_tells_of_a_repository(h: hubs.Hubs, model: StoredFile, commit: str) -> None:
    api = f"{h.huggingface.url}/api/models/org/name"
    for url in (api, f"{api}/revision/main", f"{api}/revision/{commit}"):
        told = get(url).json()
        assert (told["id"], told["sha"], told["gated"], told["private"]) == ("org/name", commit, False, False)
    siblings = get(f"{api}?blobs=true").json()["siblings"]
    assert [sibling["rfilename"] for sibling in siblings] == [*sorted(COMMITTED), "sub/folder/model.safetensors"]
    assert siblings[2]["lfs"]["sha256"] == model.sha256


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_huggingface_leads_to_its_storage(h: hubs.Hubs, model: StoredFile, commit: str, method: str) -> None:
    led = get(f"{h.huggingface.url}/org/name/resolve/main/sub/folder/model.safetensors", method=method)
    assert led.status_code == 302
    assert led.headers["X-Repo-Commit"] == commit
    assert (led.headers["X-Linked-Etag"], led.headers["X-Linked-Size"]) == (f'"{model.sha256}"', str(SIZE))
    assert len(led.headers["X-Xet-Hash"]) == 64
    arrived = get(led.headers["Location"], {"Range": "bytes=0-9"})
    assert (arrived.status_code, arrived.headers["Content-Range"]) == (206, f"bytes 0-9/{SIZE}")
    assert not {name.lower() for name in arrived.headers} & {"x-linked-etag", "x-repo-commit"}


def test_huggingface_has_small_files_itself(h: hubs.Hubs, commit: str) -> None:
    url = f"{h.huggingface.url}/org/name/resolve/{commit}/config.json"
    led = get(url)
    assert led.status_code == 307 and "X-Repo-Commit" not in led.headers
    assert led.headers["Location"].startswith(f"/api/resolve-cache/models/org/name/{commit}/config.json?")
    through = requests.get(url, timeout=60)
    h.huggingface.resolve_cache = False
    for answer in (through, get(url)):
        assert (answer.status_code, answer.content) == (200, b"{}\n")
        assert (answer.headers["ETag"], answer.headers["X-Repo-Commit"]) == (
            f'"{git_sha1(COMMITTED["config.json"])}"',
            commit,
        )
    assert (get(url, {"Range": "bytes=1-1"}).content, get(url, {"Range": "bytes=9-"}).status_code) == (b"}", 416)
    assert get(url.replace("config.json", "empty.txt")).content == b""
    h.faults.hub_gzip = True
    assert get(url).headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in get(url, {"Accept-Encoding": "identity"}).headers


def test_huggingface_knows_commits_branches_and_tags(h: hubs.Hubs, model: StoredFile, commit: str) -> None:
    newer = h.huggingface.add_repo("org/name", {"config.json": b"[]\n"})
    h.huggingface.tag("org/name", "v1", commit)
    h.huggingface.add_repo("org/name", {"config.json": b"pr\n"}, branch="refs/pr/1")
    assert newer != commit
    contents = {
        revision: requests.get(f"{h.huggingface.url}/org/name/resolve/{revision}/config.json", timeout=60).content
        for revision in ("main", "v1", commit, newer, "refs%2Fpr%2F1")
    }
    assert list(contents.values()) == [b"[]\n", b"{}\n", b"{}\n", b"[]\n", b"pr\n"]


def test_huggingface_has_other_types_too(h: hubs.Hubs, model: StoredFile) -> None:
    h.huggingface.add_repo("org/name", {"data.bin": model}, type="dataset")
    h.huggingface.add_repo("gpt2", {"config.json": b"{}"})
    assert get(f"{h.huggingface.url}/datasets/org/name/resolve/main/data.bin").status_code == 302
    assert len(get(f"{h.huggingface.url}/api/datasets/org/name/tree/main").json()) == 1
    assert get(f"{h.huggingface.url}/gpt2/resolve/main/config.json").content == b"{}"
    assert get(f"{h.huggingface.url}/api/models/gpt2").json()["id"] == "gpt2"


def test_huggingface_renames_repositories(h: hubs.Hubs, commit: str) -> None:
    h.huggingface.rename("org/name", "org/new")
    led = get(f"{h.huggingface.url}/org/name/resolve/main/config.json")
    assert (led.status_code, led.headers["Location"]) == (307, "/org/new/resolve/main/config.json")
    led = get(f"{h.huggingface.url}/api/models/org/name/tree/main?recursive=true")
    assert (led.status_code, led.headers["Location"]) == (307, "/api/models/org/new/tree/main?recursive=true")
    assert requests.get(f"{h.huggingface.url}/org/name/resolve/main/config.json", timeout=60).content == b"{}\n"


@pytest.mark.parametrize(
    ("path", "answers"),
    [
        # Without a token, with one that was let in nowhere, with one that may see everything, with a wrong one.
        ("org/gated/resolve/main/x", [(401, "GatedRepo"), (403, "GatedRepo"), (302, None), (401, None)]),
        ("org/private/resolve/main/x", [(401, None), (404, "RepoNotFound"), (302, None), (401, None)]),
        ("api/models/org/private", [(401, None), (404, "RepoNotFound"), (200, None), (401, None)]),
        ("api/models/org/gated/tree/main", [(200, None), (200, None), (200, None), (401, None)]),
        ("org/missing/resolve/main/x", [(401, None), (404, "RepoNotFound"), (404, "RepoNotFound"), (401, None)]),
        ("org/name/resolve/gone/x", [(404, "RevisionNotFound")] * 3 + [(401, None)]),
        ("api/models/org/name/tree/gone", [(404, "RevisionNotFound")] * 3 + [(401, None)]),
        ("org/name/resolve/main/gone", [(404, "EntryNotFound")] * 3 + [(401, None)]),
    ],
)
def test_huggingface_refuses(
    h: hubs.Hubs, model: StoredFile, commit: str, path: str, answers: list[tuple[int, str | None]]
) -> None:
    h.huggingface.add_repo("org/gated", {"x": model}, gated=True)
    h.huggingface.add_repo("org/private", {"x": model}, private=True)
    tokens = [{}, bearer(h.huggingface.other_token), bearer(h.huggingface.token), bearer("hf_wrong")]
    got = [get(f"{h.huggingface.url}/{path}", headers) for headers in tokens]
    assert [(answer.status_code, answer.headers.get("X-Error-Code")) for answer in got] == answers
    for answer in got:
        assert (answer.status_code >= 400) == ("X-Error-Message" in answer.headers)
    assert "Authorization header" in got[3].headers["X-Error-Message"]


def test_huggingface_limits_rates(h: hubs.Hubs, commit: str) -> None:
    h.huggingface.limit("api", 2, 600)
    url = f"{h.huggingface.url}/api/models/org/name"
    answers = [get(url) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    told = [answer.headers["RateLimit"].rpartition("=") for answer in answers]
    assert [rest for rest, _equals, _seconds in told] == ['"api";r=1;t', '"api";r=0;t', '"api";r=0;t']
    assert all(500 < int(seconds) <= 600 for _rest, _equals, seconds in told)
    assert answers[2].headers["RateLimit-Policy"] == '"fixed window";"api";q=2;w=600'
    assert '"resolvers"' in get(f"{h.huggingface.url}/org/name/resolve/main/config.json").headers["RateLimit"]
    # The window of these requests is over in a moment.
    h.huggingface.limits["api"] = (2, 0.1)
    time.sleep(0.1)
    assert get(url).status_code == 200


# All together.


def test_stopping_ends_what_hangs(tmp_path: Path) -> None:
    servers = hubs.Hubs(tmp_path)
    stored = servers.storage.add("file.bin", 1000)
    servers.faults.stall_after = 10
    failed: list[Exception] = []

    def ask() -> None:
        try:
            requests.get(stored.url, timeout=600)
        except requests.exceptions.RequestException as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    while not servers.bytes_sent():
        time.sleep(0.01)
    begun = time.monotonic()
    servers.close()
    thread.join(60)
    assert failed and time.monotonic() - begun < 30
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(servers.civitai.url, timeout=1)


def certificate(folder: Path) -> tuple[str, str]:
    """One for the loopback addresses, good for a day."""
    paths = str(folder / "cert.pem"), str(folder / "key.pem")
    names = ",".join(f"IP:127.0.0.{number}" for number in range(1, 6))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-out", paths[0], "-keyout", paths[1], "-days", "1", "-subj", "/CN=hubs"]
    subprocess.run([*command, "-addext", f"subjectAltName={names}"], check=True, capture_output=True)
    return paths


def test_https(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    with hubs.Hubs(tmp_path / "hubs", tls=tls) as servers:
        stored = servers.storage.add("model.safetensors", SIZE)
        servers.civitai.add_model(1, [ModelVersion(2, [ModelFile(3, stored)])])
        url = f"{servers.civitai.url}/api/download/models/2"
        assert url.startswith("https://127.0.0.1:")
        answer = requests.get(url, timeout=60, verify=tls[0])
        assert hashlib.sha256(answer.content).hexdigest() == stored.sha256
        servers.faults.wrong_byte = 5
        assert requests.get(stored.url, timeout=60, verify=tls[0]).content != answer.content
        servers.faults.cut_after = 5000
        with pytest.raises(requests.exceptions.RequestException):
            requests.get(stored.url, timeout=60, verify=tls[0])
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(stored.url, timeout=60)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()]


def test_as_a_program(tmp_path: Path) -> None:
    """As on a host of its own: filled from a file, told about faults over HTTP, with a log of what was asked."""
    config = {
        "ports": dict.fromkeys(hubs.NAMES, 0),
        "files": {
            "model.safetensors": {"size": SIZE, "seed": 7},
            "picture.png": {"text": "picture"},
            "this": {"path": __file__},
        },
        "civitai": {
            "token": "from the configuration",
            "models": [
                {
                    "id": 1,
                    "type": "LORA",
                    "versions": [
                        {
                            "id": 2,
                            "files": [{"id": 3, "file": "model.safetensors"}],
                            "images": ["picture.png"],
                            "early_access_until": "2035-01-01T00:00:00+00:00",
                        }
                    ],
                }
            ],
        },
        "huggingface": {
            "repos": [{"name": "org/name", "files": {"m.bin": {"file": "model.safetensors"}, "config.json": "{}"}}],
            "renamed": {"org/name": "org/new"},
        },
        "mirror": ["model.safetensors"],
        "faults": {"hub_page_size": 1},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-B", "-m", "hubs", "--address", "127.0.0.1", "--advertise", "http://localhost"]
    command += ["--folder", str(tmp_path / "data"), "--config", str(tmp_path / "config.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=SERVERS) as process:
        try:
            assert process.stdout
            told = json.loads(process.stdout.readline())
            assert json.loads((tmp_path / "data/hubs.json").read_text(encoding="utf-8")) == told
            urls = told["urls"]
            assert urls["storage"].startswith("http://localhost:")
            download = f"{urls['civitai']}/api/download/models/2"
            assert get(download).status_code == 403
            led = get(download, bearer("from the configuration"))
            assert (
                hashlib.sha256(get(led.headers["Location"]).content).hexdigest()
                == (told["files"]["model.safetensors"]["sha256"])
            )
            assert len(get(f"{urls['huggingface']}/api/models/org/new/tree/main").json()) == 1
            assert get(told["files"]["this"]["url"]).content == Path(__file__).read_bytes()
            assert get(f"{urls['mirror']}/model.safetensors").status_code == 200
            control = f"{urls['storage']}/_control"
            failure = {"server": "civitai", "status": 418, "path": "/api/"}
            assert get(control, method="POST", json={"fail": failure, "hub_latency": 0.01}).status_code == 200
            assert [get(download).status_code for _ in range(2)] == [418, 403]
            assert "no such fault" in get(control, method="POST", json={"nonsense": 1}).json()["error"]
            assert get(control, method="POST", data="nonsense").status_code == 400
            asked = get(f"{urls['mirror']}/_requests").json()
            # Each line is written when its answer is complete, which the client may know a little earlier.
            until = time.monotonic() + 60
            while time.monotonic() < until and len(log_of(tmp_path / "data")) < len(asked):
                time.sleep(0.01)
            assert log_of(tmp_path / "data") == asked
            assert asked[1]["headers"]["authorization"] == "Bearer from the configuration"
            assert get(control, method="POST", json={"clear": True, "clear_requests": True}).status_code == 200
            assert get(f"{urls['civitai']}/_requests").json() == []
            expired = get(download, bearer("from the configuration")).headers["Location"]
            assert get(control, method="POST", json={"expire_now": True}).status_code == 200
            assert get(expired).status_code == 403
        finally:
            process.terminate()
