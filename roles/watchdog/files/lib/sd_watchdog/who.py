# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process it is, in words, for processes of other users too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sd_watchdog import untrusted


def pids(root: Path) -> Iterator[int]:
    """All processes, the oldest first as far as numbers tell."""
    try:
        names = os.listdir(root / "proc")
    except OSError:
        return
    yield from sorted(int(name) for name in names if name.isascii() and name.isdigit())


def opened(root: Path, pid: int) -> Iterator[str]:
    """What the process has open, as /proc names it. It may end meanwhile."""
    folder = f"{root}/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue


def unit_of(root: Path, pid: int) -> str:
    """The unit of systemd that the process belongs to; "" when that cannot be told."""
    try:
        text = Path(f"{root}/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = ""
    for line in text.splitlines():
        number, _colon, rest = line.partition(":")
        controllers, _colon, path = rest.partition(":")
        # Version 2, or the hierarchy that systemd keeps for itself in version 1.
        if (number == "0" or controllers == "name=systemd") and not found:
            parts = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
            # The outermost service: a container's own systemd has units too.
            found = parts[0] if parts and parts[0].endswith(".service") else (parts[-1] if parts else "")
    return untrusted.clean(found, 100)


def describe(root: Path, pid: int) -> str:
    """For example "nginx (process 123, nginx.service)"."""
    try:
        name = Path(f"{root}/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace")
    except OSError:
        name = ""
    unit = unit_of(root, pid)
    # Programs choose their own names.
    return f"{untrusted.clean(name, 40) or 'a program'} (process {pid}{f', {unit}' if unit else ''})"
