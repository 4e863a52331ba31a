# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events for people: one file each, which alert.py sends and removes."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from sd_watchdog import paths, store

# When nobody takes them away they may not fill the disk.
MOST = 200


def post(event: str, key: str, title: str, text: str, host: str, seconds: float | None = None) -> None:
    """Leave an event for alert.py. `key`: events of the same key are not sent again and again."""
    data: dict[str, Any] = {
        "schema": 1,
        "event": event,
        "key": key,
        "title": title,
        "text": text,
        "wall": time.time(),
        "seconds": seconds,
        "host": host,
    }
    # An alert that cannot be left is no reason to leave the server alone.
    with contextlib.suppress(OSError):
        paths.OUTBOX.mkdir(mode=0o755, exist_ok=True)
        if len(os.listdir(paths.OUTBOX)) < MOST:
            store.write(paths.OUTBOX / f"{time.time_ns():020}.json", data)
