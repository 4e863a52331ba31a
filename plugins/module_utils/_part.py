# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file that is not complete yet, and the journal of its finished pieces. Private to this collection.

``model.safetensors.part`` holds the bytes, each at its place. ``model.safetensors.part.journal`` holds a line of JSON
for each piece that is complete, with its CRC-32. A process that is killed, or a PC that loses its power, leaves both,
and the next run goes on from there: a piece whose CRC-32 does not fit, because it never reached the disk, is fetched
again.
CRC-32 is there to find accidents only, at a seventh of the cost of a cryptographic hash; the file's SHA-256 decides.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any, Callable

from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError

SCHEMA = 1
MIB = 1024 * 1024
# Pieces of a file, in bytes: large enough that a request for each costs little, small enough to lose one.
SMALLEST_PIECE = 8 * MIB
LARGEST_PIECE = 32 * MIB
# For each connection, where the limits allow it: a server that is far away answers each of them late.
PIECES_EACH = 4
# Their size is a multiple of this.
GRAIN = 64 * 1024
BLOCK = MIB
# Seconds without a sign of life after which another run's lock is no reason to wait any longer.
PATIENCE = 900.0


def piece_size_for(size: int, connections: int) -> int:
    """Bytes of a piece, so that all connections get equally many: else most of them wait for the last few pieces."""
    connections = max(1, connections)
    fewest, most = -(-size // (connections * LARGEST_PIECE)), size // (connections * SMALLEST_PIECE)
    each = max(1, fewest, min(PIECES_EACH, most))
    even = -(-size // (connections * each))
    return max(SMALLEST_PIECE, -(-even // GRAIN) * GRAIN)


class Part:
    """The .part file of a download, locked. Writing may happen from several threads."""

    def __init__(self, final: str, descriptor: int) -> None:
        self.final = final
        self.path = f"{final}.part"
        self.journal_path = f"{final}.part.journal"
        self.fd = descriptor
        self.size = 0
        self.piece_size = SMALLEST_PIECE
        # What the journal's head says about where the bytes are from.
        self.identity: dict[str, Any] = {}
        # Finished pieces and their CRC-32.
        self.pieces: dict[int, int] = {}
        self._journal = -1
        self._lock = threading.Lock()
        # Linux lets one thread at a time write to a file; those that wait in here do not burn a processor meanwhile.
        self._writing = threading.Lock()

    @classmethod
    def open(cls, final: str, waiting: Callable[[int, int], None] | None = None) -> Part:
        """Takes the lock; while another process has it, calls waiting(bytes done, bytes in all) each second."""
        path = f"{final}.part"
        seen, since = "", time.monotonic()
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as exc:
                raise DownloadError(f"{path} cannot be written ({exc.strerror}): {remedy(exc)}.") from exc
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            except OSError as exc:
                os.close(descriptor)
                raise DownloadError(f"{path} cannot be locked ({exc.strerror}): use another file system.") from exc
            else:
                # The one who had the lock may have given the file its final name meanwhile.
                if _is_same(descriptor, path):
                    part = cls(final, descriptor)
                    part._claim()
                    return part
                os.close(descriptor)
                continue
            done, size, state = _sign_of_life(final)
            if state != seen:
                seen, since = state, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise DownloadError(
                    f"Another process holds {path} and has done nothing for {PATIENCE:.0f} s:"
                    f" find it with 'fuser {path}', end it, and run again."
                )
            if waiting:
                waiting(done, size)
            time.sleep(1)

    def _claim(self) -> None:
        """Refuses a file that somebody else calls .part, and reads the journal of one that is ours."""
        length = os.fstat(self.fd).st_size
        if length and not os.path.exists(self.journal_path):
            os.close(self.fd)
            raise DownloadError(f"{self.path} was not made by this module: move it away, and run again.")
        lines = _journal_lines(self.journal_path) if length else iter(())
        head = next(lines, None)
        if not isinstance(head, dict) or head.get("schema") != SCHEMA:
            return
        try:
            self.size, self.piece_size = int(head["size"]), max(1, int(head["piece_size"]))
            self.identity = dict(head["identity"])
            for line in lines:
                if line[0] == "piece":
                    self.pieces[int(line[1])] = int(line[2])
                elif line[0] == "drop":
                    self.pieces.pop(int(line[1]), None)
                else:
                    self.identity.update(line[1])
        except (KeyError, TypeError, ValueError, IndexError):
            self.pieces.clear()
        self.pieces = {index: crc for index, crc in self.pieces.items() if 0 <= index < self.count}

    @property
    def count(self) -> int:
        """How many pieces there are in all."""
        return -(-self.size // self.piece_size)

    def span(self, index: int) -> tuple[int, int]:
        """First byte of a piece and the one after its last."""
        return index * self.piece_size, min(self.size, (index + 1) * self.piece_size)

    @property
    def done_bytes(self) -> int:
        return sum(end - start for start, end in map(self.span, self.pieces))

    def begin(self, size: int, piece_size: int, identity: dict[str, Any], keep: bool) -> None:
        """Goes on with the pieces that are there, or without them; from here on they are of this identity."""
        with _telling(self.path):
            if keep and self.size == size and self.pieces:
                identity = {**self.identity, **identity}
            else:
                self.size, self.piece_size, self.pieces = size, piece_size, {}
                os.ftruncate(self.fd, 0)
            self.identity = identity
            # While the file is empty, because one that is not and has no journal counts as somebody else's.
            self._rewrite_journal()
            os.ftruncate(self.fd, size)

    def _rewrite_journal(self) -> None:
        """The journal anew, and on the disk before the first byte: else a power cut could leave a file without one."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
        head = {"schema": SCHEMA, "size": self.size, "piece_size": self.piece_size, "identity": self.identity}
        lines = [head, *(["piece", index, crc] for index, crc in sorted(self.pieces.items()))]
        temporary = f"{self.journal_path}.new"
        self._journal = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            os.write(self._journal, "".join(json.dumps(line) + "\n" for line in lines).encode("ascii"))
            os.fsync(self._journal)
            os.rename(temporary, self.journal_path)
        except OSError:
            os.unlink(temporary)
            raise
        sync_directory(self.final)

    def note(self, **identity: Any) -> None:
        """More about where the bytes are from."""
        with self._lock:
            self.identity.update(identity)
            self._append(["identity", identity])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            with self._writing:
                written = os.pwrite(self.fd, view, offset)
            view, offset = view[written:], offset + written

    def finish_piece(self, index: int, crc: int) -> None:
        """A piece is complete: the next run need not fetch it."""
        with self._lock:
            self.pieces[index] = crc
            self._append(["piece", index, crc])

    def drop_piece(self, index: int) -> None:
        """A piece turned out to be damaged."""
        with self._lock:
            if self.pieces.pop(index, None) is not None:
                self._append(["drop", index])

    def _append(self, line: list[Any]) -> None:
        # One write: a kill leaves a whole line or none, and a torn last line counts for nothing.
        with _telling(self.journal_path):
            os.write(self._journal, (json.dumps(line) + "\n").encode("ascii"))

    def blocks(self, index: int) -> Iterator[memoryview]:
        """The bytes of a piece, which most often are still in memory; each block holds until the next one."""
        buffer = memoryview(bytearray(BLOCK))
        offset, end = self.span(index)
        while offset < end:
            count = os.preadv(self.fd, [buffer[: min(BLOCK, end - offset)]], offset)
            if not count:
                return
            yield buffer[:count]
            offset += count

    def is_sound(self, index: int) -> bool:
        """Whether the bytes of a finished piece are those that were received."""
        crc = 0
        for block in self.blocks(index):
            crc = zlib.crc32(block, crc)
        return crc == self.pieces.get(index)

    def head(self, count: int) -> bytes:
        return os.pread(self.fd, count, 0)

    def save(self) -> None:
        """Has on the disk what is there by now. Whoever is told that it failed is the only one to be told."""
        with _telling(self.path):
            os.fdatasync(self.fd)

    def commit(self) -> None:
        """Gives the file its final name, once its bytes are on the disk."""
        with _telling(self.path):
            os.fsync(self.fd)
            if not _is_same(self.fd, self.path):
                raise DownloadError(f"Somebody has removed or replaced {self.path} meanwhile: run again.")
            os.rename(self.path, self.final)
            # Another process may have begun its own by now.
            if _is_same(self._journal, self.journal_path):
                os.unlink(self.journal_path)
            sync_directory(self.final)
        self.close()

    def discard(self) -> None:
        """Removes the file and its journal: there is nothing in them that a later run could use."""
        self.pieces.clear()
        self.close()

    def close(self) -> None:
        """Gives the lock back and leaves the files for the next run, unless it could not use anything in them."""
        if self.fd < 0:
            return
        if not self.pieces and _is_same(self.fd, self.path):
            for path in (self.path, self.journal_path):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        os.close(self.fd)
        self.fd = -1
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def sync_directory(path: str) -> None:
    """Has the names in a file's folder on the disk; some file systems cannot, and need not."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _telling(path: str) -> Iterator[None]:
    """Turns what the system says into a sentence."""
    try:
        yield
    except OSError as exc:
        raise DownloadError(f"{path} cannot be written ({exc.strerror}): {remedy(exc)}.") from exc


def _is_same(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _journal_lines(path: str) -> Iterator[Any]:
    try:
        with open(path, encoding="ascii", errors="replace") as journal:
            for line in journal:
                try:
                    yield json.loads(line)
                except ValueError:
                    # Torn: what follows it cannot be believed either.
                    return
    except FileNotFoundError:
        return


def _sign_of_life(final: str) -> tuple[int, int, str]:
    """Bytes done and in all by the journal of whoever has the lock, and a text that changes while it works."""
    done = size = piece_size = 0
    for line in _journal_lines(f"{final}.part.journal"):
        if isinstance(line, dict):
            size, piece_size = int(line.get("size", 0)), int(line.get("piece_size", 0))
        elif line[:1] == ["piece"]:
            done += piece_size
        elif line[:1] == ["drop"]:
            done -= piece_size
    try:
        status = os.stat(f"{final}.part")
        state = f"{done} {status.st_mtime_ns} {status.st_blocks}"
    except FileNotFoundError:
        state = ""
    return min(done, size), size, state


def remedy(error: OSError) -> str:
    return {
        errno.ENOENT: "make its folder first",
        errno.ENOTDIR: "correct dest, a part of it is a file",
        errno.EEXIST: "correct dest, a part of it is a file",
        errno.EACCES: "run as a user who may write there, for example with become",
        errno.EROFS: "the file system is mounted read-only; look into the kernel's log for the reason",
        errno.ENOSPC: "make room on that file system, and run again",
        errno.EDQUOT: "make room, this user may have no more there, and run again",
        errno.EFBIG: "its file system has no files of that size, as FAT32 above 4 GiB; use another one",
        errno.EIO: "look into the kernel's log, and at the disk",
        errno.EPERM: "see whether it is immutable or belongs to somebody else",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ELOOP: "a symbolic link has that name; remove it",
    }.get(error.errno or 0, "repair that, and run again")
