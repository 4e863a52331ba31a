"""Any link: what it is called, what a missing hash means, who sees the token, and what does not become a model."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hubs import Hubs, StoredFile
from module_runs import Modules, Run

MIB = 1024 * 1024
SIZE = 9 * MIB + 7
TOKEN = "a-token-of-the-tests-8f3a"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"


@pytest.fixture(scope="module")
def file(servers: Hubs) -> StoredFile:
    return servers.storage.add("linked.safetensors", SIZE, seed=11)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def named(file: StoredFile, disposition: str) -> str:
    """A link whose server says how the file is called."""
    return f"{file.url}?response-content-disposition={quote(disposition)}"


def failure(run: Run) -> str:
    assert run.result.get("failed"), run.output
    assert run.returncode == 1
    assert "Traceback" not in run.output
    return run.message


def payload(hubs: Hubs) -> int:
    """Bytes of files that went out, without the single ones that only ask for size and name."""
    return sum(request.bytes_sent for request in hubs.requests if request.bytes_sent > 1)


def test_into_a_folder_and_again(hubs: Hubs, run_module: Modules, file: StoredFile, folder: Path) -> None:
    options: dict[str, Any] = {"url": file.url, "dest": f"{folder}/", "sha256": file.sha256.upper(), "mode": "0640"}
    path = folder / "linked.safetensors"
    predicted = run_module("url_download", check=True, **options)
    assert (predicted.result["changed"], predicted.result["path"]) == (True, str(path))
    (diff,) = predicted.result["diff"]
    assert "state: absent" in diff["before"]
    assert f"sha256: {file.sha256}" in diff["after"]
    assert f"size: {SIZE}" in diff["after"]
    assert payload(hubs) == 0
    assert {request.method for request in hubs.requests} == {"GET"}
    assert not folder.exists()
    run = run_module("url_download", **options)
    expected = {
        "changed": True,
        "path": str(path),
        "sha256": file.sha256,
        "size": SIZE,
        "downloaded_bytes": SIZE,
        "resumed_bytes": 0,
        "format": "safetensors",
        "trained_words": [],
        "source": file.url,
    }
    assert {name: run.result.get(name) for name in expected} == expected
    assert [entry["path"] for entry in run.result["files"]] == [str(path)]
    assert path.read_bytes() == file.path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(folder) == ["linked.safetensors"]
    # Whose content is pinned costs no request.
    hubs.requests.clear()
    again = run_module("url_download", check=True, **options)
    assert (again.result["changed"], again.result["path"], again.result["downloaded_bytes"]) == (False, str(path), 0)
    os.chmod(path, 0o600)
    assert run_module("url_download", **options).result["changed"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert hubs.requests == []


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("attachment; filename=\"x\"; filename*=UTF-8''n%C3%A4gel%2Fund%2Fholz.safetensors", "holz.safetensors"),
        ('attachment; filename="../../../etc/cron.d/evil"', "evil"),
        ("inline", "linked.safetensors"),
    ],
)
def test_the_server_names_the_file(
    disposition: str, name: str, hubs: Hubs, run_module: Modules, file: StoredFile, folder: Path
) -> None:
    folder.mkdir()
    run = run_module("url_download", url=named(file, disposition), dest=str(folder), sha256=file.sha256)
    assert run.result.get("path") == str(folder / name), run.output
    assert os.listdir(folder) == [name]
    assert hubs.requests


def test_the_end_of_a_redirect_names_the_file(hubs: Hubs, run_module: Modules, file: StoredFile, folder: Path) -> None:
    url = hubs.storage2.redirect_to(file.url)
    run = run_module("url_download", url=url, dest=f"{folder}/", sha256=file.sha256, allowed_hosts=[hubs.storage.url])
    assert run.result.get("path") == str(folder / "linked.safetensors"), run.output


def test_without_a_hash(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    stored = hubs.storage.add_bytes("changing.dat", b"first" * 1000)
    options: dict[str, Any] = {
        "url": f"{stored.url}?key={TOKEN}",
        "dest": str(tmp_path / "changing.dat"),
        "sha256": "none",
    }
    first = run_module("url_download", **options)
    assert (first.result["changed"], first.result["sha256"]) == (True, stored.sha256)
    # A secret in a link is in nothing but the repetition of the question.
    assert first.result["source"] == stored.url
    assert TOKEN not in str({**first.result, "invocation": None})
    with sqlite3.connect(run_module.index) as index:
        assert TOKEN not in "".join(index.iterdump())
    hubs.requests.clear()
    second = run_module("url_download", **options)
    assert (second.result["changed"], second.result["sha256"]) == (False, stored.sha256)
    assert [request.bytes_sent for request in hubs.requests] == [1]
    # As large as before.
    stored = hubs.storage.add_bytes("changing.dat", b"other" * 1000)
    predicted = run_module("url_download", check=True, **options)
    assert predicted.result["changed"]
    assert (tmp_path / "changing.dat").read_bytes() == b"first" * 1000
    third = run_module("url_download", **options)
    assert (third.result["changed"], third.result["sha256"]) == (True, stored.sha256)
    assert (tmp_path / "changing.dat").read_bytes() == b"other" * 1000
    # What somebody else has put there is not what this link holds, whatever its name is.
    (tmp_path / "changing.dat").write_bytes(b"mine!" * 1000)
    assert run_module("url_download", **options).result["changed"]
    assert (tmp_path / "changing.dat").read_bytes() == b"other" * 1000


def test_no_hash_must_be_said(hubs: Hubs, run_module: Modules, file: StoredFile, tmp_path: Path) -> None:
    run = run_module("url_download", url=file.url, dest=str(tmp_path / "a"))
    assert "missing required arguments: sha256" in failure(run)
    assert hubs.requests == []


def test_another_hash(hubs: Hubs, run_module: Modules, file: StoredFile, tmp_path: Path) -> None:
    run = run_module("url_download", url=file.url, dest=str(tmp_path / "a.safetensors"), sha256="0" * 64)
    assert f"served a file with SHA-256 {file.sha256} instead of SHA-256 {'0' * 64}" in failure(run)
    assert not (tmp_path / "a.safetensors").exists()
    # The wish was the mistake: nothing is fetched twice.
    hubs.requests.clear()
    run = run_module("url_download", url=file.url, dest=str(tmp_path / "a.safetensors"), sha256=file.sha256)
    assert run.result["changed"]
    assert payload(hubs) == 0


def test_a_token_stays_with_its_host(hubs: Hubs, run_module: Modules, file: StoredFile, folder: Path) -> None:
    hubs.storage.tokens = {TOKEN}
    options: dict[str, Any] = {"sha256": file.sha256, "dest": str(folder / "a.safetensors"), "token": TOKEN}
    private = file.url.replace("/plain/", "/private/")
    run = run_module("url_download", url=private, **options)
    assert run.result["changed"], run.output
    assert hubs.told(TOKEN) == ["storage"]
    (folder / "a.safetensors").unlink()
    hubs.requests.clear()
    elsewhere = hubs.storage.redirect_to(hubs.storage2.sign(file))
    run = run_module("url_download", url=elsewhere, **options, allowed_hosts=[hubs.storage2.url], verify="always")
    assert run.result["changed"], run.output
    assert hubs.bytes_sent("storage2") >= SIZE
    assert hubs.told(TOKEN) == ["storage"]
    assert TOKEN not in run.output.replace(f'"token": "{TOKEN}"', "")
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in run.output
    with sqlite3.connect(run_module.index) as index:
        assert TOKEN not in "".join(index.iterdump())


def test_statuses(hubs: Hubs, run_module: Modules, file: StoredFile, tmp_path: Path) -> None:
    hubs.storage.tokens = {TOKEN}
    options: dict[str, Any] = {"dest": str(tmp_path / "a.safetensors"), "sha256": file.sha256}
    private = file.url.replace("/plain/", "/private/")
    assert failure(run_module("url_download", url=private, **options)) == (
        f"{private} asks for a login (status 401): set token."
    )
    run = run_module("url_download", url=private, token="another", **options)
    assert "does not accept the token (status 401)" in failure(run)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            b"<!doctype html><title>Log in</title>",
            "a.safetensors",
            "The server sent a web page instead of a.safetensors",
        ),
        (b"<html>" + b" " * 20000, "a.ckpt", "The server sent a web page instead of a.ckpt"),
        (b'{"error": "No access"}', "a.gguf", "The server sent a JSON message instead of a.gguf ('No access')"),
        (b"<html>" + b" " * 20000, "download", "The server sent a web page instead of download"),
        (POINTER, "a.safetensors", "a.safetensors is a Git LFS pointer"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(5000), "a.pt", "a.pt is a 7z archive and not what its name promises"),
        (bytes(5000), "a.safetensors", "a.safetensors is not a whole safetensors file"),
    ],
)
def test_what_does_not_become_a_model(
    content: bytes, name: str, message: str, hubs: Hubs, run_module: Modules, tmp_path: Path
) -> None:
    """Even where the hash is right, because it was computed from the same page."""
    stored = hubs.storage.add_bytes(name, content)
    run = run_module("url_download", url=stored.url, dest=str(tmp_path / name), sha256=stored.sha256)
    assert failure(run).startswith(message)
    assert [entry for entry in os.listdir(tmp_path) if entry.startswith(name)] == []


def test_a_login_page_instead_of_a_large_file(
    hubs: Hubs, run_module: Modules, file: StoredFile, tmp_path: Path
) -> None:
    hubs.faults.html_error = True
    run = run_module("url_download", url=file.url, dest=str(tmp_path / "a.safetensors"), sha256=file.sha256)
    assert failure(run) == (
        "The server sent a web page instead of a.safetensors: "
        "check the address, and whether it asks for a login (token)."
    )


def test_a_broken_header_costs_one_piece_and_not_the_file(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    size = 96 * MIB
    stored = hubs.storage.add("broken.safetensors", size, head=(500).to_bytes(8, "little") + b"{" + b"x" * 600)
    hubs.faults.bytes_per_second = 64 * MIB
    run = run_module("url_download", url=stored.url, dest=str(tmp_path / stored.name), sha256=stored.sha256)
    assert "is not a whole safetensors file, because its header is not JSON" in failure(run)
    assert hubs.bytes_sent() < size / 2


def test_a_redirect_into_the_lan(hubs: Hubs, run_module: Modules, file: StoredFile, tmp_path: Path) -> None:
    url = hubs.storage2.redirect_to(file.url)
    run = run_module("url_download", url=url, dest=str(tmp_path / "a.safetensors"), sha256=file.sha256)
    assert failure(run).startswith(f"The download is sent on to {file.url}, which is not encrypted: if you trust that")
    assert hubs.asked("storage") == []


def test_the_page_of_a_file(run_module: Modules, tmp_path: Path) -> None:
    run = run_module("url_download", url="https://hf.co/o/n/blob/main/a.pt", dest=f"{tmp_path}/", sha256="none")
    assert "the file itself is at https://hf.co/o/n/resolve/main/a.pt." in failure(run)


def test_a_file_of_the_host(hubs: Hubs, run_module: Modules, file: StoredFile, tmp_path: Path, folder: Path) -> None:
    disk = tmp_path / "my disk"
    disk.mkdir()
    there = disk / "a#1.safetensors"
    there.write_bytes(file.path.read_bytes())
    options: dict[str, Any] = {"url": f"file://{quote(str(there))}", "dest": f"{folder}/", "sha256": "none"}
    assert run_module("url_download", check=True, **options).result["changed"]
    assert not folder.exists()
    run = run_module("url_download", **options)
    assert (run.result["changed"], run.result["sha256"]) == (True, file.sha256)
    copy = folder / "a#1.safetensors"
    assert copy.read_bytes() == there.read_bytes()
    assert copy.stat().st_ino != there.stat().st_ino
    assert not run_module("url_download", **options).result["changed"]
    other = hubs.storage.add("other.safetensors", SIZE, seed=12)
    there.write_bytes(other.path.read_bytes())
    assert run_module("url_download", **options).result["sha256"] == other.sha256
    assert copy.read_bytes() == other.path.read_bytes()
    wrong = run_module("url_download", **{**options, "sha256": file.sha256})
    assert f"served a file with SHA-256 {other.sha256} instead of SHA-256 {file.sha256}" in failure(wrong)
    assert hubs.requests == []


def test_without_requests(hubs: Hubs, run_module: Modules, file: StoredFile, tmp_path: Path) -> None:
    """A bare host, on which the library would come with a task before this one."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "requests.py").write_text("raise ImportError('no requests')\n", encoding="utf-8")
    collections = Path(__file__).resolve().parents[2] / "playbooks/collections"
    environment = {"PYTHONPATH": f"{tmp_path / 'hidden'}:{collections}"}
    options: dict[str, Any] = {"url": file.url, "dest": f"{tmp_path}/", "sha256": file.sha256}
    run = run_module("url_download", check=True, environment=environment, **options)
    assert run.result["changed"], run.output
    assert "Would download" in run.message
    assert hubs.requests == []
