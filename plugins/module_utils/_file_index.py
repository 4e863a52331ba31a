# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known about finished files, so that nobody has to read them again. Private to this collection.

A file is the one that was verified as long as device, inode, size and the time of its last change (in nanoseconds) are
the same. The index is a cache: without it, or when it cannot be written, files are simply read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.secondhand.diffusion.plugins.module_utils._part import SMALLEST_PIECE

SYSTEM_INDEX = "/var/lib/secondhand-diffusion/files.sqlite3"
USER_INDEX = "~/.local/state/secondhand.diffusion/files.sqlite3"
# Seconds to wait for another process that writes.
BUSY_TIMEOUT = 30.0
BLOCK = 1024 * 1024
# Files below this many bytes get their Git SHA-1 as well; hubs tell a SHA-256 for all that are larger than this.
GIT_LIMIT = 64 * 1024 * 1024
TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER,
    sha256 TEXT NOT NULL, git_sha1 TEXT, piece_size INTEGER, pieces TEXT, details TEXT);
CREATE INDEX IF NOT EXISTS files_by_sha256 ON files (sha256);
CREATE TABLE IF NOT EXISTS requests (key TEXT PRIMARY KEY, answer TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Known:
    """A file's content, as it was when the file was last read or received."""

    sha256: str
    size: int
    # SHA-1 of the file as a Git object, the only hash that hubs tell for small files.
    git_sha1: str | None = None
    piece_size: int = SMALLEST_PIECE
    # CRC-32 of each piece.
    pieces: tuple[int, ...] = ()
    # Format, base model, ETag: JSON only.
    details: dict[str, Any] | None = None


def default_path() -> str:
    return SYSTEM_INDEX if os.geteuid() == 0 else os.path.expanduser(USER_INDEX)


def identity(path: str) -> tuple[int, int, int, int] | None:
    """Device, inode, size and time of the last change; None when there is no such file."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def measure(path: str, piece_size: int = SMALLEST_PIECE, tick: Callable[[int], None] | None = None) -> Known:
    """Reads a whole file once and computes all that the index keeps; tick(bytes) after each block."""
    size = os.stat(path).st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    pieces: list[int] = []
    crc = filled = 0
    buffer = memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            block = buffer[:count]
            sha256.update(block)
            if size < GIT_LIMIT:
                git.update(block)
            while block:
                taken = block[: piece_size - filled]
                crc, filled, block = zlib.crc32(taken, crc), filled + len(taken), block[len(taken) :]
                if filled == piece_size:
                    pieces.append(crc)
                    crc = filled = 0
            if tick:
                tick(count)
    if filled:
        pieces.append(crc)
    return Known(
        sha256=sha256.hexdigest(),
        size=size,
        git_sha1=git.hexdigest() if size < GIT_LIMIT else None,
        piece_size=piece_size,
        pieces=tuple(pieces),
    )


def _is_still(path: str, seen: Sequence[int]) -> bool:
    """Whether the file is the one that was seen; one that cannot be looked at, by this user or now, is not."""
    try:
        return identity(path) == tuple(seen)
    except OSError:
        return False


class FileIndex:
    """The index; opened for each use, because a download takes hours and others want to write meanwhile."""

    def __init__(self, path: str | None, read_only: bool = False) -> None:
        self.path = path or default_path()
        self._read_only = read_only
        # Why nothing is remembered, for a warning.
        self.problem: str | None = None

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        if not self._read_only:
            os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
        target = f"file:{_quoted(self.path)}?mode={'ro' if self._read_only else 'rwc'}"
        database = sqlite3.connect(target, uri=True, timeout=BUSY_TIMEOUT)
        try:
            if not self._read_only:
                # What is downloaded is nobody else's business, and nobody else may vouch for a file.
                os.chmod(self.path, 0o600)
                database.executescript(TABLES)
            with database:
                yield database
        finally:
            database.close()

    def _ask(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if not os.path.exists(self.path):
            return []
        try:
            with self._database() as database:
                return database.execute(query, values).fetchall()
        except (sqlite3.Error, OSError) as exc:
            self._complain(exc)
            return []

    def _tell(self, query: str, values: tuple[Any, ...]) -> None:
        if self._read_only:
            return
        try:
            with self._database() as database:
                database.execute(query, values)
        except (sqlite3.Error, OSError) as exc:
            self._complain(exc)

    def _complain(self, error: Exception) -> None:
        self.problem = (
            f"The index {self.path} cannot be used ({error}), so files are read again at each run:"
            " make its folder writable, or remove the file if it is damaged."
        )

    # Files

    def lookup(self, path: str) -> Known | None:
        """What the file holds, if it is still the one that was verified."""
        now = identity(path)
        rows = self._ask(
            "SELECT device, inode, size, mtime_ns, sha256, git_sha1, piece_size, pieces, details FROM files"
            " WHERE path = ?",
            (os.path.abspath(path),),
        )
        if now is None or not rows or tuple(rows[0][:4]) != now:
            return None
        return _known(now[2], rows[0][4:])

    def last_known(self, path: str) -> Known | None:
        """What the file held when it was verified, whatever has become of it: its sound pieces can still be used."""
        rows = self._ask(
            "SELECT size, sha256, git_sha1, piece_size, pieces, details FROM files WHERE path = ?",
            (os.path.abspath(path),),
        )
        return _known(rows[0][0], rows[0][1:]) if rows else None

    def paths_with(self, sha256: str) -> list[str]:
        """Files that hold this content, as far as their identity tells."""
        rows = self._ask(
            "SELECT path, device, inode, size, mtime_ns FROM files WHERE sha256 = ? ORDER BY path", (sha256,)
        )
        return [row[0] for row in rows if _is_still(row[0], row[1:])]

    def remember(self, path: str, known: Known) -> None:
        """The file is there and holds this."""
        now = identity(path)
        if now is None or now[2] != known.size:
            return
        self._tell(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                os.path.abspath(path),
                *now,
                known.sha256,
                known.git_sha1,
                known.piece_size,
                json.dumps(known.pieces),
                json.dumps(known.details or {}),
            ),
        )

    def forget(self, path: str) -> None:
        self._tell("DELETE FROM files WHERE path = ?", (os.path.abspath(path),))

    # Requests

    def recall(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a request whose files are all as they were, without a question to anybody."""
        rows = self._ask("SELECT answer FROM requests WHERE key = ?", (_key(key),))
        if not rows:
            return None
        try:
            answer = json.loads(rows[0][0])
        except ValueError:
            return None
        for path, *seen in answer["files"]:
            if not _is_still(path, seen):
                return None
        result: dict[str, Any] = answer["result"]
        return result

    def answer(self, key: dict[str, Any], paths: list[str], result: dict[str, Any]) -> None:
        """Remembers what a request led to."""
        files = [[os.path.abspath(path), *(identity(path) or ())] for path in paths]
        self._tell(
            "INSERT OR REPLACE INTO requests VALUES (?, ?)", (_key(key), json.dumps({"files": files, "result": result}))
        )


def _known(size: int, row: tuple[Any, ...]) -> Known | None:
    sha256, git_sha1, piece_size, pieces, details = row
    try:
        return Known(sha256, size, git_sha1, piece_size, tuple(json.loads(pieces)), json.loads(details))
    except (TypeError, ValueError):
        # Damaged: the file is read again.
        return None


def _key(key: dict[str, Any]) -> str:
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
