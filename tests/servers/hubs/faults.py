# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong between hub, storage and client. Tests set the fields; `clear` puts all of it right again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

ALWAYS = -1


@dataclass(frozen=True)
class Failure:
    """An answer that comes instead of the normal one."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Planned:
    """A failure that a server still owes, `times` times, to requests whose path has `path` in it."""

    server: str
    path: str
    failure: Failure
    times: int


@dataclass
class Faults:
    """Each field holds for the storage servers, except those that begin with hub_. `times` may be ALWAYS."""

    # Applies to requests whose path has this in it.
    only: str = ""
    # Seconds before each answer.
    latency: float = 0
    hub_latency: float = 0
    # The speed of one connection.
    bytes_per_second: float | None = None
    # After so many bytes of a body the connection ends: by a reset, or politely as after a whole one.
    cut_after: int | None = None
    cut_times: int = 1
    cut_politely: bool = False
    # The byte at this place of the file arrives with all its bits turned over.
    wrong_byte: int | None = None
    wrong_times: int = 1
    # Content-Length says so many bytes more or fewer than come.
    content_length_delta: int = 0
    # 200 and the whole file for any range; 416 for any range.
    ignore_range: bool = False
    refuse_range: bool = False
    # After so many requests for files, counted from when it was set: another ETag; a file that is a byte shorter.
    etag_after: int | None = None
    size_change_after: int | None = None
    # Seconds, or requests, for which a signed URL is good; what it answers later.
    url_lifetime: float | None = None
    url_requests: int | None = None
    expired_status: int = 403
    # After so many bytes of a body nothing comes any more, and the connection stays open.
    stall_after: int | None = None
    stall_times: int = 1
    # After trickle_after bytes of a body the speed falls to this.
    trickle: float | None = None
    trickle_after: int = 1 << 16
    trickle_times: int = ALWAYS
    # 200 and a page that asks to log in, instead of the file.
    html_error: bool = False
    # In chunks, as a proxy sends what it packs or scans on the way.
    no_content_length: bool = False
    # Signed URLs lead to the second storage server.
    second_storage: bool = False
    # How many entries a page of Hugging Face's file list has.
    hub_page_size: int | None = None
    # Hugging Face packs small files for clients that accept it, as its cache does: what comes is not the file.
    hub_gzip: bool = False
    expired_before: float = field(default=0, init=False)
    _planned: list[Planned] = field(default_factory=list, init=False, repr=False, compare=False)
    _counted: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    def __setattr__(self, name: str, value: Any) -> None:
        """Setting a fault starts its count again."""
        super().__setattr__(name, value)
        if name in ("etag_after", "size_change_after") and "_counted" in self.__dict__:
            self._counted.pop(name, None)

    def clear(self) -> None:
        """No faults any more. URLs that have expired stay so."""
        with self._lock:
            for each in fields(self):
                if each.init:
                    setattr(self, each.name, each.default)
            self._planned.clear()

    def set(self, values: Mapping[str, Any]) -> None:
        """Set fields by name, as /_control does."""
        names = {each.name for each in fields(self) if each.init}
        unknown = set(values) - names
        if unknown:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
        with self._lock:
            for name, value in values.items():
                setattr(self, name, value)

    def fail(
        self,
        server: str,
        status: int,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | Mapping[str, Any] = b"",
        path: str = "",
    ) -> None:
        """Let `server` answer so to its next `times` requests with `path` in their path. A mapping is sent as JSON."""
        headers = dict(headers or {})
        if isinstance(body, Mapping):
            headers.setdefault("Content-Type", "application/json; charset=utf-8")
            body = json.dumps(body)
        content = body.encode() if isinstance(body, str) else body
        with self._lock:
            self._planned.append(Planned(server, path, Failure(status, headers, content), times))

    def expire_now(self) -> None:
        """No URL that was signed until now is good any more."""
        self.expired_before = time.monotonic()

    def next_failure(self, server: str, path: str) -> Failure | None:
        """What was planned for this request, if anything."""
        with self._lock:
            for planned in self._planned:
                if planned.server == server and planned.path in path and planned.times != 0:
                    planned.times -= planned.times > 0
                    return planned.failure
        return None

    def spend(self, name: str) -> bool:
        """Whether the fault that is limited by the field `name` strikes once more."""
        with self._lock:
            left: int = getattr(self, name)
            if left > 0:
                setattr(self, name, left - 1)
            return left != 0

    def reached(self, name: str) -> bool:
        """Count a request towards the field `name`, and say whether the count is past it."""
        with self._lock:
            limit: int | None = getattr(self, name)
            if limit is None:
                return False
            self._counted[name] = self._counted.get(name, 0) + 1
            return self._counted[name] > limit
