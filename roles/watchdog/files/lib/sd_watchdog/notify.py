# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service manager is told (sd_notify): nothing that goes wrong here may end the supervisor."""

from __future__ import annotations

import os
import socket

# A service manager that takes nothing for so long is not waited for.
SEND_SECONDS = 1.0


def notify(*lines: str) -> None:
    """Send assignments; silent without a service manager."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    # The null byte is what the kernel has for the @ of an abstract name.
    name = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream:
            stream.settimeout(SEND_SECONDS)
            stream.connect(name)
            stream.sendall("\n".join(lines).encode("utf-8", "replace"))
    except OSError:
        return


def ready() -> None:
    """The engine answers."""
    notify("READY=1")


def status(text: str) -> None:
    """What systemctl status shows."""
    notify("STATUS=" + " ".join(text.split()))


def watchdog() -> None:
    """The loop is sound."""
    notify("WATCHDOG=1")


def extend(seconds: float) -> None:
    """A start or a stop may take so much longer, counted from now."""
    notify(f"EXTEND_TIMEOUT_USEC={max(1, round(seconds * 1_000_000))}")


def stopping() -> None:
    """The end has begun."""
    notify("STOPPING=1")
