# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brings one file: from which source, what may be kept of an earlier try, and whether the result is what was wanted.

The bytes themselves come through _pieces.py, or through _stream.py where a server cannot send parts of a file.
Private to this collection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Callable
from urllib.parse import quote, unquote, urlsplit

from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import Known, measure
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    Client,
    DownloadError,
    HttpError,
    Location,
    Refused,
    Source,
    origin,
    redact,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._model_format import FormatError
from ansible_collections.secondhand.diffusion.plugins.module_utils._part import (
    MIB,
    SMALLEST_PIECE,
    Part,
    piece_size_for,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._pieces import (
    HeadCheck,
    Limits,
    Pieces,
    Restart,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._progress import Progress
from ansible_collections.secondhand.diffusion.plugins.module_utils._stream import copy_file, stream

# How often the same source may turn out to serve another file than a moment ago.
MAX_RESTARTS = 3


@dataclass(frozen=True)
class Wanted:
    """A file that somebody wants."""

    path: str
    # In the order in which they are tried.
    sources: tuple[Source, ...]
    # 64 lower-case hex digits.
    sha256: str | None = None
    # SHA-1 as a Git object, the only hash that Hugging Face tells for small files.
    git_sha1: str | None = None
    # Bytes, where the hub says it exactly.
    size: int | None = None

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


class WrongFile(DownloadError):
    """The hub itself serves another file than it promised, which another address of the same hub would not change."""


@dataclass(frozen=True)
class Outcome:
    known: Known
    downloaded_bytes: int
    # What was there already, from an earlier try or from a damaged file.
    resumed_bytes: int
    seconds: float
    # Redacted.
    source: str


class Transfer:
    """One file on its way; the caller holds the lock on its .part file."""

    def __init__(
        self,
        wanted: Wanted,
        part: Part,
        client: Callable[[], Client],
        limits: Limits,
        progress: Progress,
        head_check: HeadCheck,
        warn: Callable[[str], None],
    ) -> None:
        self.wanted = wanted
        self.part = part
        self._client = client
        self.limits = limits
        self.progress = progress
        self.head_check = head_check
        self._warn = warn
        self.downloaded = 0
        self.resumed = 0
        self._clean = False
        self._in_parts = True
        self._only_hub = False
        self._damaged = False

    @property
    def client(self) -> Client:
        """Made when somebody is to be asked, which a copy within the host needs not."""
        return self._client()

    def run(self) -> Outcome:
        """Raises DownloadError; then the .part file keeps what can be used later."""
        started = time.monotonic()
        source, known = self._try_sources()
        return Outcome(
            known=known,
            downloaded_bytes=self.downloaded,
            resumed_bytes=min(self.resumed, known.size),
            seconds=round(time.monotonic() - started, 3),
            source=redact(source.url),
        )

    def _try_sources(self) -> tuple[Source, Known]:
        sources = [source for source in self.wanted.sources if self.wanted.sha256 or not source.mirror]
        for number, source in enumerate(sources, 1):
            if self._only_hub and source.mirror:
                continue
            try:
                return source, self._from(source)
            except FormatError as exc:
                if not source.mirror or number == len(sources):
                    raise
                # A page that says that there is no such file, or a pointer of Git LFS.
                self._clean = True
                self._warn(f"{redact(source.url)}: {exc} Tried the next source.")
            except DownloadError as exc:
                if number == len(sources) or isinstance(exc, (Refused, WrongFile)):
                    raise
                if source.mirror and isinstance(exc, HttpError) and exc.status == 404:
                    # That a neighbour does not have a file is no news.
                    continue
                self._warn(f"{exc} Tried the next source.")
        raise DownloadError(f"There is no source for {self.wanted.name}: give one.")

    def _from(self, source: Source) -> Known:
        self._in_parts = True
        for _attempt in range(MAX_RESTARTS):
            try:
                known = self._bring(source)
            except Restart as restart:
                self._warn(f"{redact(source.url)}: {restart}; began again.")
                self._clean, self._in_parts, self.resumed = True, restart.in_parts, 0
                continue
            if self._is_wanted(known):
                return known
            self._judge_mismatch(source, known)
        raise DownloadError(
            f"{redact(source.url)} changed what it serves {MAX_RESTARTS} times in a row:"
            " try again later, or use another source."
        )

    def _bring(self, source: Source) -> Known:
        local = _local_path(source.url)
        if local is not None:
            return self._copy(source, local)
        location = self.client.locate(source)
        if self.wanted.size is not None and location.size not in (None, self.wanted.size):
            raise DownloadError(
                f"{redact(source.url)} offers {location.size} bytes where {self.wanted.size} were promised:"
                " try again later, or use another source."
            )
        in_parts = bool(location.size) and location.ranges and self._in_parts
        if source.mirror and self._is_begun() and not (in_parts and location.size == self.part.size):
            raise DownloadError(f"{redact(source.url)} cannot go on with what {self.part.path} has already.")
        if not in_parts:
            self.check_space(location.size or 0)
            self._begin(location, keep=False)
            return self._count(stream(self, source, location))
        self.check_space(location.size or 0)
        self._begin(location, keep=not self._clean and self._may_keep(location))
        self._clean = False
        self.resumed = self.part.done_bytes
        if source.mirror:
            self.part.note(mirror=True)
        pieces = Pieces(self, source, location)
        try:
            return pieces.run()
        finally:
            self.downloaded += pieces.received
            self.resumed -= pieces.damaged

    def _count(self, result: tuple[Known, int]) -> Known:
        self.downloaded += result[1]
        return result[0]

    def _copy(self, source: Source, path: str) -> Known:
        """From a folder of this host, such as a mounted disk; nothing crosses the network."""
        try:
            size = os.stat(path).st_size
            if self.wanted.size not in (None, size) or (
                # What was begun is given up only for a file that is known to be the right one.
                source.mirror and self._is_begun() and measure(path).sha256 != self.wanted.sha256
            ):
                raise DownloadError(f"{path} is another file than the one with this SHA-256.")
            self.check_space(size)
            self.part.begin(0, SMALLEST_PIECE, {}, keep=False)
            self.resumed = 0
            return copy_file(self, path, size)
        except OSError as exc:
            raise DownloadError(
                f"{path} cannot be read ({exc.strerror}): correct the path, or mount the disk."
            ) from exc

    def seed(self, path: str, known: Known) -> None:
        """Takes over what is sound in a damaged file whose pieces are known, so that only the damage is fetched."""
        if self.part.pieces or not known.pieces or os.stat(path).st_size != known.size:
            return
        self.check_space(known.size)
        self.progress.start(self.wanted.name, known.size, state="checking")
        self.part.begin(known.size, known.piece_size, {"sha256": known.sha256}, keep=False)
        with open(path, "rb", buffering=0) as file:
            for index, wanted in enumerate(known.pieces):
                offset, end = self.part.span(index)
                crc = 0
                with contextlib.suppress(OSError):
                    # What the disk no longer gives is damage like any other.
                    while offset < end and (block := os.pread(file.fileno(), min(MIB, end - offset), offset)):
                        self.write(offset, block)
                        self.progress.add(len(block))
                        crc = zlib.crc32(block, crc)
                        offset += len(block)
                if offset == end and crc == wanted:
                    self.part.finish_piece(index, crc)

    # What may be kept

    def _begin(self, location: Location, keep: bool) -> None:
        size = location.size or 0
        etags = dict(self.part.identity.get("etags", {})) if keep else {}
        if location.etag:
            etags[location.host] = location.etag
        identity: dict[str, Any] = {"sha256": self.wanted.sha256, "git_sha1": self.wanted.git_sha1, "etags": etags}
        self.part.begin(size, piece_size_for(size, self.limits.connections), identity, keep)
        self.progress.start(self.wanted.name, location.size, self.part.done_bytes)

    def _is_begun(self) -> bool:
        return bool(self.part.pieces) and self.part.identity.get("sha256") == self.wanted.sha256

    def _may_keep(self, location: Location) -> bool:
        """Whether the pieces at hand and what is served now are the same file, as far as can be known beforehand."""
        old = self.part.identity
        if self.part.size != location.size:
            return False
        seen = old.get("etags", {}).get(location.host)
        if seen and location.etag and seen != location.etag:
            return False
        if old.get("actual"):
            # It was complete, and not what was wanted then; the wish may have been the mistake.
            return bool(old["actual"] == self.wanted.sha256)
        if self.wanted.sha256 and old.get("sha256") == self.wanted.sha256:
            return True
        return bool(seen) and seen == location.etag

    # What came

    def _is_wanted(self, known: Known) -> bool:
        if self.wanted.sha256:
            return known.sha256 == self.wanted.sha256
        return self.wanted.git_sha1 is None or known.git_sha1 == self.wanted.git_sha1

    def _judge_mismatch(self, source: Source, known: Known) -> None:
        """Returns when another try makes sense, and raises DownloadError otherwise."""
        damaged = [index for index in sorted(self.part.pieces) if not self.part.is_sound(index)]
        if damaged:
            # The memory or the disk of this host, not the source: what was received had another checksum.
            if self._damaged:
                raise DownloadError(
                    f"What is written to {self.part.path} changes on this host: look at its disk and its memory."
                )
            self._damaged = True
            self._warn(f"{len(damaged)} pieces of {self.part.path} were damaged on this host; fetched them again.")
            for index in damaged:
                self.part.drop_piece(index)
            return
        if source.mirror or self.part.identity.get("mirror"):
            self.part.begin(0, SMALLEST_PIECE, {}, keep=False)
            self._clean, self.resumed = True, 0
            if source.mirror:
                raise DownloadError(f"{redact(source.url)} serves another file than the one with this SHA-256.")
            self._only_hub = True
            self._warn("A mirror had sent wrong bytes; began again without mirrors.")
            return
        if self.part.pieces:
            self.part.note(actual=known.sha256)
        expected = f"SHA-256 {self.wanted.sha256}" if self.wanted.sha256 else f"Git SHA-1 {self.wanted.git_sha1}"
        raise WrongFile(
            f"{redact(source.url)} served a file with SHA-256 {known.sha256} instead of {expected}: run again if the"
            " line is bad, correct sha256 if the publisher states that one, else do not use the file."
        )

    # Writing

    def write(self, offset: int, data: bytes | memoryview) -> None:
        try:
            self.part.write(offset, data)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise DownloadError(f"{self.part.path} cannot be written ({exc.strerror}): look at the disk.") from exc
            raise DownloadError(
                f"The file system of {self.part.path} became full: make room and run again, what is there is kept."
            ) from exc

    def check_space(self, size: int) -> None:
        """Before the first byte: a full disk stops more than this download."""
        folder = os.path.dirname(self.part.path)
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        # A sparse file takes only what is written; what it has will be kept, or be free again.
        needed = max(0, size - os.fstat(self.part.fd).st_blocks * 512)
        if size and needed + self.limits.reserve > free:
            raise DownloadError(
                f"{folder} has {free // MIB} MiB free, {self.wanted.name} needs {-(-needed // MIB)} MiB and"
                f" {self.limits.reserve // MIB} MiB shall stay free: make room, or lower space_reserve."
            )


def with_mirrors(wanted: Wanted, mirrors: list[str]) -> Wanted:
    """The same file with the mirrors before the hub; without a SHA-256 none of them is believed."""
    if not wanted.sha256:
        return wanted
    sources = tuple(Source(url, mirror=True) for entry in mirrors for url in _mirror_urls(entry, wanted))
    return replace(wanted, sources=sources + wanted.sources)


def _mirror_urls(entry: str, wanted: Wanted) -> Iterator[str]:
    if entry.startswith("/"):
        # A folder holds files under their own names, or under their hashes.
        for name in (wanted.name, wanted.sha256 or ""):
            path = os.path.join(entry, name)
            if os.path.isfile(path) and os.path.abspath(path) != os.path.abspath(wanted.path):
                yield file_url(path)
    elif "{sha256}" in entry or "{name}" in entry:
        yield entry.replace("{sha256}", wanted.sha256 or "").replace("{name}", quote(wanted.name))
    else:
        yield f"{entry.rstrip('/')}/{wanted.sha256}"


def mirror_origins(mirrors: list[str]) -> tuple[str, ...]:
    """The mirrors that are asked by HTTP."""
    return tuple(origin(entry) for entry in mirrors if "://" in entry)


def secrets_of(url: str) -> set[str]:
    """The parts of an address that nobody else shall see."""
    try:
        parts = urlsplit(url)
        # A short query would blank the same few letters everywhere.
        return {text for text in (parts.password, parts.query if len(parts.query) > 7 else None) if text}
    except ValueError:
        return set()


def _local_path(url: str) -> str | None:
    return unquote(urlsplit(url).path) if url.startswith("file://") else None


def file_url(path: str) -> str:
    return f"file://{quote(path)}"
