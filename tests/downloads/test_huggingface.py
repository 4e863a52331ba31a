"""huggingface_download, the real module in a process of its own, against Hugging Face's stand-in."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hubs import Hubs
from module_runs import Modules, Run

MODULE = "huggingface_download"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ask(run_module: Modules, hubs: Hubs, name: str, dest: Path | str, check: bool = False, **options: Any) -> Run:
    options = {"endpoint": hubs.huggingface.url, "allowed_hosts": [hubs.storage.url], "retries": 1, **options}
    return run_module(MODULE, check=check, repository=name, dest=str(dest), **options)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# One file


def test_a_large_file_of_a_branch(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    # Three pieces for three connections, and still one question for the address.
    model = hubs.storage.add("hf_large.safetensors", size=20 << 20, seed=11)
    commit = hubs.huggingface.add_repo("sd/large", {"vae/model.safetensors": model, "README.md": b"# large\n"})
    dest = tmp_path / "models"
    first = ask(run_module, hubs, "sd/large", f"{dest}/", file="vae/model.safetensors", mode="0640")
    assert first.returncode == 0, first.output
    place = dest / "model.safetensors"
    assert sha256(place) == model.sha256
    assert place.stat().st_mode & 0o777 == 0o640
    assert names(dest) == ["model.safetensors"]
    assert {key: first.result[key] for key in ("path", "sha256", "size", "changed", "commit", "revision")} == {
        "path": str(place),
        "sha256": model.sha256,
        "size": model.size,
        "changed": True,
        "commit": commit,
        "revision": "main",
    }
    assert first.result["downloaded_bytes"] == model.size
    assert first.result["base_model"] == "SD 1.5"
    assert first.result["trained_words"] == []
    assert first.result["source"] == f"{hubs.huggingface.url}/sd/large/resolve/{commit}/vae/model.safetensors"
    assert len(hubs.asked("huggingface", "/resolve/")) == 1
    ranges = [request.range for request in hubs.asked("storage")]
    assert len(set(ranges)) == 4
    assert None not in ranges

    hubs.requests.clear()
    second = ask(run_module, hubs, "sd/large", f"{dest}/", file="vae/model.safetensors", mode="0640")
    assert second.result["changed"] is False
    assert second.result["commit"] == commit
    # The branch is asked, the files are not.
    assert [request.path.split("?")[0] for request in hubs.requests] == [
        "/api/models/sd/large/revision/main",
        f"/api/models/sd/large/tree/{commit}/vae",
    ]


def test_a_commit_is_asked_for_once(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    model = hubs.storage.add("hf_pinned.safetensors", size=1 << 20, seed=12)
    commit = hubs.huggingface.add_repo("sd/pinned", {"m.safetensors": model})
    hubs.huggingface.add_repo("sd/pinned", {"m.safetensors": b"a later one"})
    place = tmp_path / "m.safetensors"
    first = ask(run_module, hubs, "sd/pinned", place, file="m.safetensors", revision=commit)
    assert first.result["changed"] is True
    hubs.requests.clear()
    second = ask(run_module, hubs, "sd/pinned", place, file="m.safetensors", revision=commit)
    assert second.result["changed"] is False
    assert (second.result["commit"], second.result["sha256"]) == (commit, model.sha256)
    assert hubs.requests == []

    # A change of one byte, of the same size.
    content = bytearray(place.read_bytes())
    content[700_000] ^= 1
    place.write_bytes(content)
    healed = ask(run_module, hubs, "sd/pinned", place, file="m.safetensors", revision=commit)
    assert healed.result["changed"] is True
    assert sha256(place) == model.sha256


def test_a_sha256_is_asked_for_once(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    model = hubs.storage.add("hf_digest.safetensors", size=1 << 20, seed=16)
    hubs.huggingface.add_repo("sd/digest", {"m.safetensors": model})
    options: dict[str, Any] = {"file": "m.safetensors", "sha256": model.sha256.upper()}
    assert ask(run_module, hubs, "sd/digest", tmp_path / "m", **options).result["changed"] is True
    hubs.requests.clear()
    assert ask(run_module, hubs, "sd/digest", tmp_path / "m", **options).result["changed"] is False
    assert hubs.requests == []


def test_small_files_are_checked_by_gits_hash(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    # Git has files of up to 10 MiB; the small one comes by a relative redirect.
    files = {"config.json": b'{"a": 1}\n', "data/tokenizer.json": b"{" + b" " * (9 << 20) + b"}"}
    hubs.huggingface.add_repo("sd/small", files)
    small, large = tmp_path / "config.json", tmp_path / "tokenizer.json"
    for place, path in ((small, "config.json"), (large, "data/tokenizer.json")):
        assert ask(run_module, hubs, "sd/small", place, file=path).result["changed"] is True
        assert place.read_bytes() == files[path]
    small.write_bytes(b'{"a": 3}\n')
    assert ask(run_module, hubs, "sd/small", small, file="config.json").result["changed"] is True
    assert small.read_bytes() == files["config.json"]
    unchanged = ask(run_module, hubs, "sd/small", large, file="data/tokenizer.json", verify="always")
    assert unchanged.result["changed"] is False

    # Another content of the same size, from a hub that lies.
    hubs.fail("huggingface", 200, times=9, body=b'{"a": 2}\n', path="resolve")
    wrong = ask(run_module, hubs, "sd/small", tmp_path / "lie.json", file="config.json")
    assert wrong.result["failed"] is True
    assert re.search("instead of Git SHA-1 [0-9a-f]{40}: ", wrong.message)
    assert not (tmp_path / "lie.json").exists()


def test_another_sha256_than_the_hubs_is_refused_before_the_download(
    hubs: Hubs, run_module: Modules, tmp_path: Path
) -> None:
    model = hubs.storage.add("hf_other.safetensors", size=1 << 20, seed=13)
    hubs.huggingface.add_repo("sd/other", {"m.safetensors": model})
    run = ask(run_module, hubs, "sd/other", tmp_path / "m", file="m.safetensors", sha256="0" * 64)
    assert run.message.startswith(
        f'"m.safetensors" of model sd/other on {hubs.huggingface.url} has the SHA-256 {model.sha256} at revision main'
    )
    assert hubs.asked("storage") == []
    assert not (tmp_path / "m").exists()


def test_a_repository_that_was_renamed(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    model = hubs.storage.add("hf_renamed.safetensors", size=1 << 20, seed=14)
    commit = hubs.huggingface.add_repo("sd/old", {"m.safetensors": model})
    hubs.huggingface.rename("sd/old", "sd/new")
    run = ask(run_module, hubs, "sd/old", tmp_path / "m", file="m.safetensors")
    assert (run.result["changed"], run.result["commit"]) == (True, commit)
    assert sha256(tmp_path / "m") == model.sha256


def test_the_endpoint_comes_from_the_hosts_environment(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    hubs.huggingface.add_repo("sd/environment", {"refs.txt": b"hello\n"}, type="dataset", branch="refs/pr/1")
    run = run_module(
        MODULE,
        environment={"HF_ENDPOINT": f"{hubs.huggingface.url}/"},
        repository="sd/environment",
        repository_type="dataset",
        revision="refs/pr/1",
        file="refs.txt",
        dest=str(tmp_path / "refs.txt"),
    )
    assert run.result["changed"] is True, run.output
    assert (tmp_path / "refs.txt").read_bytes() == b"hello\n"
    assert hubs.requests[0].path == "/api/datasets/sd/environment/revision/refs%2Fpr%2F1"


@pytest.mark.parametrize("there", [False, True])
def test_without_the_hub_the_sha256_is_enough(hubs: Hubs, run_module: Modules, tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    model = hubs.storage.add("hf_offline.safetensors", size=1 << 20, seed=15)
    place = tmp_path / "m.safetensors"
    (place if there else folder / model.sha256).write_bytes(model.path.read_bytes())
    options: dict[str, Any] = {"endpoint": "http://127.0.0.2:9", "retries": 0, "file": "m.safetensors"}
    options.update(sha256=model.sha256, mirrors=[] if there else [str(folder)])
    run = ask(run_module, hubs, "sd/offline", place, **options)
    assert run.result["changed"] is not there, run.output
    assert run.result["commit"] is None
    assert "cannot be reached" in str(run.result["warnings"])
    assert sha256(place) == model.sha256


def test_without_the_hub_and_all_others(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    options: dict[str, Any] = {"endpoint": "http://127.0.0.2:9", "retries": 0, "file": "m", "sha256": "0" * 64}
    run = ask(run_module, hubs, "sd/offline", tmp_path / "m", **options)
    assert run.message.startswith("http://127.0.0.2:9/api/models/sd/offline/revision/main cannot be reached")


# Snapshots


def adapters(hubs: Hubs, name: str) -> tuple[str, dict[str, str]]:
    """A repository as the one of the T2I-Adapters is, and the SHA-256 of what shall come of it."""
    stored = {
        path: hubs.storage.add(f"{name}_{seed}.safetensors", size=1 << 20, seed=seed)
        for seed, path in enumerate(("models/t2iadapter_canny.safetensors", "models/t2iadapter_depth.safetensors"), 20)
    }
    pickles = hubs.storage.add_bytes(f"{name}_pickle", pickle.dumps({"weights": [1.0]}))
    small = {".gitattributes": b"*.pth filter=lfs\n", "README.md": b"# T2I-Adapter\n"}
    commit = hubs.huggingface.add_repo(name, {**small, **stored, "models/t2iadapter.pth": pickles})
    return commit, {path: each.sha256 for path, each in stored.items()}


def test_a_flat_snapshot(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    commit, wanted = adapters(hubs, "sd/adapters")
    # So that the list of files has several pages.
    hubs.faults.hub_page_size = 2
    options: dict[str, Any] = {"allow_patterns": ["models/*.safetensors"], "flatten": True}
    first = ask(run_module, hubs, "sd/adapters", tmp_path / "store", **options)
    assert first.returncode == 0, first.output
    flat = {path.rpartition("/")[2]: digest for path, digest in wanted.items()}
    assert {name: sha256(tmp_path / "store" / name) for name in names(tmp_path / "store")} == flat
    assert first.result["commit"] == commit
    assert first.result["path"] == str(tmp_path / "store")
    assert first.result["sha256"] is None
    assert first.result["size"] == first.result["downloaded_bytes"] == 2 << 20
    assert first.result["source"] == f"{hubs.huggingface.url}/sd/adapters"
    assert {Path(file["path"]).name: file["sha256"] for file in first.result["files"]} == flat
    assert len(hubs.asked("huggingface", "/tree/")) == 3
    assert len(hubs.asked("huggingface", "/resolve/")) == 2

    hubs.requests.clear()
    (tmp_path / "store/t2iadapter_depth.safetensors").unlink()
    second = ask(run_module, hubs, "sd/adapters", tmp_path / "store", revision=commit, **options)
    assert [file["changed"] for file in second.result["files"]] == [False, True]
    assert hubs.asked("storage", "canny") == []

    hubs.requests.clear()
    third = ask(run_module, hubs, "sd/adapters", tmp_path / "store", revision=commit, **options)
    assert third.result["changed"] is False
    assert {Path(file["path"]).name: file["sha256"] for file in third.result["files"]} == flat
    assert hubs.requests == []


def test_a_snapshot_keeps_the_folders_and_stops_at_a_pickle(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    _commit, wanted = adapters(hubs, "sd/whole")
    run = ask(run_module, hubs, "sd/whole", tmp_path / "whole")
    assert run.result["failed"] is True
    assert run.message.startswith('File 2 of 4, "models/t2iadapter.pth": ')
    assert "pickle" in run.message
    # What came before stays; nothing else does.
    assert names(tmp_path / "whole") == ["README.md"]

    safe = ask(run_module, hubs, "sd/whole", tmp_path / "whole", ignore_patterns=["*.pth"])
    assert [file["changed"] for file in safe.result["files"]] == [False, True, True]
    assert names(tmp_path / "whole") == ["README.md", *wanted]


def test_a_snapshot_that_does_not_fit_is_refused_before_its_first_byte(
    hubs: Hubs, run_module: Modules, tmp_path: Path
) -> None:
    adapters(hubs, "sd/space")
    run = ask(run_module, hubs, "sd/space", tmp_path / "a/b", allow_patterns=["*.safetensors"], space_reserve="9000T")
    expected = rf"{tmp_path} has \d+ MiB free, the snapshot needs 2 MiB more and {9000 << 20} MiB shall stay free: "
    assert re.match(expected, run.message)
    assert hubs.asked("storage") == []
    assert not (tmp_path / "a").exists()


def test_names_that_could_leave_dest(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    hubs.huggingface.add_repo("sd/escape", {"../../escaped.txt": b"!", "good.txt": b"good"})
    run = ask(run_module, hubs, "sd/escape", tmp_path / "a/b")
    assert run.message.startswith("The hub names a file '../../escaped.txt', which could land outside dest: ")
    assert names(tmp_path) == []


def test_patterns_that_leave_nothing(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    hubs.huggingface.add_repo("sd/nothing", {"a.txt": b"a"})
    run = ask(run_module, hubs, "sd/nothing", tmp_path / "a", allow_patterns=["*.safetensors"])
    assert re.match(r"The patterns leave no file of model sd/nothing on \S+, which has a\.txt: correct", run.message)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (
            "storage",
            "continues its list of files at ADDRESS/api/models/sd/foreign, which is another host: set endpoint",
        ),
        ("huggingface", "The list of files of model sd/foreign on ADDRESS does not end: check endpoint."),
    ],
)
def test_a_list_of_files_that_goes_astray(
    hubs: Hubs, run_module: Modules, tmp_path: Path, server: str, expected: str
) -> None:
    commit = hubs.huggingface.add_repo("sd/foreign", {"a.txt": b"a"})
    address = getattr(hubs, server).url
    place = f"/api/models/sd/foreign/tree/{commit}" if server == "huggingface" else "/api/models/sd/foreign"
    link = {"Link": f'<{address}{place}>; rel="next"', "Content-Type": "application/json"}
    hubs.fail("huggingface", 200, times=9, headers=link, body="[]", path=f"/tree/{commit}")
    run = ask(run_module, hubs, "sd/foreign", tmp_path / "a", token=hubs.huggingface.token)
    assert expected.replace("ADDRESS", address) in run.message
    assert hubs.asked("storage") == []


# Check mode


@pytest.mark.parametrize("snapshot", [False, True])
def test_check_mode_asks_the_api_alone(hubs: Hubs, run_module: Modules, tmp_path: Path, snapshot: bool) -> None:
    commit, wanted = adapters(hubs, "sd/check")
    path, digest = next(iter(wanted.items()))
    options: dict[str, Any] = {"allow_patterns": [path]} if snapshot else {"file": path}
    place = tmp_path / "store" / (path if snapshot else Path(path).name)
    run = ask(run_module, hubs, "sd/check", f"{tmp_path / 'store'}/", check=True, **options)
    assert run.result["changed"] is True
    assert run.result["commit"] == commit
    assert run.result["files"][0]["path"] == str(place)
    assert run.result["files"][0]["sha256"] == digest
    (change,) = run.result["diff"]
    assert change["before"] == f"path: {place}\nstate: absent\n"
    assert change["after"] == f"path: {place}\nstate: file\nsha256: {digest}\nsize: {1 << 20}\n"
    assert hubs.asked(path="resolve") == hubs.asked("storage") == []
    assert names(tmp_path) == []


# Who may have it, and what is said otherwise


def test_the_token_goes_to_the_endpoint_alone(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    model = hubs.storage.add("hf_gated.safetensors", size=1 << 20, seed=30)
    hubs.huggingface.add_repo("sd/gated_ok", {"m.safetensors": model}, gated="manual")
    token = hubs.huggingface.token
    run = ask(run_module, hubs, "sd/gated_ok", tmp_path / "m", file="m.safetensors", token=token)
    assert run.result["changed"] is True, run.output
    assert sha256(tmp_path / "m") == model.sha256
    # The storage answers 400 to a request that has one.
    assert hubs.told(token) == ["huggingface"]
    assert {request.status for request in hubs.asked("storage")} == {206}
    assert token not in run.output
    assert all(token.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("name", "token", "options", "expected"),
    [
        ("gated", None, {}, "model sd/gated on ADDRESS is gated: accept its terms at ADDRESS/sd/gated, then set token"),
        ("gated", "other", {}, "model sd/gated on ADDRESS is gated and the token's account was not let in: "),
        ("private", None, {}, "The hub does not show model sd/private on ADDRESS (HTTP 401), so it is missing, "),
        ("private", "other", {}, "There is no model sd/private on ADDRESS, or the token may not see it: "),
        ("private", "wrong", {}, "The hub does not accept the token for model sd/private on ADDRESS: "),
        ("open", None, {"revision": "v9"}, 'model sd/open on ADDRESS has no revision "v9": correct revision, '),
        ("open", None, {"file": "x/m"}, "model sd/open on ADDRESS has no such folder at revision main: see "),
        ("open", None, {"file": "M.txt"}, 'model sd/open on ADDRESS has no file "M.txt" at revision main: did you '),
        ("open", None, {"repository_type": "space"}, "The hub does not show space sd/open on ADDRESS (HTTP 401), so"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(
    hubs: Hubs,
    run_module: Modules,
    tmp_path: Path,
    name: str,
    token: str | None,
    options: dict[str, str],
    expected: str,
) -> None:
    hubs.huggingface.add_repo("sd/gated", {"m.txt": b"m"}, gated=True)
    hubs.huggingface.add_repo("sd/private", {"m.txt": b"m"}, private=True)
    hubs.huggingface.add_repo("sd/open", {"m.txt": b"m"})
    secret = {None: None, "other": hubs.huggingface.other_token, "wrong": "hf_noSuchToken"}[token]
    asked: dict[str, Any] = {"file": "m.txt", "token": secret, **options}
    run = ask(run_module, hubs, f"sd/{name}", tmp_path / "m.txt", **asked)
    assert run.result["failed"] is True
    assert run.message.startswith(expected.replace("ADDRESS", hubs.huggingface.url))
    assert len(run.message.splitlines()) == 1
    assert not (tmp_path / "m.txt").exists()
    assert secret is None or secret not in run.output


def test_a_limit_is_waited_for_and_then_named(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    hubs.huggingface.add_repo("sd/limit", {"m.txt": b"m"})
    limit = {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hubs.fail("huggingface", 429, headers=limit)
    waited = ask(run_module, hubs, "sd/limit", tmp_path / "m.txt", file="m.txt")
    assert waited.result["changed"] is True
    assert [request.status for request in hubs.asked("huggingface", "/revision/")] == [429, 200]

    hubs.fail("huggingface", 429, headers={**limit, "RateLimit": '"api";r=0;t=240'})
    named = ask(run_module, hubs, "sd/limit", tmp_path / "n.txt", file="m.txt", max_wait=100)
    assert "(HTTP 429 for model sd/limit on " in named.message
    assert "run this again in 240 seconds, or set token" in named.message


def test_what_the_hubs_scanners_call_unsafe(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    files = {"bad.txt": b"bad", "caution.txt": b"a pickle is always one"}
    commit = hubs.huggingface.add_repo("sd/unsafe", files)
    found = [{"path": "bad.txt", "level": "unsafe"}, {"path": "caution.txt", "level": "caution"}]
    answer = {"sha": commit, "securityRepoStatus": {"scansDone": True, "filesWithIssues": found}}
    hubs.fail("huggingface", 200, times=9, body=json.loads(json.dumps(answer)), path="securityStatus=true")
    refused = ask(run_module, hubs, "sd/unsafe", tmp_path / "all")
    assert refused.message.startswith('The scanners of the hub call "bad.txt" of model sd/unsafe on ')
    assert hubs.asked("huggingface", "resolve") == []
    ignored = ask(run_module, hubs, "sd/unsafe", tmp_path / "all", ignore_patterns=["bad*"])
    assert [Path(file["path"]).name for file in ignored.result["files"]] == ["caution.txt"]
    allowed = ask(run_module, hubs, "sd/unsafe", tmp_path / "all", unsafe="allow")
    assert allowed.result["changed"] is True
    assert names(tmp_path / "all") == ["bad.txt", "caution.txt"]


def test_a_server_that_is_no_hub(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    hubs.fail("huggingface", 200, body='{"sha": "main"}', path="/revision/")
    run = ask(run_module, hubs, "sd/whatever", tmp_path / "m", file="m")
    assert run.message == (f"{hubs.huggingface.url} does not answer as Hugging Face's API does: correct endpoint.")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"repository": "../x"}, '"../x" is no repository of Hugging Face: '),
        ({"repository": "a/b", "sha256": "0" * 64}, "missing parameter(s) required by 'sha256': file"),
    ],
)
def test_options_that_cannot_be_used(
    run_module: Modules, tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    run = run_module(MODULE, dest=str(tmp_path / "x"), **options)
    assert run.result["failed"] is True
    assert run.message.startswith(expected)
