# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage hosts as hubs have them: signed URLs, ranges, and everything that can go wrong on the way."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import itertools
import re
import sys
import termios
import time
import urllib.parse
from collections.abc import Iterable
from datetime import datetime, timezone
from email.utils import formatdate
from pathlib import Path
from typing import Any

from hubs import content
from hubs.body import Manner, Sender
from hubs.content import StoredFile
from hubs.faults import Faults
from hubs.server import Handler, Server

LIFETIME = 3600
KEY = b"not a secret"
LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Please log in.</body></html>\n"
NO_FAULTS = Faults()


class Storage(Server):
    """/signed/NAME with a signature, /plain/NAME for everybody, /private/NAME with a token, /redirect/URL."""

    software = "AmazonS3"

    def __init__(self, *arguments: Any, folder: Path, files: dict[str, StoredFile], **more: Any) -> None:
        self.folder = folder
        # By name; two servers of one hub share them.
        self.files = files
        self.tokens: set[str] = set()
        self._signed: dict[str, tuple[float, int]] = {}
        self._numbers = itertools.count(1)
        super().__init__(*arguments, **more)

    def reset(self) -> None:
        """No files, no tokens."""
        for stored in self.files.values():
            if stored.path.parent == self.folder:
                stored.path.unlink(missing_ok=True)
        self.files.clear()
        self.tokens.clear()

    # What there is.

    def add(self, name: str, size: int, seed: int = 1, head: bytes | None = None) -> StoredFile:
        """Make a file up. One whose name ends in .safetensors is a valid one, unless `head` says how it begins."""
        if head is None:
            head = content.safetensors_head(size) if name.endswith(".safetensors") else b""
        return self._placed(name, content.blocks(size, seed, head))

    def add_bytes(self, name: str, data: bytes) -> StoredFile:
        """A file with just this content. One that has the name already is changed."""
        return self._placed(name, [data])

    def add_file(self, name: str, path: Path, sha256: str | None = None) -> StoredFile:
        """A file that is there already, and stays where it is."""
        if sha256 is None:
            sha256 = content.sha256_of(path)
        return self._added(name, path, path.stat().st_size, sha256)

    def _placed(self, name: str, parts: Iterable[bytes]) -> StoredFile:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / hashlib.sha256(name.encode()).hexdigest()[:16]
        # A new file beside the old one: somebody may be reading that.
        fresh = path.with_suffix(".new")
        size, sha256 = content.write(fresh, parts)
        fresh.replace(path)
        return self._added(name, path, size, sha256)

    def _added(self, name: str, path: Path, size: int, sha256: str) -> StoredFile:
        stored = StoredFile(name, path, size, sha256, f"{self.url}/plain/{urllib.parse.quote(name)}")
        self.files[name] = stored
        return stored

    def sign(self, stored: StoredFile, file_name: str | None = None, lifetime: int = LIFETIME) -> str:
        """A URL that is good for a while, as the hubs hand them out. It says what the file is to be called."""
        now = datetime.now(timezone.utc)
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD",
            "X-Amz-Credential": f"stand-in/{now:%Y%m%d}/auto/s3/aws4_request",
            "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": str(lifetime),
            "X-Amz-SignedHeaders": "host",
            "response-content-disposition": f'attachment; filename="{file_name or stored.name.rpartition("/")[2]}"',
            # Two URLs of one second differ, too.
            "x-id": f"GetObject{next(self._numbers)}",
        }
        path = f"/signed/{urllib.parse.quote(stored.name)}"
        text = f"{path}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"
        signature = hmac.new(KEY, text.encode(), "sha256").hexdigest()
        self._signed[signature] = (time.monotonic(), 0)
        return f"{self.url}{text}&X-Amz-Signature={signature}"

    def redirect_to(self, url: str, status: int = 302) -> str:
        """A URL that leads to another one."""
        return f"{self.url}/redirect/{status}/{urllib.parse.quote(url, safe='')}"

    # What it answers.

    def latency(self, path: str) -> float:
        return self._faults_of(path).latency

    def _faults_of(self, path: str) -> Faults:
        return self.faults if self.faults.only in path else NO_FAULTS

    def respond(self, handler: Handler) -> None:
        kind, _, name = handler.plain_path.lstrip("/").partition("/")
        if kind == "redirect":
            status, _, url = handler.path.removeprefix("/redirect/").partition("/")
            handler.redirect(int(status), urllib.parse.unquote(url))
            return
        if handler.command not in ("GET", "HEAD"):
            self.refuse(handler, 405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
            return
        if kind == "private":
            if handler.token not in self.tokens:
                handler.send(401, b"A token is needed.", {"WWW-Authenticate": "Bearer"})
                return
        elif "Authorization" in handler.headers:
            # A signed URL needs none, and whoever sends one as well has given its secret to a stranger.
            self.refuse(handler, 400, "InvalidArgument", "Only one auth mechanism allowed")
            return
        if kind == "signed" and not self.signature_holds(handler):
            return
        stored = self.files.get(name) if kind in ("signed", "plain", "private") else self.find(handler, kind)
        if stored is None:
            self.refuse(handler, 404, "NoSuchKey", "The specified key does not exist.")
        else:
            self.send_file(handler, stored)

    def find(self, handler: Handler, kind: str) -> StoredFile | None:
        """What else this server has below its root."""
        return None

    def refuse(self, handler: Handler, status: int, code: str, message: str) -> None:
        """In the words that S3 has made usual."""
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        handler.send(status, text.encode(), {"Content-Type": "application/xml"})

    def signature_holds(self, handler: Handler) -> bool:
        """Whether the URL is one of ours, for GET, and not too old."""
        text, _, signature = handler.path.rpartition("&X-Amz-Signature=")
        expected = hmac.new(KEY, text.encode(), "sha256").hexdigest()
        if handler.command != "GET" or not hmac.compare_digest(signature, expected):
            message = "The request signature we calculated does not match the signature you provided."
            self.refuse(handler, 403, "SignatureDoesNotMatch", message)
            return False
        faults = self._faults_of(handler.path)
        # One that was signed by the same server before it was started again counts as new.
        with self.lock:
            made, used = self._signed.get(signature, (time.monotonic(), 0))
            self._signed[signature] = (made, used + 1)
        lifetime = float(handler.query["X-Amz-Expires"])
        if faults.url_lifetime is not None:
            lifetime = faults.url_lifetime
        too_often = faults.url_requests is not None and used >= faults.url_requests
        if too_often or time.monotonic() - made > lifetime or made <= self.faults.expired_before:
            self.refuse(handler, faults.expired_status, "AccessDenied", "Request has expired")
            return False
        return True

    def send_file(self, handler: Handler, stored: StoredFile) -> None:
        """The file or the range that is asked for, in whatever manner the faults say."""
        faults = self._faults_of(handler.path)
        etag, size = stored.etag, stored.size
        if faults.reached("etag_after"):
            etag = stored.next_etag
        if faults.reached("size_change_after"):
            size -= 1
        if faults.html_error:
            handler.send(200, LOGIN_PAGE, {"Content-Type": "text/html; charset=utf-8"})
            return
        if handler.headers.get("If-Match", etag) != etag:
            self.refuse(handler, 412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
            return
        headers = self._head_of(handler, stored, etag)
        span = None
        if not faults.ignore_range and handler.headers.get("If-Range", etag) == etag:
            span = range_of(handler.headers.get("Range"), size)
        if span == UNSATISFIABLE or (faults.refuse_range and "Range" in handler.headers):
            headers = {"Content-Range": f"bytes */{size}"}
            handler.send(416, b"", headers)
            return
        first, last = span or (0, size - 1)
        if span:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._send_body(handler, stored, first, last - first + 1, headers, faults)

    def _head_of(self, handler: Handler, stored: StoredFile, etag: str) -> dict[str, str]:
        query = handler.query
        headers = {
            "Content-Type": query.get("response-content-type", "application/octet-stream"),
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Last-Modified": formatdate(stored.path.stat().st_mtime, usegmt=True),
        }
        if "response-content-disposition" in query:
            headers["Content-Disposition"] = query["response-content-disposition"]
        return headers

    def _send_body(
        self, handler: Handler, stored: StoredFile, first: int, length: int, headers: dict[str, str], faults: Faults
    ) -> None:
        if faults.no_content_length:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(max(0, length + faults.content_length_delta))
            if faults.content_length_delta:
                # What comes after would be taken for the next answer.
                handler.close_connection = True
        handler.send_head(206 if "Content-Range" in headers else 200, headers)
        if handler.command == "HEAD":
            return
        manner = Manner(faults.bytes_per_second, chunked=faults.no_content_length)
        if faults.trickle is not None and length > faults.trickle_after and faults.spend("trickle_times"):
            manner.trickle, manner.trickle_after = faults.trickle, faults.trickle_after
        bad = faults.wrong_byte
        if bad is not None and first <= bad < first + length and faults.spend("wrong_times"):
            manner.wrong_byte = bad - first
        stalls = faults.stall_after is not None and length > faults.stall_after and faults.spend("stall_times")
        cut = faults.cut_after is not None and length > faults.cut_after and faults.spend("cut_times")
        if stalls or cut:
            manner.until = faults.stall_after if stalls else faults.cut_after
        with stored.path.open("rb") as file:
            Sender(handler.connection, handler.request_of, self.stopping).send(file.fileno(), first, length, manner)
        if stalls:
            self.stopping.wait()
        if cut:
            handler.close_connection = True
            if not faults.cut_politely:
                # A reset takes with it what is still on its way, however much that is on a busy machine.
                self._wait_for_arrival(handler)
                handler.reset()

    def _wait_for_arrival(self, handler: Handler) -> None:
        """Until the client's side has all that was sent."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not self.stopping.wait(0.05):
            on_its_way = fcntl.ioctl(handler.connection.fileno(), termios.TIOCOUTQ, bytes(4))
            if not int.from_bytes(on_its_way, sys.byteorder):
                return


UNSATISFIABLE = (0, -1)


def range_of(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte that are asked for. Several ranges at once are not served: all of the file comes."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if not found or found.group(0) == "bytes=-":
        return None
    start, end = found.groups()
    if not start:
        return (max(0, size - int(end)), size - 1) if int(end) and size else UNSATISFIABLE
    last = min(int(end), size - 1) if end else size - 1
    if int(start) >= size:
        return UNSATISFIABLE
    return (int(start), last) if last >= int(start) else None


class Mirror(Storage):
    """A neighbour's copy of some files: /SHA256 and /NAME. Its faults are its own."""

    software = "nginx"

    def share(self, stored: StoredFile) -> str:
        """Serve this file, and give the URL by its SHA-256."""
        self.files[stored.name] = stored
        self.files[stored.sha256] = stored
        return f"{self.url}/{stored.sha256}"

    def share_wrong(self, stored: StoredFile, data: bytes) -> str:
        """Serve something else under this file's names."""
        wrong = self.add_bytes(f"wrong {stored.name}", data)
        self.files[stored.name] = self.files[stored.sha256] = wrong
        return f"{self.url}/{stored.sha256}"

    def find(self, handler: Handler, kind: str) -> StoredFile | None:
        return self.files.get(handler.plain_path.lstrip("/"))
