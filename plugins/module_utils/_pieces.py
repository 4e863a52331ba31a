# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetches a file in pieces over several connections and hashes it in the same pass. Private to this collection.

Connections take pieces in file order from one queue. The main thread follows the contiguous front, reading what was
just written from the page cache, so that the whole file is hashed the moment its last byte arrives, and a disk with
moving heads writes in order. On a resume it reads the pieces that are there, while the rest is being fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import GIT_LIMIT, Known
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    EXPIRED,
    TRANSIENT,
    DownloadError,
    HttpError,
    Location,
    Source,
    error_body,
    redact,
    strong,
    unreachable,
    version_of,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._part import MIB

with contextlib.suppress(ImportError):
    import requests
    import urllib3

if TYPE_CHECKING:
    from ansible_collections.secondhand.diffusion.plugins.module_utils._transfer import Transfer

# Bytes that are read at once: much where it flows, little where it drips, so that a stall is seen.
SMALLEST_BLOCK = 16 * 1024
LARGEST_BLOCK = MIB
# Bytes that arrive until the disk is told to begin; else all of them would have to be written at the end.
SAVED_AT_ONCE = 256 * MIB
# How often one request may lead to another address.
MAX_RELOCATIONS = 3


class Restart(Exception):
    """What is served now is not what the bytes at hand are from: they must not be joined."""

    def __init__(self, reason: str, in_parts: bool = True) -> None:
        super().__init__(reason)
        # Whether it makes sense to ask this server for parts again.
        self.in_parts = in_parts


class HeadCheck(Protocol):
    """Judges a file by its first bytes, before the other gigabytes."""

    def needed(self, head: bytes) -> int:
        """How many bytes from the start are needed."""

    def check(self, head: bytes, size: int | None) -> None:
        """Raises DownloadError or FormatError."""


@dataclass(frozen=True)
class Limits:
    connections: int = 8
    # Bytes per second of all connections together.
    rate: int | None = None
    # Seconds without a byte.
    timeout: float = 60
    # Failures of a connection in a row.
    retries: int = 5
    # Bytes that stay free on the disk.
    reserve: int = 512 * MIB


class Hashes:
    """SHA-256 of a file from its beginning, and its SHA-1 as a Git object where that is all a hub tells."""

    def __init__(self, size: int, git: bool) -> None:
        self.sha256 = hashlib.sha256()
        self.git = hashlib.sha1(b"blob %d\0" % size) if git or size < GIT_LIMIT else None

    def update(self, block: bytes | memoryview) -> None:
        self.sha256.update(block)
        if self.git:
            self.git.update(block)

    def copy(self) -> Hashes:
        other = Hashes.__new__(Hashes)
        other.sha256, other.git = self.sha256.copy(), self.git.copy() if self.git else None
        return other


class RateLimit:
    """So many bytes per second for all connections together."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._next = 0.0

    def took(self, count: int) -> float:
        """Seconds to wait after so many bytes."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + count / self._rate
            return self._next - now

    @property
    def block(self) -> int:
        """A tenth of a second's worth, so that a slow limit is a steady one."""
        return LARGEST_BLOCK if not self._rate else max(1024, min(LARGEST_BLOCK, self._rate // 10))


@dataclass
class _Connection:
    answer: Any
    # When it last received something.
    alive: float


class Pieces:
    """One run over all missing pieces of a file."""

    def __init__(self, transfer: Transfer, source: Source, location: Location) -> None:
        self.transfer = transfer
        self.part = transfer.part
        self.client = transfer.client
        self.limits = transfer.limits
        self.source = source
        self.location = location
        # Bytes from the network, and bytes of earlier tries that turned out to be damaged.
        self.received = 0
        self.damaged = 0
        # Behind a mirror there is another source.
        self._retries = 1 if source.mirror else transfer.limits.retries
        self._rate = RateLimit(transfer.limits.rate)
        self._changed = threading.Condition()
        self._relocating = threading.Lock()
        self._todo = [index for index in range(self.part.count) if index not in self.part.pieces]
        self._unread = set(self.part.pieces)
        # Bytes of pieces that are not complete.
        self._partial: dict[int, int] = {}
        self._active = 0
        # Bytes that nobody has told the disk to write.
        self._unsaved = 0
        self._finished = False
        self._failure: BaseException | None = None
        # Pieces that may be fetched: at first those with the bytes by which the file is judged.
        self._gate = 1
        self._judging = threading.Lock()
        self._judged = False
        self._open: dict[int, _Connection] = {}

    def run(self) -> Known:
        """Raises DownloadError or Restart; the part keeps the pieces that are complete."""
        count = max(1, min(self.limits.connections, len(self._todo)))
        threads = [
            threading.Thread(target=self._work, name=f"connection {number}", daemon=True) for number in range(count)
        ]
        threads.append(threading.Thread(target=self._save, name="disk", daemon=True))
        self._active = count
        try:
            for thread in threads:
                thread.start()
            known = self._hash()
        except BaseException as exc:
            self._fail(exc)
            raise
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()
            self.client.stopped.set()
            self._cut_all()
            for thread in threads:
                # The last ones have not begun when the system refused one.
                if thread.ident is not None:
                    thread.join()
            self.client.stopped.clear()
        if self._failure is not None:
            # Of the disk: the system tells this once, and the commit would find nothing wrong.
            raise self._failure
        return known

    # The main thread: hashing, and looking after the connections

    def _hash(self) -> Known:
        hashes = Hashes(self.part.size, self.transfer.wanted.git_sha1 is not None)
        for index in range(self.part.count):
            while True:
                self._await(index)
                ahead = hashes.copy()
                crc = 0
                check = index in self._unread
                # What the disk does not give back of an earlier try is damage like any other.
                with contextlib.suppress(*([OSError] if check else [])):
                    for block in self.part.blocks(index):
                        ahead.update(block)
                        if check:
                            crc = zlib.crc32(block, crc)
                if not check:
                    break
                if crc == self.part.pieces[index]:
                    self._is_read(index)
                    break
                self._fetch_again(index)
            hashes = ahead
        return Known(
            sha256=hashes.sha256.hexdigest(),
            size=self.part.size,
            git_sha1=hashes.git.hexdigest() if hashes.git else None,
            piece_size=self.part.piece_size,
            pieces=tuple(self.part.pieces[index] for index in range(self.part.count)),
        )

    def _await(self, index: int) -> None:
        """Until the piece is complete; meanwhile, sees to connections from which nothing comes."""
        with self._changed:
            while index not in self.part.pieces and self._failure is None:
                self._changed.wait(0.5)
                self._cut_stalled()
            if self._failure is not None:
                raise self._failure

    def _is_read(self, index: int) -> None:
        """A piece of an earlier try is sound."""
        with self._changed:
            self._unread.discard(index)
        if not self._judged:
            self._look_at_head()

    def _fetch_again(self, index: int) -> None:
        start, end = self.part.span(index)
        with self._changed:
            self.damaged += end - start
            self.part.drop_piece(index)
            self._unread.discard(index)
            self._todo.insert(0, index)
            self.transfer.progress.add(start - end)
            self._changed.notify_all()

    def _cut_stalled(self) -> None:
        late = time.monotonic() - self.limits.timeout
        for connection in list(self._open.values()):
            if connection.alive < late:
                connection.alive = time.monotonic()
                cut(connection.answer)

    def _cut_all(self) -> None:
        with self._changed:
            for connection in self._open.values():
                cut(connection.answer)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()
        self.client.stopped.set()

    # The disk

    def _save(self) -> None:
        """Has the disk write what has arrived, while the rest is on its way."""
        try:
            while True:
                with self._changed:
                    while self._unsaved < SAVED_AT_ONCE and not self._finished and self._failure is None:
                        self._changed.wait()
                    if self._finished or self._failure is not None:
                        return
                    self._unsaved = 0
                self.part.save()
        except BaseException as exc:
            self._fail(exc)

    # The first bytes

    def _look_at_head(self, wait: bool = True) -> None:
        """Judges the file as soon as enough of its beginning is there, and then lets all connections loose.

        Whoever has completed a piece waits: another one may be looking at what was there before.
        """
        if not self._judging.acquire(blocking=wait):
            return
        try:
            if self._judged:
                return
            check, size = self.transfer.head_check, self.part.size
            front = self._front()
            head = self.part.head(min(front, 4096))
            needed = min(size, check.needed(head)) if len(head) >= min(size, 4096) else min(size, 4096)
            if front < needed:
                with self._changed:
                    self._gate = max(self._gate, -(-needed // self.part.piece_size))
                    self._changed.notify_all()
                return
            check.check(self.part.head(needed), size)
            self._judged = True
            with self._changed:
                self._gate = self.part.count
                self._changed.notify_all()
        finally:
            self._judging.release()

    def _front(self) -> int:
        """How many bytes from the start are there without a gap."""
        with self._changed:
            for index in range(self.part.count):
                # What an earlier try has left may be damaged, and would be judged as what the server sends.
                if index not in self.part.pieces or index in self._unread:
                    return index * self.part.piece_size + self._partial.get(index, 0)
        return self.part.size

    # The connections

    def _work(self) -> None:
        try:
            while (index := self._take()) is not None and self._fetch(index):
                pass
        except BaseException as exc:
            self._fail(exc)

    def _take(self) -> int | None:
        """The next piece in file order; None when there is nothing left to do."""
        with self._changed:
            while not self._finished and self._failure is None:
                if self._todo and self._todo[0] < self._gate:
                    return self._todo.pop(0)
                self._changed.wait()
        return None

    def _give_back(self, index: int) -> bool:
        """Leaves the piece to the other connections, if there are any: some servers refuse a client's many."""
        with self._changed:
            if self._active < 2:
                return False
            self._active -= 1
            self._todo.append(index)
            self._todo.sort()
            self.transfer.progress.add(-self._partial.pop(index, 0))
            self._changed.notify_all()
            return True

    def _fetch(self, index: int) -> bool:
        """One piece, over as many connections as it takes; False when this connection is one too many."""
        position, end = self.part.span(index)
        start, crc, failures, seen = position, 0, 0, self.received
        while position < end:
            problem: HttpError | None = None
            reason: Exception
            before = position
            try:
                for block in self._read(position, end):
                    self.transfer.write(position, block)
                    crc = zlib.crc32(block, crc)
                    position += len(block)
                    self._arrived(index, position - start, len(block))
                reason = ConnectionError("the connection was cut")
            except HttpError as exc:
                problem = reason = exc
                if exc.status not in TRANSIENT:
                    # Some servers refuse a client's many connections in the words for an address that has expired.
                    if exc.status in EXPIRED and self._give_back(index):
                        return False
                    raise self._explained(exc) from exc
            except DownloadError:
                raise
            except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as exc:
                reason = exc
            if self.client.stopped.is_set():
                return False
            if position - before >= MIB:
                # Some servers send no more than so much at once, or cut every connection after a while.
                failures = 0
            elif position < end:
                failures = 1 if position > before else failures + 1
                # While others receive something, this one is too many; in an outage all of them wait.
                if failures > 1 and self.received > seen and self._give_back(index):
                    return False
                seen = self.received
                if failures > self._retries or not self.client.pause(failures, redact(self.location.url), problem):
                    raise self._explained(problem) if problem else unreachable(self.location.url, reason)
        with self._changed:
            self._partial.pop(index, None)
            self.part.finish_piece(index, crc)
            self._unsaved += end - start
            self._changed.notify_all()
        if not self._judged:
            self._look_at_head()
        return True

    def _explained(self, error: HttpError) -> DownloadError:
        return self.source.explain(error) if self.source.explain else error

    def _arrived(self, index: int, partial: int, count: int) -> None:
        with self._changed:
            self._partial[index] = partial
            self.received += count
        self.transfer.progress.add(count)
        if not self._judged:
            self._look_at_head(wait=False)

    def _read(self, position: int, end: int) -> Iterator[bytes]:
        """The bytes of one answer, which may end too early."""
        answer = self._request(position, end)
        connection = _Connection(answer, time.monotonic())
        with self._changed:
            # Whoever ends all connections has set this before, or finds this one.
            if self.client.stopped.is_set():
                answer.close()
                return
            self._open[id(connection)] = connection
        try:
            size = min(SMALLEST_BLOCK * 4, self._rate.block)
            while position < end:
                asked = time.monotonic()
                block: bytes = answer.raw.read(min(size, end - position), decode_content=False)
                now = time.monotonic()
                if not block:
                    return
                connection.alive = now
                position += len(block)
                yield block
                if now - asked < 0.05:
                    size = min(size * 2, self._rate.block)
                elif now - asked > 1:
                    size = max(size // 2, min(SMALLEST_BLOCK, self._rate.block))
                wait = self._rate.took(len(block))
                if wait > 0 and self.client.stopped.wait(wait):
                    return
                connection.alive = time.monotonic()
        finally:
            with self._changed:
                del self._open[id(connection)]
            # Only what was read to its end can be used again.
            if position < end:
                answer.close()
            else:
                answer.raw.release_conn()

    def _request(self, position: int, end: int) -> requests.Response:
        """An answer with these bytes. Raises Restart when what is served has changed, HttpError for other answers."""
        relocations = 0
        while True:
            location = self.location
            answer, _first = self.client.follow(location.url, {"Range": f"bytes={position}-{end - 1}"})
            if answer.status_code == 206:
                self._check_same(answer, position, location)
                return answer
            if answer.status_code == 200:
                answer.close()
                raise Restart("the server sent the whole file instead of a part", in_parts=False)
            if answer.status_code == 416:
                answer.close()
                raise Restart("the server no longer has these bytes")
            error = HttpError(answer.url, answer.status_code, answer.headers, error_body(answer))
            if error.status not in EXPIRED or relocations == MAX_RELOCATIONS:
                raise error
            relocations += 1
            self._relocate(location)

    def _check_same(self, answer: requests.Response, position: int, location: Location) -> None:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            answer.close()
            raise Restart("the server packs the parts that it sends", in_parts=False)
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
        # With a SHA-256 at the end, a date is no reason: servers behind one name have different ones.
        pinned = self.transfer.wanted.sha256 is not None
        now = strong(answer.headers.get("ETag")) if pinned else version_of(answer.headers)
        before = location.etag if pinned else location.version
        problem = ""
        if not found or int(found[1]) != position:
            problem = "the server sent other bytes than it was asked for"
        elif found[3] not in ("*", str(self.part.size)):
            problem = f"the file has {found[3]} bytes now instead of {self.part.size}"
        elif now and before and now != before:
            problem = "the file was changed on the server in the middle of the download"
        if problem:
            answer.close()
            raise Restart(problem)

    def _relocate(self, expired: Location) -> None:
        """Asks the source for a new address of the same file, unless another connection has done so."""
        with self._relocating:
            if self.location is not expired:
                return
            new = self.client.locate(self.source)
            if new.size != self.part.size or not new.ranges:
                raise Restart("the file has another size now")
            pinned = self.transfer.wanted.sha256 is not None
            before, now = (expired.etag, new.etag) if pinned else (expired.version, new.version)
            # Another storage host has ETags of its own; there the SHA-256 decides.
            if before and now != before and not (pinned and new.host != expired.host):
                raise Restart("the file was changed on the server in the middle of the download")
            self.location = new
            if new.etag:
                self.part.note(etags={**self.part.identity.get("etags", {}), new.host: new.etag})


def cut(answer: requests.Response) -> None:
    """Ends the wait of another thread that reads from this answer."""
    with (
        contextlib.suppress(OSError, ValueError, AttributeError),
        socket.socket(fileno=os.dup(answer.raw.fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)
