# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in's faults: as often as asked for, and in the words that the watchdog looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sd_watchdog.log_lines import LogWatch

WEBUI = Path(__file__).resolve().parents[3] / "tests/servers/automatic1111/trees/webui"
START = "from modules import faults; faults.at_start(); print('started')"
JOB = """
import time
from modules import faults
faults.at_start()
deadline = time.monotonic() + 50
while not faults._active and time.monotonic() < deadline:
    time.sleep(0.01)
faults.before_step(0)
"""


def run(folder: Path, script: str, **asked: object) -> subprocess.CompletedProcess[str]:
    """A start of the stand-in, as far as its faults go."""
    if asked:
        (folder / "fault.json").write_text(json.dumps(asked), encoding="utf-8")
    command = [sys.executable, "-B", "-c", script, "--data-dir", str(folder)]
    return subprocess.run(command, check=False, cwd=WEBUI, capture_output=True, text=True, timeout=60)


def kinds(text: str) -> set[str]:
    """What the watchdog makes of it."""
    return {event.kind for event in LogWatch().feed(text.encode())}


def test_starts_fail_as_often_as_asked(tmp_path: Path) -> None:
    assert run(tmp_path, START, exit_at_start=2).returncode == 1
    assert run(tmp_path, START).returncode == 1
    done = run(tmp_path, START)
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert not (tmp_path / "fault.json").exists()


def test_a_taken_port_is_said_as_gradio_says_it(tmp_path: Path) -> None:
    done = run(tmp_path, START, port_in_use=1)
    assert done.returncode == 1 and kinds(done.stderr) == {"port_in_use"}


def test_errors_of_the_card_are_said_as_pytorch_says_them(tmp_path: Path) -> None:
    for fault, kind in (({"cuda_error": True}, "cuda_error"), ({"cuda_oom": 1}, "cuda_oom")):
        done = run(tmp_path, JOB, **fault)
        assert done.returncode == 1 and kinds(done.stderr) == {kind}
