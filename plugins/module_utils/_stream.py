# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Receives a file from its beginning to its end, where parts cannot be asked for. Private to this collection."""

from __future__ import annotations

import contextlib
import http.client
import math
import threading
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import Known
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    EXPIRED,
    TRANSIENT,
    DownloadError,
    HttpError,
    Location,
    Source,
    error_body,
    redact,
    unreachable,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._part import MIB, SMALLEST_PIECE
from ansible_collections.secondhand.diffusion.plugins.module_utils._pieces import SMALLEST_BLOCK, Hashes, RateLimit, cut

with contextlib.suppress(ImportError):
    import requests
    import urllib3

if TYPE_CHECKING:
    from ansible_collections.secondhand.diffusion.plugins.module_utils._transfer import Transfer

# How often the room on the disk is looked at when it is not known how large the file is; in bytes.
LOOK = 64 * MIB


class Sink:
    """Writes blocks one after another, hashes them, and has the file judged by its first ones."""

    def __init__(self, transfer: Transfer, size: int | None) -> None:
        self._transfer = transfer
        self._size = size
        self._hashes = Hashes(size or 0, transfer.wanted.git_sha1 is not None and size is not None)
        self._pieces: list[int] = []
        self._crc = 0
        self._judged = False
        self.position = 0

    def take(self, block: bytes) -> None:
        self._transfer.write(self.position, block)
        self._hashes.update(block)
        left = memoryview(block)
        while left:
            taken = left[: SMALLEST_PIECE - self.position % SMALLEST_PIECE]
            self._crc = zlib.crc32(taken, self._crc)
            self.position += len(taken)
            left = left[len(taken) :]
            if self.position % SMALLEST_PIECE == 0:
                self._pieces.append(self._crc)
                self._crc = 0
        self._transfer.progress.add(len(block))
        if not self._judged and self.position >= 4096:
            self._judge(at_end=False)

    def _judge(self, at_end: bool) -> None:
        check, part = self._transfer.head_check, self._transfer.part
        needed = check.needed(part.head(min(self.position, 4096)))
        if at_end or self.position >= needed:
            size = self.position if at_end else self._size
            check.check(part.head(min(needed, self.position)), size)
            self._judged = True

    def end(self) -> Known:
        if not self._judged:
            self._judge(at_end=True)
        if self.position % SMALLEST_PIECE:
            self._pieces.append(self._crc)
        return Known(
            sha256=self._hashes.sha256.hexdigest(),
            size=self.position,
            git_sha1=self._hashes.git.hexdigest() if self._hashes.git and self._size is not None else None,
            piece_size=SMALLEST_PIECE,
            pieces=tuple(self._pieces),
        )


def stream(transfer: Transfer, source: Source, location: Location) -> tuple[Known, int]:
    """The file, and how many bytes came over the network for it; a cut connection means the beginning again."""
    failures = received = 0
    fresh = True
    while True:
        sink = Sink(transfer, transfer.wanted.size if location.size is None else location.size)
        problem: HttpError | None = None
        reason: Exception = ConnectionError("the connection was cut")
        looked = 0
        try:
            for block in _blocks(transfer, location):
                if location.size is None and sink.position >= looked:
                    # Nobody has said how much comes.
                    looked += LOOK
                    transfer.check_space(looked)
                sink.take(block)
            if location.size in (None, sink.position):
                return sink.end(), received + sink.position
        except HttpError as exc:
            problem = reason = exc
            if exc.status in EXPIRED and not fresh:
                location, fresh = transfer.client.locate(source), True
                continue
            if exc.status not in TRANSIENT:
                raise source.explain(exc) if source.explain else exc from exc
        except DownloadError:
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as exc:
            reason = exc
        received += sink.position
        failures += 1
        fresh = False
        if failures > transfer.limits.retries or not transfer.client.pause(failures, redact(location.url), problem):
            if problem:
                raise source.explain(problem) if source.explain else problem from problem
            raise unreachable(location.url, reason)
        transfer.part.begin(location.size or 0, SMALLEST_PIECE, transfer.part.identity, keep=False)
        transfer.progress.start(transfer.wanted.name, location.size)


def _blocks(transfer: Transfer, location: Location) -> Iterator[bytes]:
    rate = RateLimit(transfer.limits.rate)
    answer, _first = transfer.client.follow(location.url)
    with answer:
        if answer.status_code != 200:
            raise HttpError(answer.url, answer.status_code, answer.headers, error_body(answer))
        with _Watch(answer, transfer.limits.timeout) as watch:
            # Decoded: a server may compress even what it was asked not to. Small, so that a slow line is seen to live.
            for block in answer.iter_content(min(4 * SMALLEST_BLOCK, rate.block)):
                # A disk that is slow, or a limit, is no fault of the connection.
                watch.alive = math.inf
                yield block
                transfer.client.stopped.wait(rate.took(len(block)))
                watch.alive = time.monotonic()
        if watch.has_cut:
            # To a server that tells no length, the end of the connection is the end of the file.
            raise ConnectionError("nothing came any more")


class _Watch:
    """Cuts a connection from which a block takes too long, because it is silent or drips."""

    def __init__(self, answer: requests.Response, timeout: float) -> None:
        self.alive = time.monotonic()
        self.has_cut = False
        self._answer = answer
        self._timeout = timeout
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            if time.monotonic() - self.alive > self._timeout:
                self.has_cut = True
                cut(self._answer)
                return

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()


def copy_file(transfer: Transfer, path: str, size: int) -> Known:
    """From a file of this host. Raises OSError."""
    transfer.progress.start(transfer.wanted.name, size)
    sink = Sink(transfer, size)
    with open(path, "rb", buffering=0) as file:
        while block := file.read(MIB):
            sink.take(block)
    return sink.end()
