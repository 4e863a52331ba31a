# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tunnel to the web UI, as site.yml's last line tells a person to open it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="session")
def tunnel() -> Iterator[str]:
    """The web UI's URL on this machine, through ssh -L."""
    login = yaml.safe_load(Path(os.environ["MOLECULE_INSTANCE_CONFIG"]).read_text(encoding="utf-8"))[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "ssh",
        "-N",
        "-i",
        login["identity_file"],
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    command += ["-o", "LogLevel=ERROR", "-L", f"{port}:127.0.0.1:7860", f"{login['user']}@{login['address']}"]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < deadline, "the tunnel did not open"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
        process.terminate()
