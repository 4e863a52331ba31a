# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins of Civitai, Hugging Face and their storage hosts, over real sockets: see README.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from hubs.civitai import Civitai
from hubs.civitai_models import Model, ModelFile, ModelVersion
from hubs.content import StoredFile, safetensors_head
from hubs.faults import ALWAYS, Faults
from hubs.huggingface import HuggingFace
from hubs.requested import Headers, Request
from hubs.server import Server
from hubs.storage import Mirror, Storage

__all__ = [
    "ALWAYS",
    "Civitai",
    "Faults",
    "Headers",
    "Hubs",
    "HuggingFace",
    "Mirror",
    "Model",
    "ModelFile",
    "ModelVersion",
    "Request",
    "Storage",
    "StoredFile",
    "safetensors_head",
]

NAMES = ("civitai", "huggingface", "storage", "storage2", "mirror")


class Hubs:
    """All servers, each on an address of its own, as `with Hubs(folder) as hubs`."""

    def __init__(
        self,
        folder: Path | str,
        tls: tuple[str, str] | None = None,
        address: str | None = None,
        ports: Mapping[str, int] | None = None,
        advertise: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.faults = Faults()
        self.requests: list[Request] = []

        def place(name: str) -> dict[str, Any]:
            host = address or f"127.0.0.{NAMES.index(name) + 1}"
            return {
                "name": name,
                "address": (host, (ports or {}).get(name, 0)),
                "faults": Faults() if name == "mirror" else self.faults,
                "requests": self.requests,
                "tls": tls,
                "advertise": advertise,
            }

        files: dict[str, StoredFile] = {}
        self.storage = Storage(folder=self.folder / "files", files=files, **place("storage"))
        self.storage2 = Storage(folder=self.folder / "files", files=files, **place("storage2"))
        self.mirror = Mirror(folder=self.folder / "mirror", files={}, **place("mirror"))
        storages = (self.storage, self.storage2)
        self.civitai = Civitai(storages=storages, **place("civitai"))
        self.huggingface = HuggingFace(storages=storages, **place("huggingface"))
        self.servers: tuple[Server, ...] = (self.civitai, self.huggingface, *storages, self.mirror)

    def __enter__(self) -> Hubs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset(self) -> None:
        """As new: no faults, no requests, no files, no models."""
        for faults in (self.faults, self.mirror.faults):
            faults.clear()
        self.requests.clear()
        self.storage.reset()
        self.mirror.reset()
        self.civitai.reset()
        self.huggingface.reset()

    def close(self) -> None:
        """Stop all servers. A server that broke must not look like a fault that was asked for."""
        for server in self.servers:
            server.stop()
        errors = [error for server in self.servers for error in server.errors]
        if errors:
            raise RuntimeError(f"a stand-in broke: {errors[0]!r}") from errors[0]

    def fail(self, server: str, status: int, times: int = 1, **more: Any) -> None:
        """Plan a failure: see Faults.fail."""
        (self.mirror.faults if server == "mirror" else self.faults).fail(server, status, times, **more)

    def asked(self, server: str | None = None, path: str = "") -> list[Request]:
        """The requests to `server` (to all) whose path has `path` in it."""
        return [each for each in list(self.requests) if server in (None, each.server) and path in each.path]

    def bytes_sent(self, server: str | None = "storage", path: str = "") -> int:
        """How many bytes of files and of other answers that were asked for; what a refusal says does not count."""
        return sum(request.bytes_sent for request in self.asked(server, path) if request.status in (200, 206))

    def told(self, secret: str) -> list[str]:
        """The servers that ever saw the secret, in whichever place of a request."""
        return sorted({request.server for request in list(self.requests) if secret in request.text})
