# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How problems that do not end the program are said: marked, with the traceback."""

from __future__ import annotations

import sys
import traceback


def report(message: str, *, exc_info: bool = False) -> None:
    """Say it on stderr."""
    lines = message.splitlines()
    if exc_info:
        lines += traceback.format_exc().splitlines()
    print("\n".join(f"*** {line}" for line in lines) + "\n---", file=sys.stderr, flush=True)
