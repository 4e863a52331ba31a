# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for what a test has set going."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# Seconds that anything may take on the slowest machine; what is tested is that it happens.
PATIENCE = 300


def wait_for(question: Callable[[], Any]) -> Any:
    """The first answer that is not empty."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return answer
