# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which profile is wished, and which one is in force: the files of role sd_webui as its design documents them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_watchdog import paths
from sd_watchdog.config import Engine


@dataclass(frozen=True)
class Profiles:
    """The desired profile, the one in force, and who has overridden it."""

    desired: str
    active: str
    set_by: str = ""
    reason: str = ""

    @property
    def is_ours(self) -> bool:
        """Has the watchdog set the override in force?"""
        return self.set_by == "watchdog"


def look(engine: Engine) -> Profiles:
    """As launch.py of role sd_webui sees it."""
    try:
        desired = (paths.BASE / engine.profile_file.lstrip("/")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        desired = ""
    path = paths.BASE / engine.state_dir.lstrip("/") / "profile-override.json"
    try:
        data: Any = _read(path)
        # What lies below one that has expired is in force again.
        for one in (data, data.get("over") or {}):
            expires = one.get("expires")
            if expires is None or float(str(expires)) > time.time():
                if one["profile"] not in engine.profiles:
                    break
                return Profiles(desired, str(one["profile"]), str(one.get("set_by", "")), str(one.get("reason", "")))
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        pass
    return Profiles(desired, desired)


def _read(path: Path) -> dict[str, object]:
    """The JSON object in a file; raises ValueError or OSError."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no object")
    return data
