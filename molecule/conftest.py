# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scenarios' tests share: run one of the collection's playbooks on the scenario's own hosts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    returncode: int
    output: str

    @property
    def changed(self) -> int:
        """Changed tasks of all hosts."""
        return sum(int(count) for count in re.findall(r"changed=(\d+)", self.output))

    @property
    def message(self) -> str:
        """The failed task's own message, on one line."""
        found = re.findall(r'"msg": "((?:[^"\\]|\\.)*)"', self.output)
        return str(json.loads(f'"{found[-1]}"')) if found else self.output[-500:]


@pytest.fixture(scope="session")
def playbook() -> Callable[..., Run]:
    """Run a playbook (a path below the clone) with extra variables on one host or group of the scenario."""

    def run(path: str, target: str, *arguments: str, **variables: Any) -> Run:
        command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(ROOT / path)]
        command += ["-e", json.dumps({"target": target, **variables}), *arguments]
        # The clone's own settings, as a person has them, and an output that can be read back.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
        # A scenario's own plays lie outside playbooks/, where the clone finds itself.
        environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / "playbooks/collections")
        environment["ANSIBLE_NOCOLOR"] = "1"
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            env=environment,
        )
        print(done.stdout)
        return Run(done.returncode, done.stdout)

    return run


@pytest.fixture
def nothing_left_on_poor_host(playbook: Callable[..., Run], request: pytest.FixtureRequest) -> Iterator[None]:
    """Afterwards the host that the test's module calls POOR has no release, no running unit and no build folder."""
    yield
    command = (
        "ls -A /opt/sd-webui/releases /var/cache/sd-webui /var/cache/private/sd-webui-build 2>/dev/null; "
        "systemctl is-active sd-webui"
    )
    run = playbook("molecule/_shared/look.yml", request.module.POOR, command=command)
    assert json.loads(run.message) == ["/opt/sd-webui/releases:", "inactive"]
