# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page's login, as upstream reads it."""

from __future__ import annotations

from collections.abc import Iterator


def credentials(pairs: str | None, path: str | None) -> Iterator[tuple[str, ...]]:
    """user:password, separated by commas and, in a file, by lines."""
    lines = [pairs or ""]
    if path:
        with open(path, encoding="utf-8") as file:
            lines += file.readlines()
    for line in lines:
        for pair in line.strip().split(","):
            if pair.strip():
                yield tuple(pair.strip().split(":", 1))
