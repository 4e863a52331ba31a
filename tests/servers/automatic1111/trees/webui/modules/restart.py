# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarting is for whoever watches the program; it says so in SD_WEBUI_RESTART."""

from __future__ import annotations

import os
from pathlib import Path

from .paths_internal import script_path


def is_restartable() -> bool:
    """Does somebody start it again?"""
    return bool(os.environ.get("SD_WEBUI_RESTART"))


def restart_program() -> None:
    """The file is the sign for webui.sh."""
    folder = Path(script_path) / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "restart").touch()
    stop_program()


def stop_program() -> None:
    """Exit status 0, like every deliberate end."""
    os._exit(0)
