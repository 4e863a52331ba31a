"""What is there already is not fetched, nor even read, again; what one place has, another one need not fetch."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from hubs import ALWAYS, Hubs, StoredFile
from module_runs import Modules

MIB = 1024 * 1024
SIZE = 20 * MIB + 5
Options = dict[str, Any]


@pytest.fixture(scope="module")
def file(servers: Hubs) -> StoredFile:
    return servers.storage.add("presence.dat", SIZE, seed=11)


@pytest.fixture
def options(file: StoredFile, tmp_path: Path) -> Options:
    return {"url": file.url, "dest": str(tmp_path / "store/model.dat"), "sha256": file.sha256}


def test_check_then_real_then_again(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    check = run_module("url_download", check=True, **options)
    assert check.result["changed"], check.output
    assert hubs.bytes_sent() <= 1
    assert check.result["diff"][0]["before"] == f"path: {options['dest']}\nstate: absent\n"
    assert f"sha256: {options['sha256']}" in check.result["diff"][0]["after"]
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "index.sqlite3").exists()

    run = run_module("url_download", mode="0640", **options)
    assert run.result["changed"], run.output
    assert run.result["size"] == SIZE
    assert run.result["downloaded_bytes"] == SIZE
    assert run.result["source"] == options["url"]
    assert (tmp_path / "store/model.dat").stat().st_mode & 0o777 == 0o640
    assert os.stat(tmp_path / "index.sqlite3").st_mode & 0o777 == 0o600

    hubs.requests.clear()
    for check_mode in (True, False):
        again = run_module("url_download", check=check_mode, mode="0640", **options)
        assert not again.result["changed"]
        assert "diff" not in again.result
    moded = run_module("url_download", mode="0600", **options)
    assert moded.result["changed"]
    assert not hubs.requests


def test_file_that_a_person_copied(hubs: Hubs, run_module: Modules, options: Options, file: StoredFile) -> None:
    """By scp, say: read once, then known."""
    path = Path(options["dest"])
    path.parent.mkdir()
    path.write_bytes(file.path.read_bytes())
    run = run_module("url_download", **options)
    assert not run.result["changed"], run.output
    assert run.result["sha256"] == file.sha256
    assert not hubs.requests


def test_touched_file_is_read_and_not_fetched(hubs: Hubs, run_module: Modules, options: Options) -> None:
    run_module("url_download", **options)
    os.utime(options["dest"])
    hubs.requests.clear()
    assert not run_module("url_download", **options).result["changed"]
    assert hubs.bytes_sent() == 0


def test_another_file_of_that_name(hubs: Hubs, run_module: Modules, options: Options, file: StoredFile) -> None:
    """It stays until the right one is complete, and its rights are kept."""
    path = Path(options["dest"])
    path.parent.mkdir()
    path.write_bytes(b"an older version")
    path.chmod(0o604)
    hubs.faults.wrong_byte = 5
    failed = run_module("url_download", **options)
    assert failed.result["failed"], failed.output
    assert path.read_bytes() == b"an older version"
    run = run_module("url_download", **options)
    assert run.result["changed"]
    assert "size: 16" in run.result["diff"][0]["before"]
    assert path.stat().st_size == SIZE
    assert path.stat().st_mode & 0o777 == 0o604


def test_same_file_at_two_paths(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    """One download, one copy on the disk; a copy of its own where the rights differ."""
    run_module("url_download", **options)
    hubs.requests.clear()
    second = {**options, "dest": str(tmp_path / "other engine/models/name.dat")}
    run = run_module("url_download", **second)
    assert run.result["changed"], run.output
    assert run.result["source"] == f"file://{options['dest']}"
    assert os.path.samefile(options["dest"], second["dest"])
    third = {**options, "dest": str(tmp_path / "third.dat"), "mode": "0600"}
    run = run_module("url_download", **third)
    assert run.result["changed"], run.output
    assert not os.path.samefile(options["dest"], third["dest"])
    assert os.stat(options["dest"]).st_mode & 0o777 == 0o644
    assert hubs.bytes_sent() == 0
    for each in (options, second, third):
        assert not run_module("url_download", **each).result["changed"]


def test_damaged_twin_is_not_copied(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    run_module("url_download", **options)
    before = os.stat(options["dest"])
    with open(options["dest"], "r+b") as stream:
        stream.write(b"damage")
    os.utime(options["dest"], ns=(before.st_atime_ns, before.st_mtime_ns))
    second = {**options, "dest": str(tmp_path / "second.dat"), "verify": "always"}
    run = run_module("url_download", **second)
    assert run.result["downloaded_bytes"] == SIZE, run.output
    assert run.result["sha256"] == options["sha256"]


def test_lan_mirror(hubs: Hubs, run_module: Modules, options: Options, file: StoredFile) -> None:
    """A peer that has the file serves all of it; the hub is not asked."""
    hubs.mirror.share(file)
    run = run_module("url_download", mirrors=[f"{hubs.mirror.url}/nothing/{{name}}", f"{hubs.mirror.url}/"], **options)
    assert run.result["changed"], run.output
    # That a peer does not have a file is nothing to talk about.
    assert "warnings" not in run.result
    assert hubs.bytes_sent("mirror") == SIZE + 1
    assert hubs.bytes_sent() <= 1


def test_mirror_that_lies_or_is_gone(hubs: Hubs, run_module: Modules, options: Options, file: StoredFile) -> None:
    """Wrong bytes of the right size are not believed; nobody at home is no failure."""
    hubs.mirror.share_wrong(file, b"x" * SIZE)
    mirrors = ["http://127.0.0.9:9/models", f"{hubs.mirror.url}/"]
    run = run_module("url_download", **{**options, "mirrors": mirrors})
    assert run.result["changed"], run.output
    assert run.result["sha256"] == file.sha256
    assert hubs.bytes_sent("mirror") >= SIZE
    assert hubs.bytes_sent() == SIZE + 1
    assert "another file" in str(run.result["warnings"])


def test_mirror_that_leaves_in_the_middle(hubs: Hubs, run_module: Modules, options: Options, file: StoredFile) -> None:
    """The hub sends the rest."""
    hubs.mirror.share(file)
    hubs.mirror.faults.bytes_per_second = 4 * MIB
    hubs.mirror.faults.cut_after, hubs.mirror.faults.cut_times = 5 * MIB, ALWAYS
    process = run_module.start("url_download", **{**options, "mirrors": [hubs.mirror.url]})
    while hubs.bytes_sent("mirror") < 4 * MIB:
        assert process.poll() is None
        time.sleep(0.01)
    hubs.fail("mirror", 404, times=ALWAYS)
    run = run_module.end(process)
    assert run.result["changed"], run.output
    assert run.result["sha256"] == file.sha256
    assert 0 < hubs.bytes_sent() < SIZE


def test_mirror_folder(hubs: Hubs, run_module: Modules, options: Options, file: StoredFile, tmp_path: Path) -> None:
    """A disk with models, under their own names or their hashes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "model.dat").write_bytes(b"\0" * SIZE)
    (disk / file.sha256).write_bytes(file.path.read_bytes())
    run = run_module("url_download", **{**options, "mirrors": [str(disk)]})
    assert run.result["changed"], run.output
    assert run.result["source"] == f"file://{disk}/{file.sha256}"
    assert hubs.bytes_sent() == 0


def test_a_hundred_models(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    """No network, no byte of a model, and far less time than a run for each."""
    requests: list[Options] = []
    for number in range(100):
        data = f"model {number}".encode() * 1000
        stored = hubs.storage.add_bytes(f"many/{number}.dat", data)
        digest = hashlib.sha256(data).hexdigest()
        requests.append({"source": "url", "url": stored.url, "sha256": digest, "dest": str(tmp_path / f"{number}.dat")})
    started = time.monotonic()
    for request in requests[:3]:
        run = run_module("url_download", **{name: value for name, value in request.items() if name != "source"})
        assert run.result["changed"], run.output
    alone = (time.monotonic() - started) / 3
    look = run_module("model_files_info", requests=requests)
    assert [entry["present"] for entry in look.result["files"]] == [True] * 3 + [False] * 97, look.output
    # The rest, as 97 more runs would leave it.
    for request in requests[3:]:
        request["dest"] = requests[0]["dest"]
        request["url"], request["sha256"] = requests[0]["url"], requests[0]["sha256"]
    hubs.requests.clear()
    os.chmod(requests[0]["dest"], 0)
    started = time.monotonic()
    look = run_module("model_files_info", requests=requests)
    seconds = time.monotonic() - started
    assert [entry["present"] for entry in look.result["files"]] == [True] * 100, look.output
    # What each of them needs alone, on this machine as busy as it is, is more by far.
    assert seconds < 25 * alone
    assert not hubs.requests
    Path(requests[0]["dest"]).unlink()
    look = run_module("model_files_info", requests=requests)
    assert [entry["present"] for entry in look.result["files"]] == [False] + [True] * 2 + [False] * 97


def test_attributes_count_as_missing(hubs: Hubs, run_module: Modules, options: Options) -> None:
    run_module("url_download", mode="0644", **options)
    request = {"source": "url", **options}
    assert run_module("model_files_info", requests=[request], mode="0644").result["files"][0]["present"]
    assert not run_module("model_files_info", requests=[request], mode="0600").result["files"][0]["present"]


def test_index_that_is_broken(hubs: Hubs, run_module: Modules, options: Options) -> None:
    """It is a cache: a warning, and files are read."""
    run_module("url_download", **options)
    run_module.index.write_bytes(b"no database" * 1000)
    hubs.requests.clear()
    run = run_module("url_download", **options)
    assert not run.result["changed"], run.output
    assert "cannot be used" in str(run.result["warnings"])
    assert hubs.bytes_sent() <= 1


def test_dest_is_a_symbolic_link(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    """The file it leads to is replaced, and the link stays."""
    (tmp_path / "disk").mkdir()
    Path(options["dest"]).parent.mkdir()
    os.symlink(tmp_path / "disk/real.dat", options["dest"])
    run = run_module("url_download", **options)
    assert run.result["changed"], run.output
    assert os.path.islink(options["dest"])
    assert (tmp_path / "disk/real.dat").stat().st_size == SIZE
    assert not run_module("url_download", **options).result["changed"]


def test_pickle_that_is_there(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    """Refused like one that comes, once it is not allowed any more; the file itself is left alone."""
    stored = hubs.storage.add_bytes("there.ckpt", pickle.dumps({"weights": [0.5] * 100}))
    options: Options = {"url": stored.url, "dest": str(tmp_path / "there.ckpt"), "sha256": stored.sha256}
    assert run_module("url_download", pickle="allow", **options).result["changed"]
    again = run_module("url_download", pickle="allow", **options)
    assert not again.result["changed"], again.output
    refused = run_module("url_download", **options)
    assert "take the safetensors version" in refused.message, refused.output
    assert (tmp_path / "there.ckpt").exists()


def test_token_with_the_end_of_a_line(hubs: Hubs, run_module: Modules, options: Options) -> None:
    """As vaults and files have it; it is not shown either way."""
    hubs.storage.tokens.add("SECRET-TOKEN")
    options["url"] = options["url"].replace("/plain/", "/private/")
    run = run_module("url_download", **options, token="SECRET-TOKEN\n")
    assert run.result["changed"], run.output
    assert hubs.told("Bearer SECRET-TOKEN") == ["storage"]
    assert "SECRET-TOKEN" not in run.output
    run = run_module("url_download", **{**options, "verify": "always"}, token="two words")
    assert run.message == "token has blanks or characters that no token has: copy it whole, and nothing else."
