# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prove the running state: the service runs from the current release and answers on its health path."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import server
import settings


def problem() -> str:
    """One sentence about what is wrong, or nothing."""
    config, release = settings.load_settings(), settings.load_release()
    pids = server.processes()
    if not pids:
        return f"{settings.UNIT} has no process; see journalctl -u {settings.UNIT} and start it."
    current = str(settings.release_dir().resolve())
    if not any(path.startswith(current + os.sep) for pid in pids for path in mapped_files(pid)):
        return f"the processes {pids} do not run from {current}; restart {settings.UNIT}."
    if config.get("login"):
        found = login_problem(config, release)
        if found:
            return found
    health = release["paths"]["health"]
    said, body = server.ask_with_login(config, health, 10)
    if body is None:
        return f"{server.base_url(config)}{health} does not answer ({said}); see journalctl -u {settings.UNIT}."
    return ""


def mapped_files(pid: int) -> set[str]:
    """What a process has loaded: an engine in Python runs the interpreter, with the release's packages."""
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
        return {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/" in line}
    return set()


def login_problem(config: dict[str, Any], release: dict[str, Any]) -> str:
    """Is the login that is wanted there, does the server ask for it, and is it the one that the server takes?"""
    login = settings.load_login()
    if login is None:
        return (
            f"a login is wanted and {settings.CONFIG / 'login'} is missing, empty or not readable; run site.yml again."
        )
    # Where the engine has a login it has this path; without a login a GET of it is refused in another way.
    path = release["paths"]["txt2img"]
    said, _body = server.ask(config, path, 10)
    if said != "HTTP 401":
        return f"{server.base_url(config)}{path} does not ask for a login ({said}); stop {settings.UNIT} and look why."
    said, _body = server.ask(config, path, 10, login)
    if said == "HTTP 401":
        return f"the server takes another login than that in {settings.CONFIG / 'login'}; restart {settings.UNIT}."
    return ""


def main() -> int:
    """Print the sentence, if there is one."""
    try:
        found = problem()
    except (OSError, settings.SettingsError) as error:
        found = str(error)
    if found:
        print(f"error: {found}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
