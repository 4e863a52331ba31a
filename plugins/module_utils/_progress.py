# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tells the action plugin, through a small file, how far a download is. Private to this collection."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque

# How often the file is written, and over which time the speed is taken; in seconds.
INTERVAL = 1.0
WINDOW = 20.0


class Progress:
    """How far one run of a module is; does nothing without a path. May be used from several threads."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._written = 0.0
        # Which of how many this is.
        self.file = 1
        self.files = 1
        self._name = ""
        self._state = "downloading"
        self._note = ""
        self._done = 0
        self._total: int | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def start(self, name: str, total: int | None, done: int = 0, state: str = "downloading") -> None:
        """Another file, or the same one from another beginning; sizes in bytes."""
        with self._lock:
            self._name, self._total, self._done = name, total, done
            self._state, self._note = state, ""
            self._samples.clear()
        self._write(now=True)

    def add(self, count: int) -> None:
        """So many bytes more."""
        with self._lock:
            self._done += count
            if count > 0 and self._state == "waiting":
                self._state, self._note = "downloading", ""
        self._write()

    def state(self, state: str, note: str = "") -> None:
        """What is done instead of receiving bytes, or downloading again."""
        with self._lock:
            if (state, note) == (self._state, self._note):
                return
            self._state, self._note = state, note
        self._write(now=True)

    def _write(self, now: bool = False) -> None:
        if self._path is None:
            return
        clock = time.monotonic()
        with self._lock:
            if not now and clock - self._written < INTERVAL:
                return
            self._written = clock
            self._samples.append((clock, self._done))
            while len(self._samples) > 2 and clock - self._samples[0][0] > WINDOW:
                self._samples.popleft()
            first, last = self._samples[0], self._samples[-1]
            rate = (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else 0.0
            left = None if self._total is None else max(0, self._total - self._done)
            text = json.dumps(
                {
                    "name": self._name,
                    "done": self._done,
                    "total": self._total,
                    "rate": round(max(0.0, rate)),
                    "eta": round(left / rate) if left is not None and rate > 0 else None,
                    "file": self.file,
                    "files": self.files,
                    "state": self._state,
                    "note": self._note,
                }
            )
            # Nobody's download shall fail because of this.
            with contextlib.suppress(OSError):
                temporary = f"{self._path}.new"
                with open(
                    os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
                ) as file:
                    file.write(text)
                os.replace(temporary, self._path)
