# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file on the controller that is to be copied: read once, then known until it changes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from typing import Callable

from ansible import constants
from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import (
    FileIndex,
    Known,
    identity,
    measure,
)
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._patience import GivenUp

BLOCK = 1024 * 1024


class SourceChanged(Exception):
    """The file is not the one any more that the copy was begun with."""


class Source:
    """A file as it is now; each use of it finds out whether it still is."""

    def __init__(self, path: str) -> None:
        self.path = path
        if not os.path.isfile(path):
            raise GivenUp(f"src {path} is not a file on the controller: give the path of one.")
        self._identity = identity(path)
        self.known: Known | None = None

    @property
    def size(self) -> int:
        return self._identity[2] if self._identity else 0

    def read(self, remember: bool, tick: Callable[[int], None]) -> Known:
        """SHA-256 and checksums, from memory where the file is known; tick(bytes) while it is read."""
        folder = os.path.join(constants.config.get_config_value("ANSIBLE_HOME"), "secondhand.diffusion")
        index = FileIndex(os.path.join(folder, "files.sqlite3"), read_only=not remember)
        known = index.lookup(self.path)
        if known is None and remember:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            # With many hosts, one worker reads the file and the others wait.
            name = hashlib.sha256(os.fsencode(os.path.abspath(self.path))).hexdigest()[:16]
            with open(os.path.join(folder, f"{name}.lock"), "w", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                known = index.lookup(self.path) or self._measure(tick)
                self.check()
                index.remember(self.path, known)
        elif known is None:
            known = self._measure(tick)
        self.check()
        self.known = known
        return known

    def _measure(self, tick: Callable[[int], None]) -> Known:
        try:
            return measure(self.path, tick=tick)
        except OSError as exc:
            raise GivenUp(
                f"src {self.path} cannot be read on the controller ({exc.strerror}): run as a user who may, or look at"
                " the disk."
            ) from exc

    def check(self) -> None:
        if identity(self.path) != self._identity:
            raise SourceChanged

    def cut(self, offset: int, size: int, target: str) -> int:
        """Writes a piece into a file of its own, and gives its CRC-32."""
        crc = 0
        try:
            with open(self.path, "rb", buffering=0) as file, open(target, "wb") as piece:
                file.seek(offset)
                while size and (block := file.read(min(BLOCK, size))):
                    crc = zlib.crc32(block, crc)
                    piece.write(block)
                    size -= len(block)
        except FileNotFoundError as exc:
            raise SourceChanged from exc
        self.check()
        return crc
