# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One picture at a time, in the order in which they were asked for; how many wait can be seen."""

from __future__ import annotations

import threading
from collections import deque


class FIFOLock:
    """As upstream's modules/fifo_lock.py."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inner_lock = threading.Lock()
        self._pending_threads: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._inner_lock:
            if self._lock.acquire(blocking=False):
                return
            turn = threading.Event()
            self._pending_threads.append(turn)
        turn.wait()
        # Handed over locked: nobody who comes now is first.

    def __exit__(self, *_error: object) -> None:
        with self._inner_lock:
            if self._pending_threads:
                self._pending_threads.popleft().set()
            else:
                self._lock.release()


queue_lock = FIFOLock()
