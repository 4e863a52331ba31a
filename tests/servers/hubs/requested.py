# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the servers were asked, in the order in which it came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class Headers(Mapping[str, str]):
    """A request's headers. Their names may be written in any case, as HTTP has it."""

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = {name.lower(): value for name, value in items}

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass
class Request:
    """One request. It is on the list from its first moment; status and bytes_sent follow while it is answered."""

    server: str
    method: str
    path: str
    headers: Headers
    client: str
    body: bytes = b""
    # 0 until there is an answer.
    status: int = 0
    # Of the answer's body.
    bytes_sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")

    @property
    def text(self) -> str:
        """All that the client said, to look for a secret in it."""
        lines = [f"{self.method} {self.path}", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\n".join([*lines, self.body.decode("latin-1")])

    def as_json(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "method": self.method,
            "path": self.path,
            "headers": dict(self.headers),
            "client": self.client,
            "range": self.range,
            "status": self.status,
            "bytes_sent": self.bytes_sent,
        }
