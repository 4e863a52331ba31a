# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fills the hubs from a description in JSON: README.md says how it looks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hubs import Hubs
from hubs.civitai_models import ModelFile, ModelVersion
from hubs.content import StoredFile
from hubs.huggingface_repos import Content


def fill(hubs: Hubs, config: Mapping[str, Any]) -> None:
    """Files first, then what leads to them."""
    for name, described in config.get("files", {}).items():
        _add_file(hubs, name, **described)
    _fill_civitai(hubs, config.get("civitai", {}))
    _fill_huggingface(hubs, config.get("huggingface", {}))
    for name in config.get("mirror", []):
        hubs.mirror.share(hubs.storage.files[name])
    hubs.faults.set(config.get("faults", {}))


def _add_file(
    hubs: Hubs,
    name: str,
    size: int = 0,
    seed: int = 1,
    text: str | None = None,
    path: str | None = None,
    sha256: str | None = None,
) -> StoredFile:
    """One that is made up, one with a text, or one that is there already."""
    if path is not None:
        return hubs.storage.add_file(name, Path(path), sha256)
    if text is not None:
        return hubs.storage.add_bytes(name, text.encode())
    return hubs.storage.add(name, size, seed)


def _fill_civitai(hubs: Hubs, config: Mapping[str, Any]) -> None:
    hubs.civitai.token = config.get("token", hubs.civitai.token)
    hubs.civitai.download_limit = config.get("download_limit")
    for described in config.get("models", []):
        fields = dict(described)
        versions = [_version(hubs, version) for version in fields.pop("versions")]
        hubs.civitai.add_model(versions=versions, **fields)


def _version(hubs: Hubs, described: Mapping[str, Any]) -> ModelVersion:
    fields = dict(described)
    stored = hubs.storage.files
    files = [
        ModelFile(stored=stored[file["file"]], **{key: value for key, value in file.items() if key != "file"})
        for file in fields.pop("files")
    ]
    images = [stored[name] for name in fields.pop("images", [])]
    until = fields.pop("early_access_until", None)
    return ModelVersion(
        files=files, images=images, early_access_until=datetime.fromisoformat(until) if until else None, **fields
    )


def _fill_huggingface(hubs: Hubs, config: Mapping[str, Any]) -> None:
    hubs.huggingface.token = config.get("token", hubs.huggingface.token)
    for described in config.get("repos", []):
        fields = dict(described)
        files: dict[str, Content] = {
            path: content.encode() if isinstance(content, str) else hubs.storage.files[content["file"]]
            for path, content in fields.pop("files").items()
        }
        hubs.huggingface.add_repo(files=files, **fields)
    for old, new in config.get("renamed", {}).items():
        hubs.huggingface.rename(old, new)


def describe(hubs: Hubs) -> dict[str, Any]:
    """Where everything is, for those who use it."""
    return {
        "urls": {server.name: server.url for server in hubs.servers},
        "tokens": {"civitai": hubs.civitai.token, "huggingface": hubs.huggingface.token},
        "files": {
            name: {"sha256": stored.sha256, "size": stored.size, "url": stored.url}
            for name, stored in hubs.storage.files.items()
        },
        "repos": {name: repository.refs for (_, name), repository in hubs.huggingface.repositories.items()},
    }
