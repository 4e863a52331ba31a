# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of what was made when, a line of JSON for each: by the clock that all containers of a machine share."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

_log: list[int] = []


def open_log(path: Path) -> None:
    """Goes on with what an earlier process has left."""
    _log[:] = [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)]


def note(event: str, **known: Any) -> float:
    """A line in one write; whoever is killed after it has written it. When that was."""
    at = time.monotonic()
    if _log:
        os.write(_log[0], (json.dumps({"event": event, "at": at, "pid": os.getpid(), **known}) + "\n").encode())
    return at
