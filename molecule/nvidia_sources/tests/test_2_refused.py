# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must not get in: repositories and installers that are not what they should be. Each has its sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

testinfra_hosts = ["nvidia-refused"]

REFUSE = "molecule/nvidia_sources/refuse.yml"
REPOS = "https://developer.download.nvidia.com/compute/cuda/repos"
INSTALLERS = "https://us.download.nvidia.com/XFree86/Linux-x86_64"
BROKEN = "510.47.03/NVIDIA-Linux-x86_64-510.47.03.run"

# Name: (settings, what the answer says).
REPOSITORIES: dict[str, tuple[dict[str, str], list[str]]] = {
    "sha1": ({"repo_url": f"{REPOS}/sha1/x86_64"}, ["rests on SHA-1", "debian13", "leave the check on"]),
    "unsigned": ({"repo_url": f"{REPOS}/unsigned/x86_64"}, ["not signed by NVIDIA's key", "nothing was installed"]),
    "stranger": ({"repo_url": f"{REPOS}/stranger/x86_64"}, ["not signed by NVIDIA's key", "nothing was installed"]),
    "tampered": ({"repo_url": f"{REPOS}/tampered/x86_64"}, ["does not hold what its signature promises"]),
    "only590": ({"repo_url": f"{REPOS}/only590/x86_64"}, ["no proprietary driver of branch 580 (it has 590)"]),
    "keyring": ({"keyring_sha256": "0" * 64}, ["is not the file with the SHA-256", "nothing was installed"]),
    "plain": (
        {"repo_url": "http://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64"},
        ["fetched without encryption", "nvidia_driver_keyring_sha256"],
    ),
    "proxy": ({"proxy": "http://127.0.0.1:9"}, ["could not be fetched", "nvidia_driver_proxy"]),
    "missing": ({"repo_url": f"{REPOS}/debian99/x86_64"}, ["could not be fetched", "nvidia_driver_repo_url"]),
}


def answers(said: str) -> dict[str, str]:
    """What was answered to each wrong setting, whatever way the lines are folded."""
    text = " ".join(said.replace('"', " ").split())
    assert "ACCEPTED" not in text
    parts = re.split(r"ANSWER (\w+): ", text)[1:]
    return {name: part.partition(" }")[0] for name, part in zip(parts[::2], parts[1::2])}


@pytest.fixture(scope="module")
def repositories(playbook: Callable[..., Any]) -> dict[str, str]:
    """The answers to all wrong repositories, from one run."""
    wrong = [{"name": name, "source": "nvidia_repo", **settings} for name, (settings, _) in REPOSITORIES.items()]
    return answers(playbook(REFUSE, "nvidia-refused", wrong_settings=wrong).output)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_repository_is_refused(repositories: dict[str, str], name: str) -> None:
    said = repositories[name]
    assert said.startswith("nvidia-refused: ")
    assert [words for words in REPOSITORIES[name][1] if words not in said] == [], said


def test_a_foreign_installer_is_never_run(host: Any, playbook: Callable[..., Any]) -> None:
    wrong = {"name": "other", "source": "runfile", "runfile": f"{INSTALLERS}/{BROKEN}", "runfile_sha256": "0" * 64}
    said = answers(playbook(REFUSE, "nvidia-refused", wrong_settings=[wrong]).output)["other"]
    assert "find out which of the two is wrong, nothing of it was run" in said
    assert not host.file("/var/log/nvidia-installer.log").exists
    assert not host.file("/var/cache/secondhand-diffusion-nvidia").exists


def test_nothing_was_left_behind(host: Any) -> None:
    listed = host.check_output("dpkg-query --show --showformat='${Package} ${db:Status-Status}\\n'")
    assert [line for line in listed.splitlines() if re.match(r"cuda|nvidia|libnvidia|libcuda", line)] == []
    assert host.run("ls /etc/apt/sources.list.d/cuda* /usr/share/keyrings/cuda*").stdout == ""
    # The next update of the package index works.
    assert host.run("apt-get -q update").rc == 0


def test_a_driver_that_does_not_build_leaves_the_old_one(
    on: Callable[[str], Any], playbook: Callable[..., Any]
) -> None:
    there = on("nvidia-runfile")
    sha256 = on("nvidia-server").check_output(f"sha256sum /srv/nvidia/XFree86/Linux-x86_64/{BROKEN}").split()[0]
    wrong = {"name": "broken", "source": "runfile", "runfile": f"{INSTALLERS}/{BROKEN}", "runfile_sha256": sha256}
    said = answers(playbook(REFUSE, "nvidia-runfile", wrong_settings=[wrong]).output)["broken"]
    assert "NVIDIA's installer of driver 510.47.03 failed with status 1 (An error occurred" in said
    assert "read /var/log/nvidia-installer.log there" in said
    assert there.check_output("head -n 1 /var/lib/nvidia/log") == "530.30.02"
    assert "530.30.02" in there.check_output("dkms status")
