# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A login in front of everything that a web UI serves, its API and its websockets included.

Gradio's own login covers the routes that Gradio itself makes, and only most of them: not what the web UI and its
extensions add. So nothing passes here but what is listed, and who has a login: as "Authorization: Basic", or as the
cookie that Gradio hands out. Runs in the release's own Python, and imports nothing of the release.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOGIN_PATHS = ("/login", "/login/")
# Gradio asks itself for the second one when it starts, and it does nothing after that.
OPEN_PATHS = ("/internal/ping", "/startup-events")
WRONG_PASSWORD_SECONDS = 1.0
# So many passwords a client may try at the same time; the next one is refused unread, and nobody else waits.
ATTEMPTS_AT_ONCE = 4
# More than any login; a longer form would be kept on disk before anybody has logged in.
LOGIN_BYTES = 4096
_PASSED = "sd_webui.login"

# Not Gradio's own login page: Gradio 4 describes the web UI's whole interface in it, and the web UI adds scripts to it
# that may not be read before the login.
PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
form { max-width: 20rem; margin: 15vh auto 0; padding: 0 1rem; }
h1 { font-size: 1.25rem; }
input, button { display: block; box-sizing: border-box; width: 100%; margin: 0 0 1rem; padding: .5rem; font: inherit; }
</style>
</head>
<body>
<form>
<h1>Stable Diffusion web UI</h1>
<label for="username">User name</label>
<input id="username" name="username" autocomplete="username" autocapitalize="none" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in</button>
<p role="alert"></p>
</form>
<script>
const form = document.querySelector("form"), said = document.querySelector("[role=alert]");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  said.textContent = "";
  try {
    const answer = await fetch("login", { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (answer.ok) location.reload();
    else if (answer.status === 429) said.textContent = "Too many attempts: wait a moment.";
    else said.textContent = "Wrong user name or password.";
  } catch {
    said.textContent = "The server does not answer.";
  }
});
</script>
<noscript>The web UI needs JavaScript.</noscript>
</body>
</html>
"""
_PAGE_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
     b"style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"),
]  # fmt: skip
_CHALLENGE = (b"www-authenticate", b'Basic realm="Stable Diffusion web UI", charset="UTF-8"')


class LoginError(Exception):
    """There is no usable login; the message is one sentence and holds no part of it."""


class TooManyAttempts(Exception):
    """This client tries too many passwords at once."""


def read_login(path: Path) -> str:
    """The line user:password of a file, as both Gradio and HTTP can use it; raises LoginError."""
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise LoginError(f"the login file {path} cannot be read ({error.strerror}); run site.yml again.") from None
    except UnicodeDecodeError:
        raise LoginError(f"the login file {path} is not UTF-8; write it again as user:password.") from None
    user, colon, password = text.partition(":")
    if not text.isprintable() or not (colon and user and password):
        raise LoginError(f"the login file {path} does not hold one line user:password; write it again.")
    if "," in text:
        raise LoginError(f"the login file {path} holds a comma, at which Gradio cuts; choose a login without one.")
    if text != text.strip() or user != user.strip():
        raise LoginError(f"the login file {path} has blanks around the login, which get lost; choose one without.")
    return text


class Guard:
    """Decides, for every request, whether it reaches the application."""

    def __init__(self, login: str | None) -> None:
        # A digest is enough to compare with, and cannot be shown by mistake. Without a login only pages of other sites
        # are kept out, which a browser on this PC would let in.
        self._digest = None if login is None else hashlib.sha256(login.encode()).digest()
        # What Gradio is told of who shows the password: its user, and a session that nobody else can name.
        self._user = (login or "").partition(":")[0]
        self._token = secrets.token_urlsafe(32)
        self._attempts: Counter[str] = Counter()

    def protect(self, application_class: Any) -> None:
        """Stand in front of every application of this class, whoever makes it and serves it."""
        inner = application_class.__call__

        @functools.wraps(inner)
        async def guarded(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
            # An application inside another one: the outermost has asked already.
            if scope["type"] == "lifespan" or _PASSED in scope:
                await inner(app, scope, receive, send)
            else:
                await self._decide(functools.partial(inner, app), app, scope, receive, send)

        application_class.__call__ = guarded

    async def _decide(self, inner: Any, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        is_http, path = scope["type"] == "http", scope["path"]
        # A websocket has no method.
        method = scope["method"] if is_http else ""
        passed = {**scope, _PASSED: True}
        try:
            if self._digest is None:
                await _let_in(inner, method, headers, passed, receive, send)
            elif is_http and method == "GET" and path in OPEN_PATHS:
                await inner(passed, receive, send)
            elif is_http and method == "POST" and path in LOGIN_PATHS and _asks_itself(app) and _is_short(headers):
                # Whole before it counts as an attempt: who sends it slowly takes nobody's turn.
                form = await _read_whole(receive)
                with self._attempt(scope):
                    await inner(passed, form, self._slow_refusals(scope, send))
            elif _has_cookie(app, headers):
                await _let_in(inner, method, headers, passed, receive, send)
            elif await self._has_password(scope, headers):
                await _let_in(inner, method, headers, self._introduce(app, passed), receive, send)
            elif is_http and method in ("GET", "HEAD") and path == "/" and _asks_itself(app):
                await _answer(send, 200, _PAGE_HEADERS, PAGE, with_body=method == "GET")
            else:
                await _refuse(is_http, send, 401, "Not authenticated", [_CHALLENGE] if _may_ask(headers) else [])
        except TooManyAttempts:
            await _refuse(is_http, send, 429, "too many attempts to log in", [(b"retry-after", b"2")])

    async def _has_password(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        scheme, _blank, encoded = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        right = hmac.compare_digest(hashlib.sha256(given).digest(), self._digest or b"")
        # This host's own tools: nobody else who asks from here keeps them out.
        if right and _is_this_host(scope):
            return True
        with self._attempt(scope):
            if right:
                return True
            await _make_wait(scope)
        return False

    def _introduce(self, app: Any, scope: Scope) -> Scope:
        """The request with the cookie of a session: Gradio itself knows no passwords, and would ask once more.

        Whoever comes through a gateway shows the password with each request, and never sees Gradio's own login.
        """
        if not _asks_itself(app):
            return scope
        app.tokens[self._token] = self._user
        # Gradio 4 adds an id.
        name = "access-token" + (f"-{app.cookie_id}" if getattr(app, "cookie_id", None) else "")
        own = [value for key, value in scope["headers"] if key == b"cookie"]
        parts = [part.strip() for value in own for part in value.split(b";")]
        kept = [part for part in parts if part and not part.startswith(b"access-token")]
        cookie = b"; ".join([*kept, f"{name}={self._token}".encode()])
        return {**scope, "headers": [item for item in scope["headers"] if item[0] != b"cookie"] + [(b"cookie", cookie)]}

    @contextlib.contextmanager
    def _attempt(self, scope: Scope) -> Iterator[None]:
        client = _client(scope)
        if self._attempts[client] >= ATTEMPTS_AT_ONCE:
            raise TooManyAttempts
        self._attempts[client] += 1
        try:
            yield
        finally:
            self._attempts[client] -= 1
            if not self._attempts[client]:
                del self._attempts[client]

    def _slow_refusals(self, scope: Scope, send: Send) -> Send:
        async def slowly(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                await _make_wait(scope)
            await send(message)

        return slowly


def _client(scope: Scope) -> str:
    return str((scope.get("client") or ("nobody",))[0])


def _is_this_host(scope: Scope) -> bool:
    """Does the request come from the very address that it goes to?"""
    return _client(scope) == (scope.get("server") or ("",))[0]


async def _make_wait(scope: Scope) -> None:
    # A proxy on this host tells the address, so it may hold anything.
    print(f"login refused for {_client(scope)[:64]!a}", flush=True)
    await asyncio.sleep(WRONG_PASSWORD_SECONDS)


def _asks_itself(app: Any) -> bool:
    """Is this a Gradio application that has been given the login?"""
    return bool(getattr(app, "auth", None)) and isinstance(getattr(app, "tokens", None), dict)


def _is_short(headers: dict[bytes, bytes]) -> bool:
    length = headers.get(b"content-length", b"")
    # With both, the length is not what counts (RFC 9112, 6.3).
    return b"transfer-encoding" not in headers and length.isdigit() and len(length) < 9 and int(length) <= LOGIN_BYTES


async def _read_whole(receive: Receive) -> Receive:
    """The request's body, at once and in one message."""
    body = b""
    message: Message = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    whole = [{**message, "body": body} if message["type"] == "http.request" else message]

    async def once() -> Message:
        return whole.pop() if whole else await receive()

    return once


def _has_cookie(app: Any, headers: dict[bytes, bytes]) -> bool:
    """Gradio 3 calls it access-token and access-token-unsecure; Gradio 4 adds a dash and an id to both."""
    tokens = getattr(app, "tokens", None)
    if not isinstance(tokens, dict):
        return False
    for cookie in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _equals, value = cookie.strip().partition("=")
        if name.startswith("access-token") and value in tokens:
            return True
    return False


async def _let_in(
    inner: Any, method: str, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
) -> None:
    """For whoever may use the web UI: unless it is another site's page that makes the browser ask."""
    if _is_from_elsewhere(method, headers):
        await _refuse(scope["type"] == "http", send, 403, "asked for by a page of another site")
    else:
        await inner(scope, receive, send)


def _is_from_elsewhere(method: str, headers: dict[bytes, bytes]) -> bool:
    """A browser sends cookies and known passwords for any page that asks, and says here whose page it is."""
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is None and origin is not None and method not in ("GET", "HEAD"):
        # Over plain HTTP to another PC browsers say only whose page changes something or opens a websocket.
        return origin.partition(b"://")[2].lower() not in (headers.get(b"host"), headers.get(b"x-forwarded-host"))
    if site != b"cross-site":
        return False
    # A link to the web UI, but not a frame around it.
    is_link = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") in (None, b"document")
    return not (method in ("GET", "HEAD") and is_link)


def _may_ask(headers: dict[bytes, bytes]) -> bool:
    """Not while a page loads its parts: the browser would lay its own login window over the page."""
    is_browser = b"mozilla" in headers.get(b"user-agent", b"").lower()
    return not is_browser or b"text/html" in headers.get(b"accept", b"")


async def _refuse(
    is_http: bool, send: Send, status: int, reason: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    if is_http:
        body = b'{"detail":"%s"}' % reason.encode()
        await _answer(send, status, [(b"content-type", b"application/json"), *(headers or [])], body)
    else:
        # Before it is accepted: the server answers with HTTP 403.
        await send({"type": "websocket.close", "code": 1008})


async def _answer(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, with_body: bool = True
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body if with_body else b""})
