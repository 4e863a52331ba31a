# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the options of civitai_download ask for. Private to this collection: not an interface for others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError, is_base, redact

HUB = "https://civitai.com"
SAFETENSORS = "SafeTensor"
# How an AIR writes what the API calls metadata.format.
_AIR_FORMATS = {
    "safetensor": SAFETENSORS,
    "safetensors": SAFETENSORS,
    "ckpt": "PickleTensor",
    "pt": "PickleTensor",
    "diffuser": "Diffusers",
    "diffusers": "Diffusers",
    "gguf": "GGUF",
    "onnx": "ONNX",
    "coreml": "Core ML",
}
_AIR = re.compile(
    r"(?:urn:)?(?:air:)?(?:(?P<ecosystem>[\w/-]+):)?(?:(?P<type>[\w/-]+):)?(?P<source>[\w/-]+):"
    r"(?P<id>[^\s@+:/][^\s@+:]*?)(?:@(?P<version>[^\s@+]+?))?(?:\+(?P<file>\d+))?(?:\.(?P<format>[A-Za-z]\w*))?",
    re.ASCII | re.IGNORECASE,
)
# AutoV1 and CRC32; AutoV2; AutoV3; SHA256 and BLAKE3.
_HASH_LENGTHS = (8, 10, 12, 64)


@dataclass(frozen=True)
class Request:
    """One file of one version: exactly one of model_id, version_id and hash is set, or model_id and version_id."""

    model_id: int | None = None
    version_id: int | None = None
    hash: str | None = None
    version_name: str | None = None
    file_id: int | None = None
    file_type: str | None = None
    file_format: str | None = None
    fp: str | None = None
    file_size: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Does it name content, and not what its creator publishes next?"""
        return self.version_id is not None or self.hash is not None

    def __str__(self) -> str:
        names = ("hash", "file_id", "file_type", "file_format", "fp", "file_size")
        asked = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name) is not None]
        return ", ".join(asked)


def request_of(params: Mapping[str, Any]) -> Request:
    """The request that the module's options make."""
    asked = Request(
        model_id=params.get("model_id"),
        version_id=params.get("version_id"),
        version_name=params.get("version_name"),
        file_id=params.get("file_id"),
        file_type=params.get("file_type"),
        file_format=params.get("file_format"),
        fp=params.get("fp"),
        file_size=params.get("file_size"),
    )
    for name in ("model_id", "version_id", "file_id"):
        number = getattr(asked, name)
        if number is not None and number < 1:
            raise DownloadError(f"{name} is {number}: give the number that the address on the site shows.")
    if params.get("air") is not None:
        asked = _with_air(asked, params["air"])
    if params.get("hash") is not None:
        asked = replace(asked, hash=_hash(params["hash"]))
    if asked.version_name is not None and asked.is_pinned:
        raise DownloadError("version_name chooses among the versions of a model: give it with model_id alone.")
    return asked


def _with_air(asked: Request, air: str) -> Request:
    parts = parse_air(air)
    if parts.file_id is not None and asked.file_id not in (None, parts.file_id):
        raise DownloadError(f"air names the file {parts.file_id}, and file_id {asked.file_id}: leave one of them out.")
    # A file's number says everything; with it the format is a mere suffix.
    format_ = None if parts.file_id is not None else parts.file_format
    if format_ is not None and asked.file_format is not None and asked.file_format.casefold() != format_.casefold():
        raise DownloadError(f"air names the format {format_}, and file_format {asked.file_format}: leave one out.")
    return replace(
        asked,
        model_id=parts.model_id,
        version_id=parts.version_id,
        file_id=parts.file_id if parts.file_id is not None else asked.file_id,
        file_format=format_ or asked.file_format,
    )


def parse_air(air: str) -> Request:
    """From urn:air:{ecosystem}:{type}:{source}:{id}[@{version}][+{file}][.{format}], the first four of it optional."""
    form = "write it like urn:air:sdxl:checkpoint:civitai:827184@2514310"
    found = _AIR.fullmatch(air.strip())
    if not found:
        raise DownloadError(f"'{clean(air)}' is no AIR: {form}.")
    source = found["source"].lower()
    if source == "huggingface":
        name, revision = clean(found["id"]), clean(found["version"] or "main")
        raise DownloadError(
            f"The AIR is about {name} on Hugging Face, not Civitai: use huggingface_download with repository {name} "
            f"and revision {revision}."
        )
    if source != "civitai":
        raise DownloadError(
            f"The AIR names the source '{source}', and this module downloads from civitai alone: {form}."
        )
    if not all(re.fullmatch(r"[1-9][0-9]*", number) for number in (found["id"], found["version"] or "1")):
        raise DownloadError(f"'{clean(air)}' has no numbers where Civitai has them: {form}.")
    format_ = (found["format"] or "").lower()
    if format_ and format_ not in _AIR_FORMATS:
        raise DownloadError(f"'{format_}' is no format of Civitai's: leave it out of air, and choose with file_format.")
    return Request(
        model_id=int(found["id"]),
        version_id=int(found["version"]) if found["version"] else None,
        file_id=int(found["file"]) if found["file"] else None,
        file_format=_AIR_FORMATS.get(format_),
    )


def _hash(text: str) -> str:
    value = text.strip().upper()
    if not re.fullmatch(r"[0-9A-F]+", value) or len(value) not in _HASH_LENGTHS:
        raise DownloadError(
            f"'{clean(text)}' is no hash that Civitai knows files by: give an AutoV1, AutoV2, AutoV3, SHA256, BLAKE3 "
            "or CRC32 in hexadecimal digits."
        )
    return value


def bases(urls: Sequence[str]) -> tuple[str, ...]:
    """The hub's addresses, each once and without a slash at its end."""
    found = []
    for url in urls:
        base = url.strip().rstrip("/")
        if not is_base(base):
            raise DownloadError(f"base_urls holds '{redact(clean(url))}', which is no address: write it like {HUB}.")
        parts = urlsplit(base)
        if parts.username or parts.password:
            raise DownloadError("base_urls holds a password, which logs would show: leave it out, and set token.")
        found.append(base)
    if not found:
        raise DownloadError(f"base_urls is empty: leave it out for {HUB}.")
    return tuple(dict.fromkeys(found))


def clean(text: str) -> str:
    """What others wrote, fit for a sentence."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= 120 else line[:120] + "…"
