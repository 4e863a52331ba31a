# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the root part to do what the web UI's user may not: one request at a time, never waited for in here."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from sd_watchdog import paths, store

# A reload of the driver is the longest; everything else takes a second or two.
PATIENCE = {"reload_driver": 180.0}
USUAL_PATIENCE = 30.0


class RootRequest:
    """A request that is on its way."""

    def __init__(self, action: str, reason: str, now: float, **values: Any) -> None:
        """Leave it for the root part; raises OSError."""
        self.action = action
        self.id = os.urandom(8).hex()
        self._until = now + PATIENCE.get(action, USUAL_PATIENCE)
        # Without control characters, and no longer than the root part takes.
        said = "".join(character if character.isprintable() else " " for character in reason)[:300]
        store.write(paths.REQUEST, {"id": self.id, "action": action, "reason": said, **values})

    def answer(self, now: float) -> dict[str, Any] | None:
        """What the root part has said; None while it is at it."""
        found = store.read(paths.ANSWER)
        if found is not None and found.get("id") == self.id:
            return found
        if now < self._until:
            return None
        with contextlib.suppress(OSError):
            paths.REQUEST.unlink()
        return {
            "id": self.id,
            "ok": False,
            "said": "the root part has not answered; see journalctl -u sd-watchdog-root",
        }
