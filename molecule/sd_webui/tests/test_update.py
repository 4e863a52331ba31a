# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pack a release, deploy it as an update, go back, and refuse archives that are not what they should be."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["sd-webui"]
TARGET = "sd-webui"


def current(host: Any) -> str:
    """The running release, proven by its process."""
    host.check_output("python3 -Es /opt/sd-webui/libexec/check_running.py")
    pid = host.check_output("systemctl show --property=MainPID --value sd-webui")
    return str(host.check_output(f"readlink /proc/{pid}/exe").split("/")[4])


@pytest.fixture(scope="module")
def archive(playbook: Any) -> Iterator[dict[str, str]]:
    """The built release, packed; kept for the scenarios that come after this one."""
    folder = Path(os.environ.get("SECONDHAND_CACHE_DIR", Path.home() / ".cache/secondhand.diffusion")) / "release"
    folder.mkdir(parents=True, exist_ok=True)
    run = playbook("playbooks/pack.yml", TARGET, sd_webui_pack_dir=str(folder))
    assert run.returncode == 0, run.output
    found = dict(re.findall(r"(sd_webui_release_archive(?:_sha256)?): ([^\s\"',]+)", run.output, re.MULTILINE))
    assert Path(found["sd_webui_release_archive"]).stat().st_size > 1_000_000
    yield found


def test_update_and_rollback(host: Any, playbook: Any, archive: dict[str, str]) -> None:
    built = current(host)
    update = playbook("playbooks/update.yml", TARGET, **archive)
    assert update.returncode == 0, update.output
    deployed = current(host)
    assert deployed == f"stable_diffusion_cpp-archive-{archive['sd_webui_release_archive_sha256'][:8]}"
    assert f"runs {deployed}" in update.output

    back = playbook("playbooks/update.yml", TARGET, sd_webui_version="previous")
    assert back.returncode == 0, back.output
    assert current(host) == built
    assert host.check_output("readlink -f /opt/sd-webui/previous").endswith(deployed)

    # A rollback lasts: neither a plain run that asks for the release that was left, nor a second rollback goes forward.
    held = playbook("playbooks/update.yml", TARGET, **archive)
    assert held.returncode == 0 and held.changed == 0, held.output
    assert f"it was rolled back from {deployed}" in held.output
    twice = playbook("playbooks/update.yml", TARGET, sd_webui_version="previous")
    assert twice.returncode == 0 and twice.changed == 0, twice.output
    assert current(host) == built
    assert playbook("playbooks/update.yml", TARGET).changed == 0


def test_update_that_does_not_start_leaves_the_old_release_running(
    host: Any, playbook: Any, archive: dict[str, str], tmp_path: Path
) -> None:
    """A broken server in an otherwise sound archive: never current, the old one answers, the sentence says so."""
    before = current(host)
    unpacked, broken = tmp_path / "unpacked", tmp_path / "broken.tar.gz"
    unpacked.mkdir()
    script = f"""
        tar -xzf {archive["sd_webui_release_archive"]} -C {unpacked}
        printf '#!/bin/sh\\necho error: broken on purpose >&2\\nexit 1\\n' > {unpacked}/bin/sd-server
        tar -czf {broken} -C {unpacked} .
        sha256sum {broken}
    """
    digest = subprocess.run(["bash", "-ec", script], check=True, capture_output=True, text=True).stdout.split()[0]
    variables = {"sd_webui_release_archive": str(broken), "sd_webui_release_archive_sha256": digest}
    run = playbook("playbooks/update.yml", TARGET, sd_webui_start_timeout=20, **variables)
    assert run.returncode != 0
    assert f"the release {before} runs on" in run.message
    assert "broken on purpose" in run.message
    assert current(host) == before
    healed = playbook("playbooks/update.yml", TARGET)
    assert healed.returncode == 0 and healed.changed == 0, healed.output


def test_archive_with_another_checksum(host: Any, playbook: Any, archive: dict[str, str]) -> None:
    before = current(host)
    variables = {**archive, "sd_webui_release_archive_sha256": "f" * 64}
    run = playbook("playbooks/update.yml", TARGET, **variables)
    assert run.returncode != 0
    assert "is not the expected archive (its SHA-256 is" in run.message
    assert current(host) == before
    assert not host.file("/opt/sd-webui/releases/stable_diffusion_cpp-archive-ffffffff").exists
