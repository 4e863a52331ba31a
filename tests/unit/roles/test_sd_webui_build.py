# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts that build a release, against a Git host and package indexes: all of it, or one sentence why not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from automatic1111 import build
from git import serve

SCRIPTS = Path(__file__).resolve().parents[3] / "roles/sd_webui/files/engines/webui"
WEBUI = "AUTOMATIC1111/stable-diffusion-webui.git"
EXTENSION = "somebody/sd-webui-greeting.git"


@dataclass(frozen=True)
class Host:
    """A running Git host with the stand-in's repositories, and package indexes."""

    address: str
    commits: dict[str, str]
    hashes: dict[str, str]


def make_wheel(folder: Path, name: str, version: str) -> str:
    """A package with one module, in an index; the SHA-256 of its file."""
    information = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f'VERSION = "{version}"\n',
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{information}/RECORD"])
    path = folder / name / f"{name}-{version}-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, f"{information}/RECORD": record}.items():
            archive.writestr(member, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("git")
    commits = build.build(folder / "git")
    wheels = [("simple", "builder", "1.0"), ("simple", "pinned", "1.0"), ("simple", "pinned", "2.0")]
    wheels += [("simple", "wanted", "1.0"), ("torch/cpu", "torch", "2.0+cpu")]
    hashes = {f"{name}=={number}": make_wheel(folder / index, name, number) for index, name, number in wheels}
    server = serve.GitHost(("127.0.0.1", 0), folder / "git", folder)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield Host(f"127.0.0.1:{server.server_address[1]}", commits, hashes)
    server.stopping.set()
    server.shutdown()
    server.server_close()


@dataclass
class Build:
    """One call of the script in a folder of its own."""

    folder: Path
    host: Host
    repositories: list[dict[str, str]] = field(default_factory=list)

    def want(self, name: str, path: str, repository: str, commit: str, login: str = "") -> None:
        """Another repository to fetch; its address is one of the host's."""
        setting = f"sd_webui_sources.{name}"
        url = repository if "://" in repository else f"http://{login}{self.host.address}/{repository}"
        self.repositories.append(
            {"name": name, "path": path, "repository": url, "commit": commit, "setting": setting, "tag": ""}
        )

    def run(self, script: str = "build_repositories.py", **recipe: Any) -> str:
        """Everything that it says; where it fails, `problem` has the sentence."""
        (self.folder / "recipe").write_text(json.dumps({"repositories": self.repositories, **recipe}))
        environment = {
            "PATH": os.environ["PATH"],
            "CREDENTIALS_DIRECTORY": str(self.folder),
            "CACHE_DIRECTORY": str(self.folder),
            # uv would try again for ten seconds.
            "UV_HTTP_RETRIES": "0",
        }
        done = subprocess.run(
            [sys.executable, "-Es", str(SCRIPTS / script)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=60,
        )
        assert (done.returncode == 0) == (self.problem == ""), done.stdout
        assert "\n" not in self.problem
        return done.stdout

    @property
    def problem(self) -> str:
        """What the role shows."""
        file = self.folder / "problem"
        return file.read_text() if file.exists() else ""

    def head(self, path: str) -> str:
        """The commit that is checked out."""
        command = ["git", "-C", str(self.folder / "out" / path), "rev-parse", "HEAD"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def job(tmp_path: Path, host: Host) -> Build:
    return Build(tmp_path, host)


def test_each_at_its_commit(job: Build) -> None:
    """Those that live inside another one too, whatever their order; the tag of the version points elsewhere by now."""
    commits = job.host.commits
    job.want("greeting", "webui/extensions-builtin/greeting", f"open/{EXTENSION}", commits["greeting"])
    job.want("blip", "webui/repositories/BLIP", "open/salesforce/BLIP.git", commits["blip"])
    job.want("webui", "webui", f"open/{WEBUI}", commits["webui"])
    job.run()
    assert job.head("webui") == commits["webui"]
    assert job.head("webui/repositories/BLIP") == commits["blip"]
    assert job.head("webui/extensions-builtin/greeting") == commits["greeting"]
    assert 'VERSION = "1.10.1"' in (job.folder / "out/webui/modules/release.py").read_text()
    assert (job.folder / "out/webui/extensions-builtin/greeting/VERSION").read_text() == "1.0\n"


def test_a_commit_that_no_branch_has_any_more(job: Build) -> None:
    """A host such as GitHub keeps it for a long time."""
    job.want("webui", "webui", f"open/{WEBUI}", job.host.commits["webui_moved"])
    job.run()
    assert job.head("webui") == job.host.commits["webui_moved"]


def test_a_host_that_hands_out_branches_only(job: Build) -> None:
    job.want("webui", "webui", f"old/{WEBUI}", job.host.commits["webui"])
    job.run()
    assert job.head("webui") == job.host.commits["webui"]


@pytest.mark.parametrize(
    ("repository", "commit", "sentences"),
    [
        (f"private/{WEBUI}", "webui", ["asks for a login", "removed or made private", "set sd_webui_sources.webui."]),
        (f"gone/{WEBUI}", "webui", ["there is no repository", "set sd_webui_sources.webui.repository to a copy"]),
        ("open/nobody/nothing.git", "webui", ["there is no repository", "nobody/nothing.git"]),
        (f"open/{WEBUI}", "absent", [f"has no commit {build.ABSENT} (webui)", "or was rewritten"]),
        (f"old/{WEBUI}", "absent", [f"has no commit {build.ABSENT} (webui)", "or was rewritten"]),
        (f"old/{WEBUI}", "webui_moved", ["has no commit", "sd_webui_sources.webui.commit to one that you trust"]),
        (f"http://127.0.0.1:9/{WEBUI}", "webui", ["could not be fetched", "check this host's network"]),
        (f"http://no-such-host.invalid/{WEBUI}", "webui", ["could not be fetched", "check this host's network"]),
    ],
)
def test_what_cannot_be_fetched(job: Build, repository: str, commit: str, sentences: list[str]) -> None:
    """At once: nobody is asked for a name."""
    job.want("webui", "webui", repository, job.host.commits[commit])
    job.run()
    for sentence in sentences:
        assert sentence in job.problem


def test_a_password_of_a_mirror_is_told_nobody(job: Build) -> None:
    job.want("webui", "webui", f"open/{WEBUI}", job.host.commits["webui"], login="me:hush-hush@")
    job.want("clip", "clip", f"private/{WEBUI}", job.host.commits["webui"], login="me:hush-hush@")
    said = job.run()
    assert "hush-hush" not in said + job.problem and job.host.address in job.problem
    kept = subprocess.run(["grep", "-rl", "hush-hush", str(job.folder / "out/webui")], check=False, capture_output=True)
    assert kept.stdout == b""


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv as PyPI has it: a program in a wheel."""
    program = shutil.which("uv")
    assert program is not None
    wheel = tmp_path_factory.mktemp("uv") / "uv.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(program, "uv-0.data/scripts/uv")
    return wheel


@pytest.fixture
def recipe(job: Build, uv: Path) -> dict[str, Any]:
    """Two packages from a lock, PyTorch from its own index, and one that an extension wants."""
    for name, package in (("bootstrap", "builder==1.0"), ("lock", "pinned==1.0")):
        (job.folder / f"{name}.lock").write_text(f"{package} --hash=sha256:{job.host.hashes[package]}\n")
    return {
        "uv": str(uv),
        "python": "3.11",
        "python_is_managed": False,
        "python_mirror": "",
        "python_downloads": "",
        "pypi_index": f"http://{job.host.address}/files/simple",
        "bootstrap": str(job.folder / "bootstrap.lock"),
        "locks": [str(job.folder / "lock.lock")],
        "torch_packages": ["torch==2.0+cpu"],
        "torch_index": f"http://{job.host.address}/files/torch/cpu",
        "torch_sha256": {"torch-2.0+cpu-py3-none-any.whl": job.host.hashes["torch==2.0+cpu"]},
        "extension_requirements": ["wanted==1.0"],
        "tokenizer": False,
        "loaded": ["pinned"],
        "minimum_free_mib": 3072,
    }


def test_the_environment(job: Build, recipe: dict[str, Any]) -> None:
    """Each package in the version that was named, and an environment that can move."""
    said = job.run("build_environment.py", **recipe)
    assert "is believed" not in said
    (job.folder / "out").rename(job.folder / "moved")
    program = "import builder, pinned, torch, wanted; print(pinned.VERSION, torch.VERSION, wanted.VERSION)"
    command = [str(job.folder / "moved/venv/bin/python"), "-Ic", program]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "1.0 2.0+cpu 1.0\n"
    assert not (job.folder / "uv-cache").exists()


def test_a_build_of_pytorch_without_a_hash_is_said(job: Build, recipe: dict[str, Any]) -> None:
    said = job.run("build_environment.py", **{**recipe, "torch_sha256": {}})
    assert "No SHA-256 is known for torch==2.0+cpu: the index is believed." in said


@pytest.mark.parametrize("package", ["builder==1.0", "pinned==1.0", "torch==2.0+cpu"])
def test_a_hash_that_does_not_match(job: Build, recipe: dict[str, Any], package: str) -> None:
    for lock in job.folder.glob("*.lock"):
        lock.write_text(lock.read_text().replace(job.host.hashes[package], "0" * 64))
    if package.startswith("torch"):
        recipe["torch_sha256"] = {"torch-2.0+cpu-py3-none-any.whl": "0" * 64}
    job.run("build_environment.py", **recipe)
    assert f"{package} is not the file that the lock names (its SHA-256 differs)" in job.problem


@pytest.mark.parametrize("index", ["pypi_index", "torch_index"])
def test_no_network(job: Build, recipe: dict[str, Any], index: str) -> None:
    job.run("build_environment.py", **{**recipe, index: "http://me:hush-hush@127.0.0.1:9/simple"})
    assert "packages could not be fetched from http://127.0.0.1:9/" in job.problem
    assert "check this host's network, or set sd_webui_proxy" in job.problem


def test_an_extension_moves_no_pin(job: Build, recipe: dict[str, Any]) -> None:
    job.run("build_environment.py", **{**recipe, "extension_requirements": ["wanted==1.0", "pinned==2.0"]})
    assert "pinned==2.0" in job.problem
