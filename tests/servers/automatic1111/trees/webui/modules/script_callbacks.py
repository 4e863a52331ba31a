# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How extensions are called back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import errors

_started: list[Callable[[Any, Any], None]] = []


def on_app_started(callback: Callable[[Any, Any], None]) -> None:
    """Called with page and application when both are up."""
    _started.append(callback)


def app_started(demo: Any, app: Any) -> None:
    """One that fails does not keep the others from running."""
    for callback in _started:
        try:
            callback(demo, app)
        except Exception:
            errors.report(f"Error executing callback app_started_callback for {callback.__module__}", exc_info=True)
