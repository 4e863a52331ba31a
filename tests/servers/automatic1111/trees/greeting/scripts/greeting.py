# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Adds a route of its own to the web UI, as extensions do: with no login in front of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

script_callbacks: Any = importlib.import_module("modules.script_callbacks")
webcolors: Any = importlib.import_module("webcolors")

VERSION = (Path(__file__).resolve().parents[1] / "VERSION").read_text(encoding="utf-8").strip()


def add_route(_demo: Any, app: Any) -> None:
    """Called when the web UI has started."""
    app.add_api_route("/secondhand-test/hello", lambda: {"version": VERSION, "navy": webcolors.name_to_hex("navy")})


script_callbacks.on_app_started(add_route)
