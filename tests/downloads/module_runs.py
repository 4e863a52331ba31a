"""Runs the collection's modules as Ansible does on a host, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLLECTIONS = Path(__file__).resolve().parents[2] / "playbooks/collections"
PACKAGE = "ansible_collections.secondhand.diffusion.plugins.modules"


@dataclass
class Run:
    """A module that has ended, or was ended."""

    result: dict[str, Any]
    # All that it wrote.
    output: str = field(repr=False)
    returncode: int

    @property
    def message(self) -> str:
        return str(self.result.get("msg", ""))


class Modules:
    """Runs modules of the collection as Ansible does on a host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index.sqlite3"

    def start(
        self, name: str, check: bool = False, environment: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """The module's process; its options go to its standard input."""
        shared = {"timeout": 10, "space_reserve": "0"} if name.endswith("_download") else {}
        options = {"index": str(self.index), **shared, **options}
        arguments = {
            **options,
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            "_ansible_remote_tmp": str(self.folder),
        }
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", f"{PACKAGE}.{name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**_environment(), **(environment or {})},
        )
        assert process.stdin
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        process.stdin.close()
        # communicate() shall not flush what is closed.
        process.stdin = None
        return process

    def end(self, process: subprocess.Popen[str], timeout: float = 120) -> Run:
        """Waits for the module's answer."""
        output, _ = process.communicate(timeout=timeout)
        lines = [line for line in output.splitlines() if line.startswith("{")]
        return Run(json.loads(lines[-1]) if lines else {}, output, process.returncode)

    def __call__(
        self, name: str, check: bool = False, environment: dict[str, str] | None = None, **options: Any
    ) -> Run:
        return self.end(self.start(name, check, environment, **options))

    def kill_when(self, reached: Callable[[], bool], name: str, **options: Any) -> None:
        """SIGKILL, as soon as something is true; fails when the module has ended before."""
        process = self.start(name, **options)
        deadline = time.monotonic() + 60
        while not reached():
            assert process.poll() is None, self.end(process).output
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


def _environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy") and name != "HF_TOKEN"
    }
    return {**kept, "PYTHONPATH": str(COLLECTIONS)}
