# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role model_fetch runs on a host, as the processes that they are there: the record, Git LFS, the watch."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from webui import WebUi, serve

FILES = Path(__file__).resolve().parents[3] / "roles/model_fetch/files"
STORE = "/srv/sd/models"


# The record


class Manifest:
    """The record of one host."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state/model_fetch.json"

    def __call__(self, step: str, **asked: Any) -> dict[str, Any]:
        asked = {"step": step, "manifest": str(self.path), "store": STORE, **asked}
        program = f"{(FILES / 'manifest.py').read_text()}\n\nmain({json.dumps(json.dumps(asked))})"
        done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def add(self, *paths: Path, request: str = "a", ours: bool = True, **more: Any) -> None:
        files = [{"path": str(path), "request": request, "ours": ours, "sha256": "0" * 64, **more} for path in paths]
        self("record", files=files, taken_over={})

    def present(self, *keys: str) -> dict[str, list[str]]:
        nobody = {"owner": "root", "group": "root", "mode": "0664", "packages": [], "scanner": "", "watch": {}}
        found: dict[str, list[str]] = self("look", keys=list(keys), folders=[], share={}, **nobody)["present"]
        return found

    def prunable(self, *keys: str, keep: tuple[str, ...] = (), engine: str = "") -> dict[str, Any]:
        return self("prunable", keys=list(keys), keep=list(keep), engine=engine)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def test_a_file_is_present_until_it_changes(manifest: Manifest, model: Path) -> None:
    assert manifest.present("a") == {}
    manifest.add(model)
    assert manifest.present("a", "b") == {"a": [str(model)]}
    model.write_bytes(b"others!")
    assert manifest.present("a") == {}


def test_a_request_is_present_only_with_all_of_its_files(manifest: Manifest, model: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.safetensors"
    second.write_bytes(b"more")
    manifest.add(model, second)
    second.unlink()
    assert manifest.present("a") == {}


def test_what_lies_beside_a_model_may_be_edited(manifest: Manifest, model: Path, tmp_path: Path) -> None:
    info = tmp_path / "model.civitai.info"
    info.write_text("{}")
    manifest.add(model)
    manifest.add(info, beside=True)
    info.write_text('{"my": "notes"}')
    assert sorted(manifest.present("a")["a"]) == [str(info), str(model)]
    # And goes with it all the same.
    assert manifest.prunable()["remove"] == [str(info), str(model)]


def test_what_was_found_there_is_never_pruned(manifest: Manifest, model: Path) -> None:
    manifest.add(model, ours=False)
    assert manifest.prunable() == {"remove": [], "gone": [], "kept": []}
    # What was fetched stays the role's own when a later run finds it there.
    manifest.add(model)
    manifest.add(model, ours=False)
    assert manifest.prunable()["remove"] == [str(model)]
    assert manifest.prunable("a")["remove"] == []
    assert manifest.prunable(keep=(str(model),))["remove"] == []


def test_a_changed_file_and_the_checkpoint_that_is_served_stay(manifest: Manifest, model: Path, tmp_path: Path) -> None:
    manifest.add(model)
    engine = tmp_path / "engine.json"
    engine.write_text(json.dumps({"checkpoint": str(model)}))
    kept = manifest.prunable(engine=str(engine))
    assert kept["remove"] == [] and kept["kept"] == [f"{model} is the checkpoint that the web UI serves"]
    model.write_bytes(b"changed")
    assert manifest.prunable()["kept"] == [f"{model} was changed by somebody since it was fetched"]


def test_what_is_gone_is_forgotten(manifest: Manifest, model: Path) -> None:
    manifest.add(model)
    model.unlink()
    old = manifest.prunable()
    assert old["remove"] == [] and old["gone"] == [str(model)]
    assert manifest("prune", paths=old["gone"]) == {"removed": []}
    assert json.loads(manifest.path.read_text())["stores"] == {}


def test_only_what_is_still_as_it_was_is_removed(manifest: Manifest, model: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.safetensors"
    found.write_bytes(b"somebody's")
    manifest.add(model)
    manifest.add(found, ours=False)
    assert manifest.prunable()["remove"] == [str(model)]
    # Somebody writes to it before it is removed; and nobody has ever recorded the third.
    model.write_bytes(b"changed")
    asked = [str(model), str(found), str(manifest.path)]
    assert manifest("prune", paths=asked) == {"removed": []}
    manifest.add(model)
    assert manifest("prune", paths=asked) == {"removed": [str(model)]}
    assert found.exists() and manifest.path.exists() and not model.exists()


def test_an_owner_that_is_another_one_by_now_is_seen(manifest: Manifest, model: Path) -> None:
    model.chmod(0o640)
    manifest.add(model)
    nothing: dict[str, Any] = {"folders": [], "packages": [], "scanner": "", "watch": {}, "share": {}}
    asked = {"keys": ["a"], "owner": "root", "group": "root", **nothing}
    status = model.stat()
    at_home = (status.st_uid, status.st_gid) == (0, 0)
    assert manifest("look", mode="0640", **asked)["drifted"] == ([] if at_home else ["a"])
    assert manifest("look", mode="0664", **asked)["drifted"] == ["a"]


def test_twenty_runs_at_once_lose_nothing(manifest: Manifest, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(20)]
    for path in paths:
        path.write_bytes(b"weights")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(manifest.add, paths))
    assert len(json.loads(manifest.path.read_text())["stores"][STORE]) == 20
    assert [path.name for path in manifest.path.parent.iterdir() if path.name.startswith("tmp")] == []


def test_a_damaged_record_is_an_empty_one(manifest: Manifest, model: Path) -> None:
    manifest.add(model)
    manifest.path.write_text("{")
    assert manifest.prunable() == {"remove": [], "gone": [], "kept": []}
    assert manifest("came") == {"packages": []}


# Git LFS


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With two small models, the one in a folder."""
    folder = tmp_path / "repository"
    (folder / "models").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "models/a.safetensors").write_bytes(b"a")
    (folder / "b.safetensors").write_bytes(b"b")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=Models")
    return folder


def bring(folder: Path, **asked: Any) -> subprocess.CompletedProcess[str]:
    asked = {"folder": str(folder / "clone"), **asked}
    program = f"{(FILES / 'git_lfs.py').read_text()}\n\nmain({json.dumps(json.dumps(asked))})"
    return subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=False)


def test_brings_the_files_of_a_commit_that_is_not_the_newest(repository: Path, tmp_path: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "rm", "--quiet", "b.safetensors")
    git(repository, "commit", "--quiet", "--message=Gone")
    # A host that gives no single commits is asked for all.
    done = bring(tmp_path, repository=f"file://{repository}", commit=commit, include=["*.safetensors"])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {file["path"]: Path(file["object"]).read_bytes() for file in found} == {
        "models/a.safetensors": b"a",
        "b.safetensors": b"b",
    }
    assert found[0]["sha256"] == hashlib.sha256(Path(found[0]["object"]).read_bytes()).hexdigest()


def test_hooks_of_nobody_are_run(repository: Path, tmp_path: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    template = tmp_path / "templates/hooks"
    template.mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (template / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/was-here\n")
        (template / name).chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(f"[init]\n\ttemplateDir = {template.parent}\n")
    os.environ["GIT_CONFIG_SYSTEM"] = str(settings)
    try:
        done = bring(tmp_path, repository=f"file://{repository}", commit=commit, include=["b.safetensors"])
    finally:
        del os.environ["GIT_CONFIG_SYSTEM"]
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clone/hooks/post-checkout").exists() and not (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"include": ["*.gguf"]}, "has no file *.gguf"),
        ({"commit": "0" * 40}, ""),
        ({"repository": "file:///nonexistent"}, "does not appear to be a git repository"),
    ],
)
def test_says_why_there_is_nothing(repository: Path, tmp_path: Path, asked: dict[str, Any], sentence: str) -> None:
    usual = {"repository": f"file://{repository}", "commit": git(repository, "rev-parse", "HEAD"), "include": ["*"]}
    done = bring(tmp_path, **{**usual, **asked})
    assert done.returncode == 1 and done.stdout == ""
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


# The watch


def safetensors(size: int = 100) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


class Watch:
    """The script, on a made-up host with a running web UI."""

    def __init__(self, root: Path, webui: WebUi) -> None:
        self.root = root
        self.webui = webui
        self.models = root / "models"
        for kind in ("checkpoint", "lora", "upscaler"):
            (self.models / kind).mkdir(parents=True)
        (root / "etc/sd-webui").mkdir(parents=True)
        self.engine: dict[str, Any] = {
            "unit": "no-such-unit.service",
            "address": "127.0.0.1",
            "port": int(webui.url.rpartition(":")[2]),
            "progress_path": "/sdapi/v1/progress?skip_current_image=true",
            "models_dir": str(self.models),
            "auth_file": None,
            "refresh_requests": [
                {"method": "POST", "path": "/sdapi/v1/refresh-checkpoints", "types": ["checkpoint"]},
                {"method": "POST", "path": "/sdapi/v1/refresh-loras", "types": ["lora"]},
                {"method": "POST", "path": "/sdapi/v1/refresh-nothing"},
            ],
        }
        # systemd says so of a unit that it does not know; a test has none that runs.
        (root / "bin").mkdir()
        (root / "bin/systemctl").write_text("#!/bin/sh\ncase $* in *ActiveState*) echo active ;; *) echo 0 ;; esac\n")
        (root / "bin/systemctl").chmod(0o755)

    def run(self, *arguments: str) -> str:
        (self.root / "etc/sd-webui/engine.json").write_text(json.dumps(self.engine))
        environment = {**os.environ, "MODEL_WATCH_ROOT": str(self.root)}
        environment["PATH"] = f"{self.root / 'bin'}:{environment['PATH']}"
        done = subprocess.run(
            [sys.executable, FILES / "model_watch.py", "--quiet", "0.2", *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.stderr == ""
        return done.stdout

    def told(self) -> list[str]:
        found = [str(request["path"]) for request in self.webui.requests if request["method"] == "POST"]
        self.webui.requests.clear()
        return [path.rpartition("/")[2] for path in found]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    with serve(kind="automatic1111") as webui:
        yield Watch(tmp_path, webui)


def test_tells_what_came_what_changed_and_what_went(watch: Watch) -> None:
    (watch.models / "lora/deep").mkdir()
    path = watch.models / "lora/deep/a.safetensors"
    path.write_bytes(safetensors())
    assert watch.run() == "told the web UI (new: lora/deep/a.safetensors).\n"
    # A request that names no types is for all of them, and a route that is not there is no failure.
    assert watch.told() == ["refresh-loras", "refresh-nothing"]
    assert watch.run() == "" and watch.told() == []
    path.write_bytes(safetensors(200))
    assert watch.run() == "told the web UI (new: lora/deep/a.safetensors).\n"
    path.unlink()
    assert watch.run() == "told the web UI (gone: lora/deep/a.safetensors).\n"
    assert watch.told() == ["refresh-loras", "refresh-nothing"] * 2


@pytest.mark.parametrize(
    "content",
    [safetensors()[:-1], safetensors()[:20], b"", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]"],
)
def test_half_a_model_is_none(watch: Watch, content: bytes) -> None:
    (watch.models / "lora/half.safetensors").write_bytes(content)
    (watch.models / "lora/whole.safetensors").write_bytes(safetensors())
    assert watch.run() == "told the web UI (new: lora/whole.safetensors).\n"


def test_a_busy_web_ui_is_told_later(watch: Watch) -> None:
    (watch.models / "lora/a.safetensors").write_bytes(safetensors())
    watch.webui.busy = True
    assert watch.run("--patience", "0") == "the web UI makes a picture; it will be told about its models later.\n"
    assert watch.told() == []
    watch.webui.busy = False
    assert "new: lora/a.safetensors" in watch.run("--patience", "0")


def test_one_that_does_not_answer_is_told_later(watch: Watch) -> None:
    (watch.models / "lora/a.safetensors").write_bytes(safetensors())
    port, watch.engine["port"] = watch.engine["port"], 1
    assert "lora/a.safetensors: the web UI does not answer; it will be told later" in watch.run()
    watch.engine["port"] = port
    assert "new: lora/a.safetensors" in watch.run()


def test_says_when_the_web_ui_has_to_look_by_itself(watch: Watch) -> None:
    watch.engine["refresh_requests"] = watch.engine["refresh_requests"][:2]
    (watch.models / "upscaler/x4.pth").write_bytes(b"weights")
    assert watch.run() == "the web UI finds them by itself or after a restart (new: upscaler/x4.pth).\n"
    assert watch.told() == []


def test_without_a_web_ui_there_is_nobody_to_tell(watch: Watch) -> None:
    (watch.models / "lora/a.safetensors").write_bytes(safetensors())
    watch.run()
    watch.webui.requests.clear()
    environment = {**os.environ, "MODEL_WATCH_ROOT": str(watch.root / "elsewhere")}
    done = subprocess.run(
        [sys.executable, FILES / "model_watch.py"], check=True, capture_output=True, text=True, env=environment
    )
    assert (done.stdout, done.stderr) == ("", "") and watch.told() == []


def test_the_login_goes_to_the_service_alone(watch: Watch) -> None:
    """The unit does not run, so whoever listens there is somebody else."""
    login = watch.root / "login"
    login.write_text("sd:sesame\n")
    watch.engine["auth_file"] = str(login)
    (watch.models / "lora/a.safetensors").write_bytes(safetensors())
    watch.run()
    assert [request.get("login") for request in watch.webui.requests if request["method"] == "GET"] == [None]


def test_links_that_lead_in_a_circle_end(watch: Watch) -> None:
    (watch.models / "lora/up").symlink_to(watch.models)
    (watch.models / "lora/a.safetensors").write_bytes(safetensors())
    started = time.monotonic()
    assert "lora/a.safetensors" in watch.run()
    assert time.monotonic() - started < 30
