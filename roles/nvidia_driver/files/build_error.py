# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print, as JSON, where DKMS's newest build log is and which line of it says what went wrong. Changes nothing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

TELLING = re.compile(r"(?<![-\w])error:|undefined reference|No space left|Killed|\*\*\* ", re.IGNORECASE)
# What make says once another line has said why.
ECHO = re.compile(r"^make|Error \d+$")


def main() -> None:
    """Look through the logs, the newest first."""
    # The log of a build that went well is moved away from here.
    logs = sorted(Path("/var/lib/dkms").glob("nvidia*/*/build/make.log"), key=lambda log: -log.stat().st_mtime)
    answer = {"log": "", "line": ""}
    for log in logs[:1]:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        telling = [line for line in lines if TELLING.search(line)]
        first = [line for line in telling if not ECHO.search(line)]
        if telling:
            answer = {"log": str(log), "line": (first or telling)[0][:200]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
