# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Git host that stands in for GitHub answers Git as GitHub does, in all of its ways to fail."""

from __future__ import annotations

import os
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from automatic1111 import build
from git import serve


@dataclass(frozen=True)
class Host:
    """A running Git host with the stand-in's repositories."""

    url: str
    commits: dict[str, str]
    server: serve.GitHost


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("git")
    commits = build.build(folder / "repositories")
    (folder / "files/simple").mkdir(parents=True)
    (folder / "files/simple/a+b.whl").write_bytes(bytes(range(100)))
    server = serve.GitHost(("127.0.0.1", 0), folder / "repositories", folder / "files")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield Host(f"http://127.0.0.1:{server.server_address[1]}", commits, server)
    server.stopping.set()
    server.shutdown()
    server.server_close()


def fetch(folder: Path, *what: str) -> subprocess.CompletedProcess[str]:
    """git fetch as the role does it, into a new folder."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    }
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True, env=environment, capture_output=True)
    command = ["git", "-C", str(folder), "fetch", "--quiet", *what]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)


WEBUI = "AUTOMATIC1111/stable-diffusion-webui"


@pytest.mark.parametrize("name", [f"{WEBUI}.git", WEBUI])
@pytest.mark.parametrize("commit", ["webui", "webui_moved"])
def test_any_commit_by_its_id(host: Host, tmp_path: Path, name: str, commit: str) -> None:
    """Also the one that no branch and no tag has any more, without the history."""
    done = fetch(tmp_path, "--depth=1", f"{host.url}/open/{name}", host.commits[commit])
    assert done.returncode == 0, done.stderr


def test_an_old_server_hands_out_branches_and_tags_only(host: Host, tmp_path: Path) -> None:
    url = f"{host.url}/old/{WEBUI}.git"
    refused = fetch(tmp_path, "--depth=1", url, host.commits["webui"])
    assert refused.returncode != 0 and "unadvertised object" in refused.stderr
    all_of_it = fetch(tmp_path, url, "+refs/heads/*:refs/found/*")
    assert all_of_it.returncode == 0, all_of_it.stderr
    has = ["git", "-C", str(tmp_path), "cat-file", "-e"]
    assert subprocess.run([*has, host.commits["webui"]], check=False).returncode == 0
    assert subprocess.run([*has, host.commits["webui_moved"]], check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("path", "commit", "said"),
    [
        (f"open/{WEBUI}", "absent", "not our ref"),
        (f"private/{WEBUI}", "webui", "could not read Username"),
        (f"gone/{WEBUI}", "webui", "not found"),
        ("open/nobody/nothing.git", "webui", "not found"),
        ("open/../../etc/nothing.git", "webui", "not found"),
    ],
)
def test_failures(host: Host, tmp_path: Path, path: str, commit: str, said: str) -> None:
    done = fetch(tmp_path, f"{host.url}/{path}", host.commits[commit])
    assert done.returncode != 0
    assert said in done.stderr


def test_it_may_never_answer(host: Host) -> None:
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(f"{host.url}/slow/{WEBUI}.git/info/refs", timeout=0.5)


def test_files_as_a_package_index_has_them(host: Host) -> None:
    with urllib.request.urlopen(f"{host.url}/files/simple/", timeout=60) as answer:
        assert '<a href="a%2Bb.whl">a+b.whl</a>' in answer.read().decode()
    request = urllib.request.Request(f"{host.url}/files/simple/a%2Bb.whl", headers={"Range": "bytes=90-"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert (answer.status, answer.read()) == (206, bytes(range(90, 100)))
    for path in ("files/simple/none.whl", "files/../repositories/openai/CLIP.git/HEAD", "other"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{host.url}/{path}", timeout=60)


def test_it_remembers_what_was_asked(host: Host) -> None:
    before = len(host.server.requests)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{host.url}/gone/away", timeout=60)
    assert [request["path"] for request in host.server.requests[before:]] == ["/gone/away"]
