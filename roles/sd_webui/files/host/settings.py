# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role wrote about this host: its settings, the release in use, the profile in force.

Paths can be moved with SD_WEBUI_ROOT, which the tests use.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("SD_WEBUI_ROOT", "/"))
CONFIG = ROOT / "etc/sd-webui"
OVERRIDE = ROOT / "var/lib/sd-webui/profile-override.json"
DEFAULT_RELEASE = ROOT / "opt/sd-webui/current"
UNIT = "sd-webui.service"


class SettingsError(Exception):
    """A file of the role is missing or damaged; the message is one sentence with the next step."""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises SettingsError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); run site.yml for this host again.") from error
    if not isinstance(data, dict):
        raise SettingsError(f"{path} is not a JSON object; run site.yml for this host again.")
    return data


def load_login() -> str | None:
    """The login user:password, as far as this process may know it."""
    for folder in (os.environ.get("CREDENTIALS_DIRECTORY"), CONFIG):
        try:
            return Path(folder or "/nonexistent", "login").read_text(encoding="utf-8").rstrip("\r\n") or None
        except (OSError, ValueError):
            continue
    return None


def release_dir() -> Path:
    """The release to run: the candidate of a switch, else the current one."""
    return Path(os.environ.get("SD_WEBUI_RELEASE") or DEFAULT_RELEASE)


def load_settings() -> dict[str, Any]:
    """Address, port, directories, checkpoint, extra arguments and environment; a login is wanted or not."""
    return read_json(CONFIG / "settings.json")


def load_release() -> dict[str, Any]:
    """The recipe of the release in use: command, profiles, HTTP paths."""
    return read_json(release_dir() / "release.json")


@dataclass(frozen=True)
class Override:
    """A profile that is in force instead of the desired one, until `expires` (seconds since 1970)."""

    profile: str
    reason: str
    expires: float | None
    set_by: str

    def is_over(self, now: float) -> bool:
        """Has it expired?"""
        return self.expires is not None and self.expires <= now


def _override(data: Any) -> Override:
    """One override as the file has it; raises KeyError, TypeError or ValueError."""
    return Override(
        str(data["profile"]),
        str(data.get("reason", "")),
        None if data.get("expires") is None else float(data["expires"]),
        str(data.get("set_by", "")),
    )


def load_override(now: float | None = None) -> Override | None:
    """The override in force, or None. A damaged or expired one counts as none: the server must start.

    Where another hand's override lies `over` one that is still good, that one is in force again once the upper ends.
    """
    now = time.time() if now is None else now
    try:
        data = read_json(OVERRIDE)
        override = _override(data)
        if override.is_over(now) and data.get("over") is not None:
            override = _override(data["over"])
    except (SettingsError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return None if override.is_over(now) else override


def desired_profile() -> str:
    """The profile that the playbook asked for; raises SettingsError."""
    try:
        return (CONFIG / "profile").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(
            f"{CONFIG / 'profile'} cannot be read ({error}); run site.yml for this host again."
        ) from error


def active_profile(profiles: dict[str, Any]) -> str:
    """The override, else the desired profile, as far as the release supports it."""
    override = load_override()
    if override is not None and override.profile in profiles:
        return override.profile
    return desired_profile()
