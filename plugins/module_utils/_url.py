# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A link that somebody gives: what it is called, what tells two of them apart, what its statuses mean.

Private to this collection.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    DownloadError,
    HttpError,
    Location,
    origin,
    redact,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._model_format import extension_of

# What sha256 says when nobody knows it.
NONE = "none"

# Pages about a file, which people copy from their browser: host, path, and the path of the file itself.
_PAGES = (
    (("huggingface.co", "hf.co"), re.compile(r"^(/.+?)/blob/(.+)$"), r"\1/resolve/\2"),
    (("github.com",), re.compile(r"^(/[^/]+/[^/]+)/blob/(.+)$"), r"\1/raw/\2"),
)
_CIVITAI = re.compile(r"(^|\.)civitai\.(com|red|green)$")


def has_no_hash(params: Mapping[str, Any]) -> bool:
    return (params.get("sha256") or NONE).strip().lower() == NONE


def request_key(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What tells this request from another one; None when its answer may change."""
    if has_no_hash(params):
        return None
    return {
        "source": "url",
        "dest": params["dest"],
        # Its name may come from the link, and a link may have a secret in it.
        "url": hashlib.sha256(params["url"].encode("utf-8")).hexdigest(),
        "sha256": params["sha256"].strip().lower(),
        "pickle": params.get("pickle") or "deny",
    }


def check(url: str) -> str:
    """The address as it is used. Raises DownloadError for what is none, and for a page that leads to the file."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        # Raises ValueError for one that is no number.
        _port = parts.port
    except ValueError as exc:
        raise DownloadError("url is no address, because its host or port cannot be read: correct it.") from exc
    if parts.scheme == "file":
        if host not in ("", "localhost") or not parts.path.startswith("/") or parts.path.endswith("/"):
            raise DownloadError(
                f"url is '{redact(url)}', which names no file of the managed host: write it as file:///path/to/file."
            )
        return url
    if parts.scheme not in ("http", "https") or not host:
        raise DownloadError(
            f"url is '{redact(url)}', which is no address that begins with https://, http:// or file:///: correct it."
        )
    for hosts, page, file in _PAGES:
        if host in hosts and page.match(parts.path):
            right = urlunsplit((parts.scheme, parts.netloc, page.sub(file, parts.path), "", ""))
            raise DownloadError(f"{redact(url)} is the page about a file: the file itself is at {redact(right)}.")
    if _CIVITAI.search(host) and re.match(r"/models/\d+", parts.path):
        raise DownloadError(
            f"{redact(url)} is the page about a model: use secondhand.diffusion.civitai_download with the model_id"
            " in it, or the version_id after modelVersionId=."
        )
    return url


def local_path(url: str) -> str | None:
    """The path of a file:// address; None for the others."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else None


def name_of(url: str, location: Location | None) -> str:
    """What the file is called, as the server says it, else as the link has it; nothing that is safe yet.

    Of the two ends of a redirect, the one that has an extension counts: "latest" says less than "model.safetensors".
    """
    if location and location.file_name:
        return location.file_name
    names = [_last_part(url), _last_part(location.url) if location else ""]
    return next((name for name in names if extension_of(name)), names[0] or names[1])


def _last_part(url: str) -> str:
    return unquote(posixpath.basename(urlsplit(url).path))


def explain(url: str, has_token: bool) -> Any:
    """The sentence for a status; any other error says enough."""

    def sentence(error: HttpError) -> DownloadError:
        where, status = redact(url), error.status
        if origin(error.url) != origin(url):
            # Which has never seen the token.
            where = f"{redact(error.url)}, to which {where} leads,"
            if status == 401:
                return DownloadError(f"{where} asks for a login of its own (status 401): correct url.")
        if status == 401 and has_token:
            return DownloadError(f"{where} does not accept the token (status 401): get a new one, or correct url.")
        if status == 401:
            return DownloadError(f"{where} asks for a login (status 401): set token.")
        if status == 403:
            return DownloadError(
                f"{where} refuses access (status 403): get a fresh link if this one is good for a while only, "
                f"{'or see whether the token is allowed to read the file' if has_token else 'or set token'}."
            )
        if status in (404, 410):
            return DownloadError(f"{where} does not exist (status {status}): correct url.")
        if status == 429:
            return DownloadError(
                f"{where} has had too many requests (status 429): try again later, raise max_wait, or add a mirror."
            )
        return error

    return sentence


def readable(path: str) -> str:
    """Raises DownloadError when the file of a file:// address is not there."""
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return path
    raise DownloadError(f"{path} is no file that can be read: correct url, or mount the disk that it is on.")
