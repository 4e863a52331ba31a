# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Talks to a web UI's /sdapi/v1. Private to this collection: not an interface for other collections."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import socket
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from ansible.module_utils.urls import ConnectionError as AnsibleConnectionError
from ansible.module_utils.urls import open_url
from ansible_collections.secondhand.diffusion.plugins.module_utils._benchmark_image import (
    BadImageError,
    PngFacts,
    inspect_png,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._benchmark_presets import Settings

# More than any picture a preset asks for; a server that sends more is not answering our question.
_MAX_ANSWER = 64 * 1024 * 1024


class ServerError(Exception):
    """The server did not do what was asked; the message is one sentence with the next step."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Picture:
    png: bytes
    facts: PngFacts
    seconds: float
    # What A1111 tells about the picture; empty with servers that tell nothing.
    info: dict[str, Any]


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class WebUi:
    def __init__(
        self,
        url: str,
        unit: str | None = None,
        username: str | None = None,
        password: str | None = None,
        login_file: str | None = None,
        timeout: int = 3600,
        validate_certs: bool = True,
    ) -> None:
        self.url = url.rstrip("/")
        self._log = f"`journalctl -u {unit}`" if unit else "the server's log"
        self._start = f"start it with `systemctl start {unit}`" if unit else "start it, or correct url"
        self._username = username
        self._password = password
        self._login_file = login_file
        self._timeout = timeout
        self._validate_certs = validate_certs

    def get(self, path: str) -> Any:
        # These routes answer at once even while a picture is made; a long wait here is already a fault.
        return self._json(path, self._request(path, None, min(self._timeout, 60)))

    def get_optional(self, path: str) -> Any:
        """None where the server has no such route, as sd-server lacks several that A1111 has."""
        try:
            return self.get(path)
        except ServerError as exc:
            if exc.status in (404, 405):
                return None
            raise

    def txt2img(self, path: str, settings: Settings) -> Picture:
        body = json.dumps(settings.as_request()).encode("utf-8")
        started = time.monotonic()
        raw = self._request(path, body, self._timeout)
        seconds = time.monotonic() - started
        answer = self._json(path, raw)
        images = answer.get("images") if isinstance(answer, dict) else None
        if not isinstance(images, list) or not images or not isinstance(images[0], str):
            raise ServerError(f"{self.url}{path} answered without a picture: read {self._log} for the reason.")
        png, facts = self._picture(path, images[0])
        if (facts.width, facts.height) != (settings.width, settings.height):
            raise ServerError(
                f"{self.url}{path} answered with a picture of {facts.width}x{facts.height} instead of "
                f"{settings.width}x{settings.height}: ask for a width and height that are multiples of 64."
            )
        return Picture(png=png, facts=facts, seconds=seconds, info=_info(answer))

    def _picture(self, path: str, text: str) -> tuple[bytes, PngFacts]:
        # A1111 can be set to send a data URL.
        encoded = text.partition(",")[2] if text.startswith("data:") else text
        try:
            png = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ServerError(
                f"{self.url}{path} answered with a picture that is not base64 ({exc}): read {self._log}."
            ) from exc
        try:
            return png, inspect_png(png)
        except BadImageError as exc:
            raise ServerError(
                f"{self.url}{path} answered with something that is not a whole PNG, {exc}: "
                "set the server's picture format to png, or update the engine."
            ) from exc

    def _json(self, path: str, raw: bytes) -> Any:
        try:
            return json.loads(raw)
        except ValueError as exc:
            raise ServerError(
                f"{self.url}{path} answered with something that is not JSON ({_excerpt(raw)!r}): "
                "check that the address is a web UI with its API switched on."
            ) from exc

    def _request(self, path: str, body: bytes | None, timeout: float) -> bytes:
        target = self.url + path
        deadline = time.monotonic() + timeout
        try:
            response = open_url(
                target,
                data=body,
                method="GET" if body is None else "POST",
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                # A proxy cannot reach this host's loopback address, whatever the environment says.
                use_proxy=not is_loopback(target),
                timeout=timeout,
                validate_certs=self._validate_certs,
                url_username=self._username,
                url_password=self._password,
                force_basic_auth=self._username is not None,
                # A redirect would carry the password and the request to an address nobody named.
                follow_redirects="none",
                use_netrc=False,
                decompress=False,
            )
            with response:
                return _read(response, deadline)
        except HTTPError as exc:
            raise self._status_error(target, exc) from exc
        except (socket.timeout, TimeoutError) as exc:
            raise self._too_slow(target, timeout) from exc
        except (URLError, HTTPException, AnsibleConnectionError, OSError, ValueError) as exc:
            raise self._transport_error(target, timeout, exc) from exc

    def _too_slow(self, target: str, timeout: float) -> ServerError:
        return ServerError(
            f"{target} did not answer within {timeout:.0f} seconds: "
            f"wait until its other jobs are done, raise timeout, or read {self._log}."
        )

    def _transport_error(self, target: str, timeout: float, exc: Exception) -> ServerError:
        reason = getattr(exc, "reason", None)
        cause = reason if isinstance(reason, BaseException) else exc
        if isinstance(cause, (socket.timeout, TimeoutError)):
            return self._too_slow(target, timeout)
        if isinstance(cause, ConnectionRefusedError):
            return ServerError(f"Nothing listens at {self.url}: {self._start}, then read {self._log} if it stays down.")
        if isinstance(cause, socket.gaierror):
            return ServerError(f"The host name in {self.url} is not known here: correct url.")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ServerError(
                f"The certificate of {self.url} is not trusted here: install its authority, "
                "or set validate_certs to false."
            )
        if isinstance(cause, (ConnectionError, HTTPException)):
            return ServerError(
                f"{target} broke the connection off before it answered ({type(cause).__name__}): "
                f"the server has probably died, so read {self._log}, and look for a lack of memory first."
            )
        return ServerError(f"{target} cannot be reached ({cause}): check the address, then read {self._log}.")

    def _status_error(self, target: str, exc: HTTPError) -> ServerError:
        status = exc.code
        try:
            said = _said(exc.read(4096))
        except (OSError, HTTPException):
            said = ""
        if status in (401, 403):
            if self._login_file is not None:
                next_step = f"the login in {self._login_file} is not the server's, so correct that file"
            elif self._username is not None:
                next_step = "give the right username and password"
            else:
                next_step = "it asks for a login, so set login_file, or give username and password"
            message = f"{target} refused the request (HTTP {status}): {next_step}."
        elif status in (404, 405):
            message = (
                f"{target} does not exist there (HTTP {status}): "
                "switch the server's API on (A1111: --api), or correct the address."
            )
        elif 300 <= status < 400:
            location = exc.headers.get("Location", "another address") if exc.headers else "another address"
            message = f"{target} sends on to {location} (HTTP {status}): give the final address in url."
        elif status == 429:
            message = f"{target} refuses more attempts for now (HTTP 429): try again in a minute."
        elif status < 500:
            message = f"{target} did not accept the settings (HTTP {status}{said}): correct overrides."
        else:
            message = f"{target} failed while it made the picture (HTTP {status}{said}): read {self._log}."
        return ServerError(message, status)


def _read(response: Any, deadline: float) -> bytes:
    # The socket's own timeout starts anew with every packet, so a trickling server needs a deadline too.
    parts: list[bytes] = []
    size = 0
    while True:
        part = response.read1(1024 * 1024)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER:
            raise ValueError(f"the answer is larger than {_MAX_ANSWER // 1024 // 1024} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError


def _info(answer: dict[str, Any]) -> dict[str, Any]:
    # A1111 sends JSON inside a string, sd-server an empty string.
    try:
        info = json.loads(answer.get("info") or "{}")
    except (TypeError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _said(raw: bytes) -> str:
    """The reason inside an error answer, as A1111 (errors, detail) and sd-server (message, error) write it."""
    try:
        content = json.loads(raw)
    except ValueError:
        content = None
    if isinstance(content, dict):
        for key in ("errors", "message", "detail", "error"):
            if content.get(key):
                value = content[key]
                return ": " + _excerpt((value if isinstance(value, str) else json.dumps(value)).encode("utf-8"))
    text = _excerpt(raw)
    return f": {text}" if text else ""


def _excerpt(raw: bytes) -> str:
    text = " ".join(raw.decode("utf-8", "replace").split())
    return text if len(text) <= 160 else text[:160] + "…"
