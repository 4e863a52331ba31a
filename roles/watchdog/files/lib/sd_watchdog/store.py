# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON files that a power cut leaves whole, and that nobody can make the reader wait for."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 65536


def read(path: Path, max_bytes: int = MOST_BYTES) -> dict[str, Any] | None:
    """What the file holds; None when it is missing, or is no JSON object and so laid aside once as PATH.damaged."""
    try:
        data = _bytes(path, max_bytes)
    except OSError:
        return None
    try:
        content = json.loads(data) if data is not None else None
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    damaged = f"{os.fspath(path)}.damaged"
    # The first one shows what happened; in another's folder it stays where it is.
    if not os.path.lexists(damaged):
        with contextlib.suppress(OSError):
            os.rename(path, damaged)
    return None


def _bytes(path: Path, most: int) -> bytes | None:
    """The file's bytes, None when it is longer or no regular file: no link is followed, no pipe is waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        if os.path.islink(path):
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = b""
        while len(data) <= most:
            part = os.read(descriptor, most + 1 - len(data))
            if not part:
                return data
            data += part
        return None
    finally:
        os.close(descriptor)


def write(path: Path, content: dict[str, Any], mode: int = 0o644) -> None:
    """Put the whole content in the place of the old one; raises OSError, and the old one is still there."""
    part = f"{os.fspath(path)}.part"
    data = json.dumps(content).encode() + b"\n"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(descriptor, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
