# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the web UI's user wrote, read by root: no link is followed, no pipe waited for, no terminal steered by it."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

MOST_BYTES = 65536


class Refused(Exception):
    """Such a file is not read; the message says why."""


def is_whole(value: Any) -> bool:
    """A whole number, and not the true or false that Python takes for one."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_object(path: str | os.PathLike[str], dir_fd: int | None = None, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a regular file; raises Refused, or FileNotFoundError."""
    # Opening a pipe would wait for its other end.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags, dir_fd=dir_fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        said = "it is a link" if error.errno == errno.ELOOP else f"it cannot be read ({error.strerror})"
        raise Refused(said) from None
    try:
        status = os.fstat(descriptor)
        # A second name may be that of a file which only root can read.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise Refused("it is no ordinary file")
        content = b""
        while len(content) <= most:
            part = os.read(descriptor, most + 1 - len(content))
            if not part:
                break
            content += part
    except OSError as error:
        raise Refused(f"it cannot be read ({error.strerror})") from None
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise Refused(f"it is larger than {most // 1024} KiB")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused("it is not JSON") from None
    if not isinstance(data, dict):
        raise Refused("it is no JSON object")
    return data


def clean(value: Any, most: int = 300) -> str:
    """Text in one line that a terminal or a mail header can be given; anything but text is none."""
    if not isinstance(value, str):
        return ""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in value[: 4 * most]).split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def clean_lines(value: Any, most: int = 2000) -> str:
    """The same for a text of several lines."""
    if not isinstance(value, str):
        return ""
    return "\n".join(clean(line, most) for line in value[:most].splitlines()).strip()
