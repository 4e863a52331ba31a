# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Civitai: its API, and downloads that lead to a storage host, each with its ways to refuse."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from hubs.civitai_models import (
    FILE_TYPES,
    FORMATS,
    SIZES,
    WEIGHTS,
    Model,
    ModelFile,
    ModelVersion,
    mini_answer,
    model_answer,
    timestamp,
    version_answer,
)
from hubs.server import Handler, Server
from hubs.storage import Storage

BROWSERS = ("mozilla", "chrome", "safari", "firefox", "opera", "edge")
LOGIN_NEEDED = "The creator of this asset requires you to be logged in to download it"
DISABLED = "The creator of this asset has disabled downloads on this file"
TOO_MANY = "An unusual amount of downloading came from your account. Come back later."
PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body>{0}</body></html>\n"
DOWNLOAD = "/api/download/models/"
VERSIONS = "/api/v1/model-versions/"
MODELS = "/api/v1/models/"
# The most that one question by SHA-256 may hold.
MOST_HASHES = {"by-hash": 100, "by-hash/ids": 10_000}


class Civitai(Server):
    """token has bought everything, other_token is somebody who has bought nothing."""

    software = "cloudflare"
    token = "civitai-token-of-a-buyer-0123456789abcdef"
    other_token = "civitai-token-of-somebody-0123456789abcdef"

    def __init__(self, *arguments: Any, storages: tuple[Storage, Storage], **more: Any) -> None:
        self._storages = storages
        self.reset()
        super().__init__(*arguments, **more)

    def reset(self) -> None:
        """No models, and nobody has downloaded anything."""
        self.models: dict[int, Model] = {}
        # How many downloads one account, or one address, may have; then 429.
        self.download_limit: int | None = None
        # Nobody gets anything: 403, as for an address on the blocklist.
        self.blocked = False
        self._downloads: dict[str, int] = {}

    def add_model(self, id: int, versions: Sequence[ModelVersion], **more: Any) -> Model:
        """A model, its newest version first. `more` are the fields of Model."""
        self.models[id] = Model(id, versions, **more)
        return self.models[id]

    def versions(self) -> Iterator[tuple[Model, ModelVersion]]:
        """All that are published, in the order of their numbers."""
        found = [(model, version) for model in self.models.values() for version in model.versions if version.published]
        return iter(sorted(found, key=lambda pair: pair[1].id))

    def respond(self, handler: Handler) -> None:
        agent = handler.headers.get("User-Agent", "").lower()
        if "python-urllib" in agent:
            # Cloudflare, before the request gets any further.
            handler.send(403, b"error code: 1010")
        elif handler.command == "HEAD":
            handler.send(401, b"", {"Content-Type": "application/json; charset=utf-8"})
        elif handler.plain_path.startswith(DOWNLOAD):
            self._download(handler, any(browser in agent for browser in BROWSERS))
        elif handler.plain_path.startswith(VERSIONS):
            self._version(handler, handler.plain_path[len(VERSIONS) :])
        elif handler.plain_path.startswith(MODELS):
            self._model(handler, handler.plain_path[len(MODELS) :])
        elif handler.plain_path == "/login" or handler.plain_path.startswith("/model-versions/"):
            self._page(handler, 200, "Civitai")
        else:
            self._page(handler, 404, "Not found")

    # The API.

    def _model(self, handler: Handler, number: str) -> None:
        if handler.command != "GET":
            handler.send_json(405, {"error": "Method not allowed"})
        elif not number.isdecimal():
            handler.send_json(400, {"error": "Invalid id"})
        elif int(number) not in self.models:
            handler.send_json(404, {"error": f"No model with id {number}"})
        else:
            handler.send_json(200, model_answer(self.base(handler), self.models[int(number)]))

    def _version(self, handler: Handler, rest: str) -> None:
        kind, _, last = rest.rpartition("/")
        if handler.command == "POST" and rest in MOST_HASHES:
            self._by_hashes(handler, rest)
        elif handler.command != "GET":
            handler.send_json(405, {"error": "Method not allowed"})
        elif kind == "by-hash":
            self._one(handler, [pair for pair in self.versions() if last.upper() in self._hashes(pair[1])])
        elif kind not in ("", "mini") or not last.isdecimal():
            handler.send_json(400, {"error": "Invalid id"})
        else:
            self._one(handler, [pair for pair in self.versions() if pair[1].id == int(last)], kind == "mini")

    def _one(self, handler: Handler, found: list[tuple[Model, ModelVersion]], mini: bool = False) -> None:
        if not found:
            handler.send_json(404, {"error": "Model not found"})
            return
        model, version = found[0]
        file = version.best()
        if file is None:
            handler.send_json(404, {"error": "Missing model file"})
        elif mini:
            handler.send_json(200, mini_answer(self.base(handler), model, version, file))
        else:
            handler.send_json(200, version_answer(self.base(handler), model, version))

    def _hashes(self, version: ModelVersion) -> set[str]:
        return {value for file in version.files for value in file.hashes.values()}

    def _by_hashes(self, handler: Handler, kind: str) -> None:
        try:
            wanted = [str(value).upper() for value in json.loads(handler.request_of.body)]
        except (ValueError, TypeError):
            wanted = []
        if not 0 < len(wanted) <= MOST_HASHES[kind] or any(len(value) != 64 for value in wanted):
            handler.send_json(400, {"error": f"Expected 1 to {MOST_HASHES[kind]} SHA256 hashes"})
            return
        found = [(value, *pair) for value in wanted for pair in self.versions() if value in self._hashes(pair[1])]
        if kind == "by-hash":
            base = self.base(handler)
            handler.send_json(200, [version_answer(base, model, version) for _, model, version in found])
        else:
            handler.send_json(200, [{"modelVersionId": version.id, "hash": value} for value, _, version in found])

    # Downloads.

    def _page(self, handler: Handler, status: int, text: str) -> None:
        handler.send(status, PAGE.format(text).encode(), {"Content-Type": "text/html; charset=utf-8"})

    def _refuse(self, handler: Handler, status: int, error: str, browser: bool = False, **more: Any) -> None:
        headers = {"Cache-Control": "no-store, max-age=0"}
        if browser:
            handler.send(status, error.encode(), {**headers, "Content-Type": "text/html; charset=utf-8"})
        else:
            handler.send_json(status, {"error": error, **more}, headers)

    def _download(self, handler: Handler, browser: bool) -> None:
        token = handler.token or handler.query.get("token")
        known = token in (self.token, self.other_token)
        number = handler.plain_path[len(DOWNLOAD) :]
        account = token if token and known else handler.client_address[0]
        limit = self.download_limit
        if self.blocked:
            self._refuse(handler, 403, "Forbidden", browser)
        elif limit is not None and self._downloads.get(account, 0) >= limit:
            self._refuse(handler, 429, TOO_MANY, browser)
        elif handler.command != "GET":
            self._refuse(handler, 405, "Method not allowed")
        elif not number.isdecimal() or not _valid(handler.query):
            self._refuse(handler, 400, "Invalid modelVersionId or parameter")
        else:
            found = [pair for pair in self.versions() if pair[1].id == int(number)]
            if not found:
                self._refuse(handler, 404, "File not found", browser)
            elif not self._turned_away(handler, browser, found[0][0], found[0][1], token if known else None):
                self._lead_on(handler, browser, found[0][1], account)

    def _turned_away(
        self, handler: Handler, browser: bool, model: Model, version: ModelVersion, token: str | None
    ) -> bool:
        """Whether this caller may not have it, and was told so."""
        if model.mode == "Archived":
            self._refuse(handler, 410, "Model archived, not available for download", browser)
        elif version.downloads_disabled:
            self._refuse(handler, 401, "Unauthorized", message=DISABLED)
        elif (version.require_login or version.private) and token is None:
            if browser:
                query = urllib.parse.urlencode(
                    {"returnUrl": f"/model-versions/{version.id}", "reason": "download-auth"}
                )
                handler.redirect(307, f"/login?{query}")
            else:
                self._refuse(handler, 401, "Unauthorized", message=LOGIN_NEEDED)
        elif version.early_access and version.early_access_until and token != self.token:
            if browser:
                handler.redirect(307, f"/model-versions/{version.id}")
            else:
                deadline = timestamp(version.early_access_until)
                message = "This asset is in Early Access."
                self._refuse(handler, 403, "Early Access", deadline=deadline, message=message)
        elif version.private and token != self.token:
            self._refuse(handler, 403, "You do not have access to download this file", browser)
        else:
            return False
        return True

    def _lead_on(self, handler: Handler, browser: bool, version: ModelVersion, account: str) -> None:
        """To the storage host."""
        file = _chosen(version, handler.query)
        if file is None:
            self._refuse(handler, 404, "File not found", browser)
            return
        with self.lock:
            self._downloads[account] = self._downloads.get(account, 0) + 1
        storage = self._storages[self.faults.second_storage]
        headers = {"Cache-Control": "no-store, max-age=0"}
        handler.redirect(307, storage.sign(file.stored, file.file_name), headers)


def _valid(query: dict[str, str]) -> bool:
    """Whether the parameters are among those that there are."""
    allowed = {"type": FILE_TYPES, "format": FORMATS, "size": SIZES}
    if any(key in query and query[key] not in values for key, values in allowed.items()):
        return False
    return query.get("fileId", "0").isdecimal()


def _chosen(version: ModelVersion, query: dict[str, str]) -> ModelFile | None:
    """The file by its number, else the best of its type, which must then be as it was asked for."""
    if query.get("fileId"):
        return next((file for file in version.files if file.id == int(query["fileId"]) and file.public), None)
    wanted = {key: query[key] for key in WEIGHTS if query.get(key)}
    file = version.best(wanted, query.get("type"))
    if file and any(file.metadata.get(key, value) != value for key, value in wanted.items()):
        return None
    return file
