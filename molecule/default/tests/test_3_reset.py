# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""reset.yml leaves the host as it was, but for the models and pictures; a second run changes nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

HOST = "sd-site"
LIST = Path(__file__).resolve().parents[1] / "list_files.py"


def listing(host: Any) -> set[str]:
    """Files, units, packages and accounts of the host."""
    return set(host.check_output(f"python3 - <<'END'\n{LIST.read_text(encoding='utf-8')}\nEND\n").splitlines())


def test_reset_leaves_the_host_as_it_was(host: Any, playbook: Any) -> None:
    before = set(
        (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "before.txt").read_text(encoding="utf-8").splitlines()
    )
    assert len(before) > 5000
    run = playbook("playbooks/reset.yml", HOST)
    assert run.returncode == 0, run.output
    after = listing(host)
    noise = re.compile(r"^/etc/(ld\.so\.cache|machine-id|\.pwd\.lock|.*-) |^/var/lib/(ucf|dbus)|^/var/lib/systemd/")
    added = sorted(line for line in after - before if not noise.search(line))
    removed = sorted(line for line in before - after if not noise.search(line))
    assert (added, removed) == ([], [])
    assert host.file("/srv/sd/models/checkpoint/random-sd15.safetensors").size == 2132625230

    again = playbook("playbooks/reset.yml", HOST)
    assert again.returncode == 0 and again.changed == 0, again.output


def test_purge_also_takes_the_data(host: Any, playbook: Any) -> None:
    run = playbook("playbooks/reset.yml", HOST, sd_webui_purge_data=True)
    assert run.returncode == 0, run.output
    assert not host.file("/srv/sd").exists
