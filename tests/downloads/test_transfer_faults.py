"""What servers do wrong in the middle of a download: never a splice, never a wrong file, and an end to all of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hubs import ALWAYS, Hubs, StoredFile
from module_runs import Modules, Run

MIB = 1024 * 1024
SIZE = 48 * MIB + 99
REPOSITORY = "somebody/faults"
Options = dict[str, Any]


@pytest.fixture(scope="module")
def file(servers: Hubs) -> StoredFile:
    stored = servers.storage.add("faults.bin", SIZE, seed=7)
    servers.huggingface.add_repo(REPOSITORY, files={"faults.bin": stored})
    return stored


@pytest.fixture
def plain(file: StoredFile, tmp_path: Path) -> Options:
    return {"url": file.url, "dest": str(tmp_path / "model.dat"), "sha256": file.sha256, "retries": 3}


@pytest.fixture
def signed(hubs: Hubs, plain: Options) -> Options:
    """By a hub that redirects to a signed URL."""
    url = f"{hubs.huggingface.url}/{REPOSITORY}/resolve/main/faults.bin"
    return {**plain, "url": url, "allowed_hosts": [hubs.storage.url, hubs.storage2.url]}


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole(run: Run, file: StoredFile, tmp_path: Path) -> None:
    """The file is there, right, and nothing else is."""
    assert run.result.get("changed"), run.output
    assert sha256_of(tmp_path / "model.dat") == file.sha256
    assert sorted(os.listdir(tmp_path)) == ["index.sqlite3", "model.dat"]


def nothing(tmp_path: Path) -> None:
    assert not (tmp_path / "model.dat").exists()


def test_cut_connections(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    """Five connections are cut in the middle; what had come is kept."""
    hubs.faults.cut_after, hubs.faults.cut_times = 3 * MIB, 5
    run = run_module("url_download", **plain)
    whole(run, file, tmp_path)
    # What is lost is what was on its way when the connection was cut.
    assert hubs.bytes_sent() < SIZE + 5 * 2 * MIB


def test_politely_cut_connections(
    hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path
) -> None:
    """A short body that looks like a whole one."""
    hubs.faults.cut_after, hubs.faults.cut_times, hubs.faults.cut_politely = MIB, 3, True
    whole(run_module("url_download", **plain), file, tmp_path)


def test_always_cut(hubs: Hubs, run_module: Modules, plain: Options, tmp_path: Path) -> None:
    """There is an end to it, and a sentence."""
    hubs.faults.cut_after, hubs.faults.cut_times = 0, ALWAYS
    run = run_module("url_download", **{**plain, "retries": 2})
    assert run.result["failed"]
    assert "cannot be reached" in run.message
    assert len(hubs.requests) < 30
    nothing(tmp_path)


def test_stall(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    hubs.faults.stall_after, hubs.faults.stall_times = MIB, 2
    started = time.monotonic()
    whole(run_module("url_download", **{**plain, "timeout": 2}), file, tmp_path)
    assert 2 < time.monotonic() - started < 60


def test_trickle(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    """A connection that drips a few bytes each second is as dead as one that is silent."""
    hubs.faults.trickle, hubs.faults.trickle_after, hubs.faults.trickle_times = 50, MIB, 2
    started = time.monotonic()
    whole(run_module("url_download", **{**plain, "timeout": 2}), file, tmp_path)
    assert 2 < time.monotonic() - started < 60


@pytest.mark.parametrize("status", [401, 403])
def test_signed_url_expires(
    status: int, hubs: Hubs, run_module: Modules, signed: Options, file: StoredFile, tmp_path: Path
) -> None:
    """In the middle of the file: asked again, continued, nothing fetched twice."""
    hubs.faults.url_requests, hubs.faults.expired_status = 3, status
    run = run_module("url_download", **signed)
    whole(run, file, tmp_path)
    assert len({request.path for request in hubs.asked("storage")}) > 1
    assert any(request.status == status for request in hubs.asked("storage"))
    assert hubs.bytes_sent(path="/signed/") < SIZE + MIB


def test_signed_url_moves_to_another_storage(
    hubs: Hubs, run_module: Modules, signed: Options, file: StoredFile, tmp_path: Path
) -> None:
    """The hub uses two storage hosts, as Civitai does: the SHA-256 vouches for the joint."""
    hubs.faults.url_requests = 3
    process = run_module.start("url_download", **signed, rate_limit="16M", connections=2)
    while hubs.bytes_sent() < 8 * MIB:
        assert process.poll() is None
        time.sleep(0.01)
    hubs.faults.second_storage = True
    hubs.faults.url_requests = None
    hubs.faults.expire_now()
    whole(run_module.end(process), file, tmp_path)
    assert hubs.bytes_sent("storage2") > MIB


def test_never_a_good_url(hubs: Hubs, run_module: Modules, signed: Options, tmp_path: Path) -> None:
    hubs.faults.url_requests = 0
    run = run_module("url_download", **signed)
    assert run.result["failed"]
    assert "status 403" in run.message
    assert "X-Amz" not in run.output
    assert len(hubs.requests) < 60
    nothing(tmp_path)


def test_200_to_a_range(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    """From the beginning: one connection. In the middle: again from the beginning, never a splice."""
    hubs.faults.ignore_range = True
    whole(run_module("url_download", **plain), file, tmp_path)
    os.unlink(tmp_path / "model.dat")
    hubs.faults.clear()
    hubs.faults.bytes_per_second = 4 * MIB
    process = run_module.start("url_download", **plain)
    while hubs.bytes_sent() < SIZE + 8 * MIB:
        assert process.poll() is None
        time.sleep(0.01)
    hubs.faults.bytes_per_second = None
    hubs.faults.ignore_range = True
    run = run_module.end(process)
    assert run.result["changed"], run.output
    assert sha256_of(tmp_path / "model.dat") == file.sha256
    assert run.result["resumed_bytes"] == 0


def test_416(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    hubs.faults.bytes_per_second = 4 * MIB
    process = run_module.start("url_download", **plain)
    while hubs.bytes_sent() < 8 * MIB:
        assert process.poll() is None
        time.sleep(0.01)
    hubs.faults.refuse_range = True
    time.sleep(2.5)
    hubs.faults.clear()
    run = run_module.end(process)
    assert run.result.get("changed") or "status 416" in run.message, run.output
    again = run if run.result.get("changed") else run_module("url_download", **plain)
    whole(again, file, tmp_path)


@pytest.mark.parametrize("fault", ["etag_after", "size_change_after"])
def test_file_changes_in_the_middle(
    fault: str, hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path
) -> None:
    """What had come belongs to another file: thrown away, and begun again; a file that is wrong then is refused."""
    setattr(hubs.faults, fault, 4)
    run = run_module("url_download", **plain)
    if fault == "etag_after":
        assert run.result["changed"], run.output
        assert hubs.bytes_sent() > SIZE + MIB
        assert "was changed on the server" in json.dumps(run.result["warnings"])
        assert sha256_of(tmp_path / "model.dat") == file.sha256
    else:
        assert "instead of SHA-256" in run.message
        nothing(tmp_path)


def test_changed_between_two_runs(
    hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path
) -> None:
    """Without a SHA-256 an ETag is all that tells two files apart."""
    options = {**plain, "sha256": "none"}
    hubs.faults.bytes_per_second = 4 * MIB
    run_module.kill_when(lambda: hubs.bytes_sent() > 36 * MIB, "url_download", **options)
    hubs.faults.clear()
    hubs.faults.etag_after = 0
    hubs.requests.clear()
    run = run_module("url_download", **options)
    assert run.result["changed"], run.output
    assert run.result["resumed_bytes"] == 0
    assert hubs.bytes_sent() == SIZE + 1


def test_wrong_byte(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    """Refused, with both hashes; the next run begins anew."""
    hubs.faults.wrong_byte = SIZE // 2
    run = run_module("url_download", **plain)
    assert f"instead of SHA-256 {file.sha256}" in run.message
    nothing(tmp_path)
    run = run_module("url_download", **plain)
    whole(run, file, tmp_path)
    assert run.result["resumed_bytes"] == 0


def test_wrong_hash_is_corrected(
    hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path
) -> None:
    """What came was right and the SHA-256 was wrong: with the right one nothing is fetched twice."""
    run = run_module("url_download", **{**plain, "sha256": "ab" * 32})
    assert file.sha256 in run.message
    nothing(tmp_path)
    hubs.requests.clear()
    run = run_module("url_download", **plain)
    whole(run, file, tmp_path)
    assert hubs.bytes_sent() == 1


def test_lying_length(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    hubs.faults.content_length_delta = 1000
    run = run_module("url_download", **plain)
    assert run.result.get("changed") or run.result["failed"]
    assert len(hubs.requests) < 100
    hubs.faults.clear()
    if not run.result.get("changed"):
        run = run_module("url_download", **plain)
    whole(run, file, tmp_path)


def test_no_length(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    hubs.faults.no_content_length = True
    hubs.faults.ignore_range = True
    whole(run_module("url_download", **plain), file, tmp_path)


def test_overloaded(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    """Retry-After is obeyed; a server that allows few connections gets few."""
    hubs.fail("storage", 503, times=1, headers={"Retry-After": "2"})
    started = time.monotonic()
    whole(run_module("url_download", **plain), file, tmp_path)
    assert time.monotonic() - started > 2


def test_asks_to_wait_for_too_long(hubs: Hubs, run_module: Modules, plain: Options, tmp_path: Path) -> None:
    hubs.fail("storage", 429, times=ALWAYS, headers={"Retry-After": "86400"})
    started = time.monotonic()
    run = run_module("url_download", **plain)
    assert "status 429" in run.message
    assert time.monotonic() - started < 60
    assert len(hubs.requests) == 1
    nothing(tmp_path)


def test_rate_limit(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    started = time.monotonic()
    run = run_module("url_download", **plain, rate_limit="16M")
    elapsed = time.monotonic() - started
    whole(run, file, tmp_path)
    assert 2.5 < run.result["seconds"] <= elapsed
    assert elapsed < 30


def test_redirects(hubs: Hubs, run_module: Modules, plain: Options, file: StoredFile, tmp_path: Path) -> None:
    """To a place that nobody has allowed, in a circle, and to what is no web address."""
    inward = hubs.huggingface.url + "/secret"
    run = run_module("url_download", **{**plain, "url": hubs.storage.redirect_to(inward)})
    assert "not encrypted" in run.message
    assert not hubs.asked("huggingface")
    for target, text in (
        ("https://127.0.0.1:1/x", "private address"),
        ("https://[::1]/x", "private address"),
        ("https://169.254.169.254/latest", "private address"),
        ("file:///etc/passwd", "no http or https address"),
    ):
        run = run_module("url_download", **{**plain, "url": hubs.storage.redirect_to(target)})
        assert text in run.message, run.output
    circle = hubs.storage.url + "/redirect/302/x"
    hubs.fail("storage", 302, times=ALWAYS, headers={"Location": circle}, path="/redirect/")
    run = run_module("url_download", **{**plain, "url": circle})
    assert "redirects in a row" in run.message
    nothing(tmp_path)
