# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files beside a model by which web UIs know it, NAME.civitai.info and NAME.preview.png. Private.

Nobody's file is overwritten, but for one that describes another version than the one that lies there now.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.secondhand.diffusion.plugins.module_utils._attributes import new_mode
from ansible_collections.secondhand.diffusion.plugins.module_utils._download import Downloads
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError, HttpError, redact

# What the web UIs look for beside a model.
PICTURES = ("png", "jpeg", "jpg", "webp", "gif")
_SIGNATURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"GIF8[79]a"), "gif"),
)
# The width that the site itself shows in a list; an original may have tens of megabytes.
_WIDTH = 450
_LARGEST_PICTURE = 16 * 1024 * 1024
_LARGEST_INFO = 16 * 1024 * 1024
# Some pictures are not to be had any more; nobody needs all of them to be tried.
_MOST_TRIES = 3


def info_path(model: str) -> str:
    return f"{os.path.splitext(model)[0]}.civitai.info"


def preview_path(model: str, kind: str) -> str:
    return f"{os.path.splitext(model)[0]}.preview.{kind}"


def find_preview(model: str) -> str | None:
    """A picture that web UIs show for the model already."""
    stem = os.path.splitext(model)[0]
    names = [f"{stem}{middle}.{kind}" for middle in (".preview", "") for kind in PICTURES]
    return next((name for name in names if os.path.isfile(name)), None)


def info_text(answer: Mapping[str, Any], token: str | None) -> str:
    """What the file holds: the API's answer about the version, as Civitai Helper writes it."""
    text = json.dumps(answer, indent=4, ensure_ascii=False) + "\n"
    # A server that echoes what it was sent must not get a secret onto the disk.
    return text.replace(token, "***") if token else text


def is_outdated(text: str | None, version_id: int) -> bool:
    """Is there nothing yet, or what was known of another version? Anything else may be a person's work."""
    if text is None:
        return True
    try:
        known = json.loads(text)
    except ValueError:
        return False
    # Civitai Helper leaves {} for a file that it could not find.
    return isinstance(known, dict) and (not known or (isinstance(known.get("id"), int) and known["id"] != version_id))


def picture_urls(answer: Mapping[str, Any]) -> list[str]:
    """Addresses of the version's still pictures, in the order of the site and small."""
    images = answer.get("images")
    found = []
    for image in images if isinstance(images, list) else []:
        if isinstance(image, dict) and image.get("type", "image") == "image" and isinstance(image.get("url"), str):
            found.append(re.sub(r"/(?:original=true|width=\d+)/", f"/width={_WIDTH}/", image["url"], count=1))
    return found[:_MOST_TRIES]


def picture_kind(data: bytes) -> str | None:
    """By content: a video is served under the name of a picture as well."""
    return next((kind for signature, kind in _SIGNATURES if signature.match(data)), None)


def are_there(paths: Iterable[str]) -> bool:
    """Is what an earlier run left beside the model still there?"""
    return all(os.path.isfile(path) for path in paths)


class Sidecars:
    """Writes them, with the owner, group and mode that the model gets."""

    def __init__(self, downloads: Downloads, model: str, answer: Mapping[str, Any]) -> None:
        self._downloads = downloads
        self._model = model
        self._answer = answer
        self.changed = False
        # Whether a later run would get nothing that this one did not.
        self.complete = True

    def write_info(self) -> str:
        path = info_path(self._model)
        there = _read(path)
        if is_outdated(there, self._answer["id"]):
            if there and there.strip() != "{}":
                self._downloads.warn(
                    f"{path} described another version, which lay here under the same name and is replaced: to keep "
                    "both, give each a file as dest."
                )
            self._write(
                path, info_text(self._answer, self._downloads.params["token"]).encode("utf-8", "backslashreplace")
            )
        self.changed = self._downloads.set_attributes(path, self.changed)
        return path

    def write_preview(self) -> str | None:
        """Where the picture is; None when there is none to be had, which harms nobody."""
        path = find_preview(self._model)
        if path is None:
            urls = picture_urls(self._answer)
            if self._downloads.check_mode:
                # What it is called depends on what comes.
                self.changed = self.changed or bool(urls)
                return None
            data, kind = self._picture(urls)
            if kind is None:
                return None
            path = preview_path(self._model, kind)
            self._write(path, data)
        self.changed = self._downloads.set_attributes(path, self.changed)
        return path

    def _picture(self, urls: list[str]) -> tuple[bytes, str | None]:
        problem: str | None = None
        for url in urls:
            try:
                data, _headers = self._downloads.client.get_bytes(url, _LARGEST_PICTURE)
            except DownloadError as error:
                problem = problem or str(error)
                # A picture that is gone stays so.
                self.complete = self.complete and isinstance(error, HttpError) and error.status in (401, 403, 404, 410)
                if not isinstance(error, HttpError):
                    # The others lie on the same host.
                    break
                continue
            kind = picture_kind(data)
            if kind is not None:
                self.complete = True
                return data, kind
            problem = problem or f"{redact(url)} is no picture that web UIs show."
        if problem:
            self._downloads.warn(f"{self._model} stays without a preview picture: {problem}")
        return b"", None

    def _write(self, path: str, data: bytes) -> None:
        self.changed = True
        self._downloads.note_file(path)
        if self._downloads.check_mode:
            return
        try:
            # In the folder itself, whose group a new file may inherit.
            descriptor, temporary = tempfile.mkstemp(prefix=".civitai-", dir=os.path.dirname(path) or ".")
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                os.chmod(temporary, new_mode())
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise
        except OSError as exc:
            raise DownloadError(
                f"{path} cannot be written ({exc.strerror}): run as a user who may, or set sidecar and preview to no."
            ) from exc


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST_INFO)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise DownloadError(f"{path} cannot be read ({exc.strerror}): remove it, or set sidecar to false.") from exc
