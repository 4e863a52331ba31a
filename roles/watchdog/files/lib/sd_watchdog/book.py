# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the root part remembers: its place in the kernel log, the Xids, and what it has done to the host and when."""

from __future__ import annotations

import os
from typing import Any

from sd_watchdog import paths, reboot, store, untrusted

_MOST_BYTES = 1 << 20


def load() -> dict[str, Any]:
    """The book, each part as it ought to be, whatever the file holds."""
    data = store.read(paths.ROOT_FILE, _MOST_BYTES) or {}

    def part(name: str, default: Any) -> Any:
        value = data.get(name)
        return value if type(value) is type(default) else default

    return {
        "schema": 1,
        "boot_id": part("boot_id", ""),
        "place": part("place", {}),
        "number": part("number", 0),
        "counts": {str(xid): count for xid, count in part("counts", {}).items() if untrusted.is_whole(count)},
        "xids": [entry for entry in part("xids", []) if _is_entry(entry)],
        "reboots": reboot.load(data.get("reboots")),
        "reboots_total": part("reboots_total", 0),
        "reload": part("reload", {}),
    }


def save(book: dict[str, Any]) -> None:
    """Keep it; raises OSError."""
    store.write(paths.ROOT_FILE, book)


def is_damaged() -> bool:
    """Was there a book that could not be read? What it knew is lost."""
    return os.path.lexists(f"{paths.ROOT_FILE}.damaged")


def _is_entry(entry: Any) -> bool:
    """Is it an Xid as this module's users have written it?"""
    if not isinstance(entry, dict):
        return False
    boottime = entry.get("boottime")
    return (
        all(untrusted.is_whole(entry.get(name)) for name in ("number", "xid", "times"))
        and all(isinstance(entry.get(name), str) for name in ("verdict", "said", "line", "card"))
        and (isinstance(boottime, float) or untrusted.is_whole(boottime))
    )
