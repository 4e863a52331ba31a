# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks hubs and storage hosts, and sees to it that a token stays with its hub. Private to this collection."""

from __future__ import annotations

import contextlib
import email.utils
import fnmatch
import ipaddress
import json
import os
import random
import re
import socket
import threading
import time
import traceback
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable
from urllib.parse import unquote, urljoin, urlsplit

REQUESTS_ERROR: str | None = None
try:
    import requests
    import requests.adapters
    import requests.utils
except ImportError:
    REQUESTS_ERROR = traceback.format_exc()

# Civitai's edge refuses the name of urllib, and sends people's pages to whatever looks like a browser.
USER_AGENT = "secondhand.diffusion (+https://github.com/secondhand-diffusion/secondhand.diffusion)"
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 8
# What a server or something in front of it says when it is overloaded or restarting.
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
# Of a signed URL that has expired, or of a storage that no longer has the file there.
EXPIRED = (400, 401, 403, 404, 410)
MAX_BACKOFF = 30.0
CONNECT_TIMEOUT = 20.0
MAX_ERROR_BODY = 64 * 1024
MAX_JSON = 64 * 1024 * 1024
# IPv6 addresses with an IPv4 address in them, which a gateway of the network reaches.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class DownloadError(Exception):
    """What was wanted could not be had; the message is one sentence with the next step and no secret in it."""


class HttpError(DownloadError):
    """A final answer with a status that nobody wanted."""

    def __init__(self, url: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(
            f"{redact(url)} answered with status {status}{_reason(headers, body)}: check the address,"
            " or try again later if the server has a problem."
        )
        self.url = url
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any | None:
        """The answer's JSON; None when it is something else."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class Refused(DownloadError):
    """Neither a second try nor another address of the same hub would change it."""


@dataclass(frozen=True)
class Source:
    """Where a file may be had."""

    url: str
    # The hub's own sentence for a status.
    explain: Callable[[HttpError], DownloadError] | None = None
    # Statuses that may be transient here, as Civitai's 404 for a storage that hiccups.
    retry: frozenset[int] = frozenset()
    # Whether an answer is the hub's last word.
    is_final: Callable[[HttpError], bool] | None = None
    # Believed only by SHA-256.
    mirror: bool = False


@dataclass(frozen=True)
class Location:
    """Where the bytes are, after all redirects: often a signed URL that expires."""

    url: str
    size: int | None
    etag: str | None
    # Whether the host serves a part of the file.
    ranges: bool
    # Of the first answer, in which a hub says what it knows about the file.
    hub_headers: Mapping[str, str] = field(default_factory=dict)
    # As Content-Disposition has it: nothing that can be used without being made safe.
    file_name: str | None = None
    # What changes when the file does, though it does not vouch for each byte as an ETag can.
    version: str | None = None

    @property
    def host(self) -> str:
        return origin(self.url)


def redact(url: str) -> str:
    """Without user information, query and fragment, in which secrets and signatures stand."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "An address that cannot be read"
    if not parts.scheme:
        return url.partition("?")[0]
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def origin(url: str) -> str:
    """Scheme, host and port, which decide who may see a token."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError as exc:
        raise DownloadError(f"{redact(url)} has a host or port that is none: correct it.") from exc
    return f"{parts.scheme.lower()}://{(parts.hostname or '').lower()}:{port}"


def is_base(url: str) -> bool:
    """Whether paths can be put behind this address."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
    except ValueError:
        return False


def is_private(address: str) -> bool:
    """Whether an address belongs to this host, to the LAN, or to nobody."""
    there: Any = ipaddress.ip_address(address.partition("%")[0])
    if there in _NAT64:
        there = ipaddress.ip_address(int(there) & 0xFFFFFFFF)
    return not there.is_global or there.is_multicast or getattr(there, "is_site_local", False)


@dataclass(frozen=True)
class HostPolicy:
    """Which hosts may be asked: what the user wrote, and where a hub may send us from there."""

    # URLs that the user wrote: these may be plain HTTP and may be in the LAN.
    configured: tuple[str, ...] = ()
    # Hosts that a redirect may lead to ("civitai.com", "*.civitai.com"), or whole origins ("http://10.0.0.5:8190"),
    # which then count as written by the user. Nothing: any public host, by https.
    allowed: tuple[str, ...] = ()

    def check(self, url: str, proxied: bool = False) -> None:
        """Raises DownloadError for an address that must not be asked."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or not host:
            raise DownloadError(f"'{redact(url)}' is no http or https address: correct it.")
        known = {origin(entry) for entry in (*self.configured, *self.allowed) if "://" in entry}
        if origin(url) in known:
            return
        if parts.scheme != "https":
            raise DownloadError(
                f"The download is sent on to {redact(url)}, which is not encrypted: "
                f"if you trust that, add '{parts.scheme}://{parts.netloc.rpartition('@')[2]}' to allowed_hosts."
            )
        patterns = [entry.lower() for entry in self.allowed if "://" not in entry]
        if patterns and not any(fnmatch.fnmatchcase(host, pattern) for pattern in patterns):
            raise DownloadError(
                f"The download is sent on to {host}, which is none of the hub's known hosts: "
                f"if you trust that, add '{host}' to allowed_hosts."
            )
        # A proxy resolves names itself. A name that changes between this look and the connection is not caught.
        if not proxied and any(is_private(address) for address in _addresses(host)):
            raise DownloadError(
                f"The download is sent on to {host}, which is a private address: "
                f"if you trust that, add 'https://{parts.netloc.rpartition('@')[2]}' to allowed_hosts."
            )


def _addresses(host: str) -> list[str]:
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError):
        # The request itself says that the name is not known, and is tried again.
        return []


class Client:
    """Sends GET requests only, follows redirects by hand, waits when a server says so, and gives up in the end."""

    def __init__(
        self,
        policy: HostPolicy,
        token: str | None = None,
        token_for: tuple[str, ...] = (),
        *,
        timeout: float = 60,
        retries: int = 5,
        max_wait: float = 600,
        ca_path: str | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.policy = policy
        self.timeout = timeout
        self.retries = retries
        self._token = token
        self._token_for = frozenset(origin(url) for url in token_for)
        self._wait_left = max_wait
        self._on_wait = on_wait
        self._verify: str | bool = (
            ca_path or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        )
        self._local = threading.local()
        self._lock = threading.Lock()
        # Ends all waiting.
        self.stopped = threading.Event()
        if token:
            for url in token_for:
                self._refuse_open_token(url)

    def _refuse_open_token(self, url: str) -> None:
        host = urlsplit(url).hostname or ""
        if urlsplit(url).scheme == "http" and not all(
            is_private(address) for address in _addresses(host) or ["8.8.8.8"]
        ):
            raise DownloadError(f"The token would travel unencrypted to {redact(url)}: use an https address.")

    # Single requests

    def get(
        self, url: str, headers: Mapping[str, str] | None = None, params: Mapping[str, str] | None = None
    ) -> requests.Response:
        """One request, one answer, whatever it is, with the body not yet read; redirects are not followed."""
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Accept": "*/*", **(headers or {})}
        try:
            request = requests.Request("GET", url, headers=sent, params=params).prepare()
            # From here on in the form that is connected to: urlsplit and urllib3 see two different hosts in http://a\@b.
            url = request.url or ""
            proxies = requests.utils.get_environ_proxies(url)
            self.policy.check(url, proxied=bool(requests.utils.select_proxy(url, proxies)))
            if self._token and origin(url) in self._token_for:
                request.headers.setdefault("Authorization", f"Bearer {self._token}")
            return self._adapter().send(
                request,
                stream=True,
                proxies=proxies,
                verify=self._verify,
                timeout=(min(CONNECT_TIMEOUT, self.timeout), self.timeout),
            )
        except ValueError as exc:
            raise DownloadError(
                f"{redact(url)} is an address that cannot be asked: correct it, or the proxy in the environment."
            ) from exc

    def follow(
        self, url: str, headers: Mapping[str, str] | None = None, params: Mapping[str, str] | None = None
    ) -> tuple[requests.Response, Mapping[str, str]]:
        """The answer after all redirects, and the headers of the first one."""
        first: Mapping[str, str] | None = None
        for _hop in range(MAX_REDIRECTS):
            answer = self.get(url, headers, params)
            first = answer.headers if first is None else first
            target = answer.headers.get("Location")
            if answer.status_code not in REDIRECTS or not target:
                return answer, first
            answer.close()
            # The address carries its own parameters.
            try:
                url, params = urljoin(answer.url, _utf8(target)), None
            except ValueError as exc:
                raise DownloadError(
                    f"{redact(answer.url)} sends the download on to an address that cannot be read: correct it."
                ) from exc
        raise DownloadError(f"{redact(url)} is the end of {MAX_REDIRECTS} redirects in a row: correct the address.")

    def _adapter(self) -> requests.adapters.HTTPAdapter:
        """Not a session: that reads redirects' bodies to their end, keeps cookies, and sends what .netrc has."""
        adapter: requests.adapters.HTTPAdapter | None = getattr(self._local, "adapter", None)
        if adapter is None:
            adapter = self._local.adapter = requests.adapters.HTTPAdapter()
        return adapter

    # Requests that are worth a second try

    def ask(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        retry: Container[int] = (),
        accept: Container[int] = (200,),
        retries: int | None = None,
        is_final: Callable[[HttpError], bool] | None = None,
    ) -> tuple[requests.Response, Mapping[str, str]]:
        """As follow, until the status is accepted. Raises HttpError, or DownloadError when no answer comes."""
        attempt = 0
        retries = self.retries if retries is None else retries
        while True:
            try:
                answer, first = self.follow(url, headers, params)
            except requests.RequestException as exc:
                attempt += 1
                if attempt > retries or is_hopeless(exc) or not self.pause(attempt, redact(url), None):
                    raise unreachable(url, exc) from exc
                continue
            if answer.status_code in accept:
                return answer, first
            error = HttpError(answer.url, answer.status_code, answer.headers, error_body(answer))
            attempt += 1
            if is_final and is_final(error):
                raise error
            if (error.status not in TRANSIENT and error.status not in retry) or attempt > retries:
                raise error
            if not self.pause(attempt, redact(url), error):
                raise error

    def get_json(
        self, url: str, params: Mapping[str, str] | None = None, retry: Container[int] = ()
    ) -> tuple[Any, Mapping[str, str]]:
        """JSON and the headers it came with."""
        body, headers = self._whole(url, params, retry, MAX_JSON, {"Accept": "application/json"})
        try:
            return json.loads(body), headers
        except (ValueError, RecursionError) as exc:
            raise DownloadError(
                f"{redact(url)} answered with something that is not JSON: check the address, it may be that of a page."
            ) from exc

    def get_bytes(self, url: str, limit: int) -> tuple[bytes, Mapping[str, str]]:
        """Something small that nobody needs, whole. Raises DownloadError when it has more bytes than the limit."""
        return self._whole(url, None, (), limit, {}, min(1, self.retries))

    def _whole(
        self,
        url: str,
        params: Mapping[str, str] | None,
        retry: Container[int],
        limit: int,
        headers: Mapping[str, str],
        retries: int | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        attempt = 0
        retries = self.retries if retries is None else retries
        while True:
            answer, _first = self.ask(url, headers, params, retry, retries=retries)
            try:
                with answer:
                    body = b"".join(_until(answer, limit))
            except requests.RequestException as exc:
                attempt += 1
                if attempt > retries or not self.pause(attempt, redact(url), None):
                    raise unreachable(url, exc) from exc
                continue
            return body, answer.headers

    def locate(self, source: Source, again: bool = True) -> Location:
        """Asks for the first byte, because hubs answer HEAD differently, and tells where the file is."""
        try:
            answer, first = self.ask(
                source.url,
                {"Range": "bytes=0-0"},
                retry=source.retry,
                accept=(200, 206, 416),
                # There is another source behind it.
                retries=0 if source.mirror else None,
                is_final=source.is_final,
            )
        except HttpError as error:
            if source.is_final and source.is_final(error):
                raise Refused(str(source.explain(error) if source.explain else error)) from error
            if again and error.status in EXPIRED and origin(error.url) != origin(source.url):
                # An address that was signed a while ago, from a cache on the way.
                return self.locate(source, again=False)
            raise source.explain(error) if source.explain else error from error
        with answer:
            return self._location(source, answer, first)

    def _location(self, source: Source, answer: requests.Response, first: Mapping[str, str]) -> Location:
        size: int | None
        if answer.status_code == 200:
            length = answer.headers.get("Content-Length")
            size, ranges = int(length) if length and length.isascii() and length.isdigit() else None, False
        else:
            # Without a header that says what was asked for, it has to be the whole file; so with 416 for an empty one.
            found = re.fullmatch(r"bytes (0-0|\*)/(\d+)", answer.headers.get("Content-Range", ""))
            if answer.status_code == 416 and found and int(found[2]):
                body = error_body(answer)
                raise HttpError(answer.url, answer.status_code, answer.headers, body)
            size, ranges = (int(found[2]), found[1] == "0-0") if found else (None, False)
        if answer.headers.get("Content-Encoding", "identity") not in ("", "identity"):
            size, ranges = None, False
        return Location(
            url=answer.url,
            size=size,
            etag=strong(answer.headers.get("ETag")),
            ranges=ranges,
            hub_headers=first,
            file_name=disposition_name(answer.headers.get("Content-Disposition")),
            version=version_of(answer.headers),
        )

    # Waiting

    def pause(self, attempt: int, who: str, error: HttpError | None) -> bool:
        """Waits before another try, as long as the server asks for; False when it asks for more than is left."""
        asked = None if error is None else asked_wait(error.headers)
        seconds = min(MAX_BACKOFF, 2.0 ** (attempt - 1)) * random.uniform(0.8, 1.0) if asked is None else asked
        with self._lock:
            if seconds > self._wait_left:
                return False
            self._wait_left -= seconds
        if self._on_wait:
            why = "is not answering" if error is None else f"answered with status {error.status}"
            self._on_wait(f"{who} {why}, waiting {seconds:.0f} s")
        return not self.stopped.wait(seconds)


def _until(answer: requests.Response, limit: int) -> list[bytes]:
    """The body in blocks, unless it is larger than the limit."""
    blocks: list[bytes] = []
    left = limit
    for block in answer.iter_content(64 * 1024):
        left -= len(block)
        if left < 0:
            raise DownloadError(f"{redact(answer.url)} answered with more than {limit} bytes: check the address.")
        blocks.append(block)
    return blocks


def error_body(answer: requests.Response) -> bytes:
    """The beginning of an answer's body, and the end of the answer."""
    try:
        with answer:
            return next(iter(answer.iter_content(MAX_ERROR_BODY)), b"")
    except requests.RequestException:
        return b""


def is_hopeless(error: Exception) -> bool:
    """Whether a second try would fail in the same way."""
    return isinstance(error, (requests.exceptions.SSLError, requests.exceptions.InvalidURL, ValueError))


def unreachable(url: str, error: Exception) -> DownloadError:
    """A sentence for a network failure, whose own text is long and may hold an address with a signature."""
    reasons = {
        "SSLError": "its certificate is not valid here (a certificate authority of your own goes into ca_path)",
        "ProxyError": "the proxy cannot be used",
        "ConnectTimeout": "it does not answer",
        "ReadTimeout": "it stopped answering",
        "InvalidURL": "the address is not valid",
    }
    kind = type(error).__name__
    text = str(error)
    reason = reasons.get(kind, "the connection fails")
    if "Name or service not known" in text or "NameResolution" in text or "name resolution" in text:
        reason = "its name is not known here"
    elif "Connection refused" in text:
        reason = "it refuses the connection"
    elif "No route to host" in text or "unreachable" in text:
        reason = "there is no route to it"
    return DownloadError(f"{redact(url)} cannot be reached, {reason}: check the host's network, proxy and clock.")


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, by Retry-After or Hugging Face's RateLimit; None when it does not say."""
    after = (headers.get("Retry-After") or "").strip()
    if after.isascii() and after.isdigit():
        return float(after)
    if after:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
        except (TypeError, ValueError):
            pass
    window = re.search(r"\br=0\b.*?\bt=(\d+)", headers.get("RateLimit", ""))
    return float(window[1]) if window else None


def strong(etag: str | None) -> str | None:
    """An ETag that tells two different files apart byte by byte; a weak one does not."""
    return None if not etag or etag.startswith("W/") else etag


def version_of(headers: Mapping[str, str]) -> str | None:
    """An ETag, weak or not, or else a date: when it is another one, so is the file."""
    return headers.get("ETag") or headers.get("Last-Modified")


def disposition_name(header: str | None) -> str | None:
    """The file name in a Content-Disposition, as the server wrote it."""
    if not header:
        return None
    header = _utf8(header)
    extended = re.search(r"filename\*\s*=\s*\"?([\w-]+)'[^']*'([^;\"]+)", header, re.IGNORECASE)
    if extended:
        try:
            return unquote(extended[2].strip(), encoding=extended[1], errors="strict")
        except (LookupError, UnicodeDecodeError):
            pass
    quoted = re.search(r'filename\s*=\s*"((?:[^"\\]|\\.)*)"', header, re.IGNORECASE)
    if quoted:
        return re.sub(r"\\(.)", r"\1", quoted[1])
    plain = re.search(r"filename\s*=\s*([^;]+)", header, re.IGNORECASE)
    return plain[1].strip() if plain else None


def _utf8(header: str) -> str:
    """requests hands headers out as Latin-1, while servers send UTF-8 as well."""
    with contextlib.suppress(UnicodeError):
        return header.encode("latin-1").decode("utf-8")
    return header


def _reason(headers: Mapping[str, str], body: bytes) -> str:
    """What the server says about it, when that is one short text."""
    text = headers.get("X-Error-Message", "")
    if not text:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return ""
        found = [answer.get(key) for key in ("error", "message")] if isinstance(answer, dict) else []
        text = next((value for value in found if isinstance(value, str)), "")
    text = " ".join("".join(char for char in text if char.isprintable()).split())
    return f" ({text[:200]})" if text else ""
