# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends one alert by ntfy, webhook or mail. A token, a password or a secret address is in no message of an error.

ntfy: docs.ntfy.sh/publish (POST to the topic's address; headers Title, Priority, Tags; Authorization: Bearer).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import email.utils
import http.client
import json
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.header import Header
from email.message import EmailMessage
from typing import Any, Callable

from sd_watchdog import paths
from sd_watchdog.alert_policy import Event
from sd_watchdog.report import duration, sentence
from sd_watchdog.untrusted import clean

SENDMAIL = paths.BASE / "usr/sbin/sendmail"
# For one step of a conversation, and for all of it.
STEP_SECONDS, WHOLE_SECONDS = 15.0, 60.0
# ntfy makes a file of a longer message.
NTFY_BYTES = 3900
# Later than this an alert says when it happened.
LATE_SECONDS = 120.0

_PRIORITY = {"outage": "high", "reboot": "high", "warning": "default", "rung": "default"}
_TAGS = {
    "outage": "rotating_light",
    "recovered": "white_check_mark",
    "warning": "warning",
    "rung": "warning",
    "reboot": "arrows_counterclockwise",
    "test": "bell",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class SendError(Exception):
    """It was not sent; the message is one sentence, without a secret, with the next step."""


@dataclass(frozen=True)
class Channel:
    """A way to people. send() returns a remark, or nothing; it raises SendError."""

    name: str
    send: Callable[[Event], str]


def channels(settings: dict[str, Any]) -> list[Channel]:
    """Those that are set up."""
    found = []
    ntfy, webhook, mail = (_part(settings, name) for name in ("ntfy", "webhook", "mail"))
    proxy = str(settings.get("proxy") or "")
    if ntfy.get("url"):
        found.append(Channel("ntfy", lambda event: send_ntfy(ntfy, proxy, event)))
    if webhook.get("url"):
        found.append(Channel("webhook", lambda event: send_webhook(webhook, proxy, event)))
    if mail.get("to"):
        found.append(Channel("mail", lambda event: send_mail(mail, event)))
    return found


def _part(settings: dict[str, Any], name: str) -> dict[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, dict) else {}


# The words


def title(event: Event) -> str:
    """With the host in it: people have more than one."""
    if event.host and event.host.lower() not in event.title.lower():
        return f"{event.host}: {event.title}"
    return event.title


def text(event: Event) -> str:
    """With what a phone does not show by itself: how long it took, and when it was, if that is long ago."""
    words = sentence(event.text)
    if (
        event.event == "recovered"
        and event.seconds is not None
        and "recovered in" not in f"{event.title} {words}".lower()
    ):
        words = f"Recovered in {duration(event.seconds)}. {words}"
    if event.wall is not None and time.time() - event.wall > LATE_SECONDS:
        with contextlib.suppress(ValueError, OverflowError, OSError):
            words += f"\nThis was at {time.strftime('%H:%M on %Y-%m-%d', time.localtime(event.wall))}."
    return words


# ntfy and webhook


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes to the address that was set and to no other."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Take the redirect for the answer."""


def send_ntfy(settings: dict[str, Any], proxy: str, event: Event) -> str:
    """The text is the body; everything else is in headers, which hold ASCII only."""
    headers = {
        "Title": _header(title(event)),
        "Priority": _PRIORITY.get(event.event, "default"),
        "Tags": _TAGS.get(event.event, "bell"),
        "Content-Type": "text/plain; charset=utf-8",
    }
    if settings.get("token"):
        headers["Authorization"] = f"Bearer {settings['token']}"
    body = text(event).encode("utf-8", "replace")[:NTFY_BYTES].decode("utf-8", "ignore")
    _post("ntfy", str(settings["url"]), body.encode(), headers, proxy)
    return ""


def _header(words: str) -> str:
    """As RFC 2047 where it is not ASCII, which ntfy decodes."""
    if words.isascii():
        return words
    return Header(words, "utf-8", maxlinelen=75).encode(linesep="")


def send_webhook(settings: dict[str, Any], proxy: str, event: Event) -> str:
    """The event as JSON; `text` is what Slack and Mattermost show."""
    headers = {"Content-Type": "application/json"}
    own = settings.get("headers")
    if isinstance(own, dict):
        headers.update({str(name): str(value) for name, value in own.items()})
    body = {"schema": 1, **dataclasses.asdict(event), "title": title(event), "text": text(event)}
    _post("webhook", str(settings["url"]), json.dumps(body).encode(), headers, proxy)
    return ""


def _post(name: str, url: str, body: bytes, headers: dict[str, str], proxy: str) -> None:
    """POST it; raises SendError. The address is named by its host alone: the rest of it may be a secret."""
    address, where, login = _split(name, url)
    if login and not any(header.lower() == "authorization" for header in headers):
        headers = {**headers, "Authorization": login}
    through = " through the proxy" if proxy else ""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        _NoRedirect,
    )
    try:
        request = urllib.request.Request(
            address, data=body, headers={"User-Agent": "sd-watchdog", **headers}, method="POST"
        )
        with deadline(WHOLE_SECONDS), opener.open(request, timeout=STEP_SECONDS) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        error.close()
        raise SendError(f"{name}: {where} {_refusal(name, error.code)}") from None
    except urllib.error.URLError as error:
        raise SendError(f"{name}: {where} cannot be reached{through} ({_reason(error.reason, where)}).") from None
    except (http.client.InvalidURL, ValueError):
        # The words of these errors would be the address or the header itself.
        raise SendError(_unusable(name)) from None
    except (OSError, http.client.HTTPException) as error:
        raise SendError(f"{name}: {where} cannot be reached{through} ({_reason(error, where)}).") from None


def _split(name: str, url: str) -> tuple[str, str, str]:
    """The address without a login, the name of its server, and the login as a header; raises SendError."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SendError(_unusable(name)) from None
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise SendError(_unusable(name))
    login = ""
    if parts.username is not None:
        words = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        login = "Basic " + base64.b64encode(words.encode()).decode("ascii")
    server = f"[{host}]" if ":" in host else host
    if port is not None:
        server = f"{server}:{port}"
    path = urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return urllib.parse.urlunsplit((parts.scheme, server, path, query, "")), server, login


def _unusable(name: str) -> str:
    """For what cannot be sent at all, and cannot be shown either."""
    other = "watchdog_ntfy_token" if name == "ntfy" else "watchdog_webhook_headers"
    return f"{name}: its address or a header cannot be used; look at watchdog_{name}_url and {other} and run site.yml."


def _refusal(name: str, code: int) -> str:
    """What follows the server's name in a sentence."""
    other = "watchdog_ntfy_token" if name == "ntfy" else "watchdog_webhook_headers"
    if code in (401, 403):
        return f"refused the login (status {code}); look at {other} and run site.yml."
    if 300 <= code < 400:
        return f"sends elsewhere (status {code}); set watchdog_{name}_url to the final address and run site.yml."
    if code == 429 or code >= 500:
        return f"is overloaded or out of order (status {code})."
    return f"did not take the alert (status {code}); look at watchdog_{name}_url and run site.yml."


def _reason(error: Any, where: str) -> str:
    """The words of the system for it, which name nothing but the server."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {clean(error.verify_message, 100)}"
    if isinstance(error, socket.gaierror):
        return f"no address is known for {where}"
    if isinstance(error, OSError):
        # One that was raised with words of its own has no number.
        return clean(error.strerror or (str(error) if isinstance(error, TimeoutError) else ""), 100) or "no answer"
    if isinstance(error, http.client.HTTPException):
        return "it does not speak HTTP"
    return "no answer"


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """For all of a conversation: a server that sends a byte now and then may not hold up the others."""

    def expired(*_arguments: Any) -> None:
        raise TimeoutError(f"no answer within {seconds:.0f} s")

    former = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


# Mail


def send_mail(settings: dict[str, Any], event: Event) -> str:
    """By the server that is set, or by this host's own program."""
    to = settings["to"]
    recipients = [str(address) for address in (to if isinstance(to, list) else [to])]
    if any(not _is_address(address) for address in recipients):
        raise SendError("mail: watchdog_mail_to holds something that is no address; correct it and run site.yml.")
    sender = str(settings.get("from") or "") or f"sd-watchdog@{socket.gethostname()}"
    message = EmailMessage()
    try:
        message["From"] = sender
        message["To"] = ", ".join(recipients)
        message["Subject"] = title(event)
    except (ValueError, IndexError):
        raise SendError("mail: watchdog_mail_from is no address; correct it and run site.yml.") from None
    message["Date"] = email.utils.formatdate(localtime=True)
    message["Message-ID"] = email.utils.make_msgid(domain=socket.gethostname())
    # So that nobody's holiday note answers it.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(f"{text(event)}\n\nMore on the host: sd-watchdog status\n")
    if settings.get("server"):
        return _smtp(settings, message, sender, recipients)
    _sendmail(message, sender, recipients)
    return ""


def _is_address(address: str) -> bool:
    """With a host, or the name of a user of this one."""
    if re.fullmatch("[a-z_][a-z0-9_-]*", address):
        return True
    return "@" in address and address.isprintable() and " " not in address and not address.startswith("-")


def _smtp(settings: dict[str, Any], message: EmailMessage, sender: str, recipients: list[str]) -> str:
    server = str(settings["server"])
    user, password = str(settings.get("user") or ""), str(settings.get("password") or "")
    tls = ssl.create_default_context()
    try:
        with deadline(WHOLE_SECONDS), contextlib.ExitStack() as stack:
            port = int(settings.get("port") or 25)
            # The name is given, or it would be asked of the name server, which may be what does not answer.
            name = socket.gethostname()
            if port == 465:
                smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                    server, port, local_hostname=name, timeout=STEP_SECONDS, context=tls
                )
            else:
                smtp = smtplib.SMTP(server, port, local_hostname=name, timeout=STEP_SECONDS)
            stack.callback(smtp.close)
            if settings.get("starttls") and port != 465:
                smtp.starttls(context=tls)
            elif user and port != 465 and server not in _LOOPBACK:
                raise SendError(f"mail: the password would go to {server} in clear; set watchdog_mail_starttls: true.")
            if user:
                smtp.login(user, password)
            refused = smtp.send_message(message, email.utils.parseaddr(sender)[1], recipients)
            # The mail is theirs now, whatever comes of the goodbye.
            with contextlib.suppress(OSError, smtplib.SMTPException):
                smtp.quit()
    except smtplib.SMTPAuthenticationError as error:
        raise SendError(
            f"mail: {server} refused the login (status {error.smtp_code}); look at watchdog_mail_user and "
            "watchdog_mail_password and run site.yml."
        ) from None
    except smtplib.SMTPNotSupportedError:
        raise SendError(
            f"mail: {server} offers no STARTTLS, no login, or no addresses beyond ASCII, which the settings ask for; "
            "look at watchdog_mail_starttls and watchdog_mail_user."
        ) from None
    except smtplib.SMTPRecipientsRefused:
        raise SendError(
            f"mail: {server} takes no mail for {', '.join(recipients)}; look at watchdog_mail_to."
        ) from None
    except smtplib.SMTPResponseException as error:
        raise SendError(f"mail: {server} did not take the mail (status {error.smtp_code}).") from None
    except (OSError, smtplib.SMTPException, ValueError) as error:
        known = isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException)
        raise SendError(f"mail: {server} cannot be reached ({_reason(error if known else None, server)}).") from None
    return f"mail: {server} took no mail for {', '.join(refused)}; look at watchdog_mail_to." if refused else ""


def _sendmail(message: EmailMessage, sender: str, recipients: list[str]) -> None:
    try:
        done = subprocess.run(
            [str(SENDMAIL), "-i", "-f", email.utils.parseaddr(sender)[1], "--", *recipients],
            input=message.as_bytes(),
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=STEP_SECONDS * 2,
        )
    except FileNotFoundError:
        raise SendError(f"mail: there is no {SENDMAIL}; set watchdog_mail_server, or install a mail server.") from None
    except subprocess.TimeoutExpired:
        raise SendError(f"mail: {SENDMAIL} has not ended within {STEP_SECONDS * 2:.0f} s.") from None
    except OSError as error:
        raise SendError(f"mail: {SENDMAIL} cannot be started ({error.strerror}).") from None
    if done.returncode:
        said = clean(done.stderr.decode("utf-8", "replace"), 200) or "no reason given"
        raise SendError(f"mail: {SENDMAIL} ended with status {done.returncode} ({said}).")
