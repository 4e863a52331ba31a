# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""build-repositories against a Git host: at its commit each, and one sentence where that cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from automatic1111 import build
from git import serve

SCRIPT = Path(__file__).resolve().parents[3] / "roles/sd_webui/files/engines/webui/build-repositories"
WEBUI = "AUTOMATIC1111/stable-diffusion-webui.git"
EXTENSION = "somebody/sd-webui-greeting.git"


@dataclass(frozen=True)
class Host:
    """A running Git host with the stand-in's repositories."""

    address: str
    commits: dict[str, str]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("git")
    commits = build.build(folder)
    server = serve.GitHost(("127.0.0.1", 0), folder)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield Host(f"127.0.0.1:{server.server_address[1]}", commits)
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

    def run(self) -> str:
        """Everything that it says; where it fails, `problem` has the sentence."""
        (self.folder / "recipe").write_text(json.dumps({"repositories": self.repositories}))
        environment = {
            "PATH": os.environ["PATH"],
            "CREDENTIALS_DIRECTORY": str(self.folder),
            "CACHE_DIRECTORY": str(self.folder),
        }
        done = subprocess.run(
            [sys.executable, "-Es", str(SCRIPT)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=60,
        )
        assert (done.returncode == 0) == (self.problem == ""), done.stdout
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
    assert "\n" not in job.problem


def test_a_password_of_a_mirror_is_told_nobody(job: Build) -> None:
    job.want("webui", "webui", f"open/{WEBUI}", job.host.commits["webui"], login="me:hush-hush@")
    job.want("clip", "clip", f"private/{WEBUI}", job.host.commits["webui"], login="me:hush-hush@")
    said = job.run()
    assert "hush-hush" not in said + job.problem and job.host.address in job.problem
    kept = subprocess.run(["grep", "-rl", "hush-hush", str(job.folder / "out/webui")], check=False, capture_output=True)
    assert kept.stdout == b""
