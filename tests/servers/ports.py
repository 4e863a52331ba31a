# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for programs that a test starts."""

from __future__ import annotations

import socket


def hold(address: str = "127.0.0.1") -> socket.socket:
    """A port on which nobody listens, and which nobody else is given until this is closed.

    Whoever asks for SO_REUSEADDR, as Python's servers do, can listen on it meanwhile.
    """
    held = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((address, 0))
    return held


def number(held: socket.socket) -> int:
    """Which one it is."""
    return int(held.getsockname()[1])
