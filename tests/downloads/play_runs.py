"""Runs tasks with the real ansible-playbook on this machine, in a home of their own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from module_runs import COLLECTIONS

PLUGINS = Path(__file__).parent / "plugins"
DEADLINE = 120.0


def until(reached: Callable[[], Any]) -> Any:
    """Waits for it."""
    deadline = time.monotonic() + DEADLINE
    while not (found := reached()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@dataclass
class Play:
    """A play that runs, or has ended."""

    process: subprocess.Popen[bytes]
    results_file: Path
    _source: int
    _read: bytearray = field(default_factory=bytearray)
    _reader: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._collect)
        self._reader.start()

    def _collect(self) -> None:
        # A terminal ends with an error when nobody has it open any more.
        with contextlib.suppress(OSError), open(self._source, "rb", buffering=0) as file:
            while block := file.read(65536):
                self._read += block

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._read.decode("utf-8", "replace").replace("\r\n", "\n")

    def lines(self, text: str) -> list[str]:
        return [line for line in self.output.splitlines() if text in line]

    @property
    def results(self) -> list[dict[str, Any]]:
        """What its tasks have returned."""
        if not self.results_file.exists():
            return []
        return [json.loads(line) for line in self.results_file.read_text(encoding="utf-8").splitlines()]

    def end(self) -> Play:
        assert self._reader
        self.process.wait(timeout=DEADLINE)
        self._reader.join(timeout=DEADLINE)
        return self

    def succeed(self) -> Play:
        assert self.end().process.returncode == 0, self.output
        return self

    def kill(self) -> None:
        """SIGKILL to Ansible and its workers, but not to what runs on the host by then."""
        for line in subprocess.run(
            ["ps", "-e", "-o", "pid=,ppid="], check=True, capture_output=True, text=True
        ).stdout.splitlines():
            pid, parent = map(int, line.split())
            if parent == self.process.pid:
                os.kill(pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        self.process.kill()
        self.end()


class Plays:
    """Plays of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.jobs = self.home / "async"
        self.temporary = self.home / "tmp"
        # While it exists, connection "shaky" lets nothing through.
        self.broken = folder / "broken"
        self._count = 0

    def start(
        self, *tasks: dict[str, Any], options: tuple[str, ...] = (), terminal: bool = False, connection: str = "local"
    ) -> Play:
        self._count += 1
        name = self.folder / f"play{self._count}"
        self.home.mkdir(exist_ok=True)
        play = {
            "hosts": "closet",
            "gather_facts": False,
            "tasks": [{"ignore_errors": True, **task} for task in tasks] if len(tasks) > 1 else list(tasks),
        }
        name.with_suffix(".json").write_text(json.dumps([play]), encoding="utf-8")
        results = name.with_suffix(".results")
        command = ["ansible-playbook", "-i", "closet,", "-c", connection, *options]
        command += ["-e", json.dumps({"ansible_python_interpreter": sys.executable, "shaky_broken": str(self.broken)})]
        reading, writing = pty.openpty() if terminal else os.pipe()
        process = subprocess.Popen(
            [*command, str(name.with_suffix(".json"))],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            start_new_session=True,
            env={**self._environment(), "TEST_RESULTS": str(results)},
        )
        os.close(writing)
        return Play(process, results, reading)

    def __call__(self, *tasks: dict[str, Any], **more: Any) -> Play:
        return self.start(*tasks, **more).end()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        return {
            **kept,
            "HOME": str(self.home),
            "ANSIBLE_HOME": str(self.home / "ansible"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_CONNECTION_PLUGINS": str(PLUGINS / "connection"),
            "ANSIBLE_CALLBACK_PLUGINS": str(PLUGINS / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "results",
            "ANSIBLE_REMOTE_TMP": str(self.temporary),
            "ANSIBLE_ASYNC_DIR": str(self.jobs),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
