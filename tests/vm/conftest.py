# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine that the tests share, and playbooks run on it as a person runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAME = "part-vm"


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    returncode: int
    output: str

    @property
    def changed(self) -> int:
        """Changed tasks."""
        return sum(int(count) for count in re.findall(r"changed=(\d+)", self.output))


class Machine:
    """A virtual machine under tests/vm/vm."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.inventory = folder / "inventory.ini"

    def vm(self, *arguments: str, timeout: float = 900, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run tests/vm/vm."""
        command = [str(HERE / "vm"), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)

    def create(self) -> None:
        """Make it, or wait until it is up."""
        done = self.vm("create", self.name)
        assert done.returncode == 0, done.stderr
        self.inventory.write_text(self.vm("inventory", self.name).stdout, encoding="utf-8")

    def shell(self, script: str, timeout: float = 600, stdin: str = "") -> str:
        """What a shell script that succeeds says there, run as root."""
        done = self.vm("exec", self.name, "--", script, timeout=timeout, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def boot_id(self) -> str:
        """Another one after each start."""
        return self.shell("cat /proc/sys/kernel/random/boot_id").strip()

    def boots(self) -> int:
        """How often it has started, as it wrote that down itself."""
        return int(self.shell("last reboot | grep -c '^reboot '"))

    def reboot(self) -> None:
        """As a person does it: no role is involved."""
        before = self.boot_id()
        # The connection may end before the command has answered.
        self.vm("exec", self.name, "--", "systemctl reboot")
        deadline = time.monotonic() + 600
        while self.vm("exec", self.name, "--", "cat /proc/sys/kernel/random/boot_id").stdout.strip() in ("", before):
            assert time.monotonic() < deadline, "it did not start again"
            time.sleep(2)
        self.create()

    def play(self, name: str, **variables: Any) -> Run:
        """Run one of the plays beside this file, with the clone's own settings."""
        command = ["ansible-playbook", "-i", str(self.inventory), str(HERE / "plays" / name)]
        command += ["-e", json.dumps(variables)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        environment["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
        environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / "playbooks/collections")
        environment["ANSIBLE_NOCOLOR"] = "1"
        started = time.monotonic()
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=1500, check=False, env=environment,
        )  # fmt: skip
        print(done.stdout)
        print(f"{name} took {time.monotonic() - started:.0f} s")
        return Run(done.returncode, done.stdout)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One for all tests: each start takes a minute under emulation."""
    made = Machine(NAME, tmp_path_factory.mktemp("vm"))
    made.vm("destroy", NAME)
    made.create()
    yield made
    if not os.environ.get("SECONDHAND_KEEP"):
        made.vm("destroy", NAME)
