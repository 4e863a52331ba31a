# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Civitai means by a status, in one sentence with the next step. Private to this collection."""

from __future__ import annotations

import re
from typing import Callable
from urllib.parse import urlsplit

from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_request import HUB, clean
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_version import (
    File,
    Version,
    archived_sentence,
    table,
    text,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError, HttpError, origin

ACCOUNT = f"{HUB}/user/account"
SUPPORT = "support@civitai.com"


def explanation(version: Version, file: File, base: str, token: bool) -> Callable[[HttpError], DownloadError]:
    """What a status of the download address means."""

    def explain(error: HttpError) -> DownloadError:
        if origin(error.url) != origin(base):
            return DownloadError(
                f"{host_of(error.url)}, where {host_of(base)} keeps {file}, answered with status {error.status}: try "
                "again later."
            )
        sentence = refusal(str(version), base, token, error)
        if error.status == 403 and _said(error) == "early access":
            sentence = _early_access(version, base, error)
        elif error.status == 404:
            sentence = (
                f"{host_of(base)} does not find {file} of {version}: try again later, as its storage may have a fault, "
                "or look on the site whether the file is still there."
            )
        elif error.status == 410:
            sentence = archived_sentence(version)
        return DownloadError(sentence) if sentence else error

    return explain


def is_final(error: HttpError) -> bool:
    """Whether the account, the creator or the day decides it, and not which address of the hub was asked how often."""
    said = _said(error)
    return (
        error.status == 410
        or (error.status == 401 and bool(said))
        or (error.status == 403 and (said == "early access" or "do not have access" in said))
        or (error.status == 429 and "unusual amount" in said)
    )


def refusal(what: str, base: str, token: bool, error: HttpError) -> str | None:
    """The statuses that mean the same for everything that Civitai is asked."""
    host, said = host_of(base), _said(error)
    if error.status == 400 and "/api/v1/" in error.url:
        return f"{host} knows no such number or hash as that of {what} (HTTP 400): correct it."
    if error.status == 400:
        return f"{host} cannot read the request for {what} (HTTP 400): choose the file with file_id."
    if error.status == 401 and "disabled downloads" in said:
        return f"The creator of {what} has disabled downloads on {host}: choose another version or another model."
    if error.status == 401 and token:
        return f"{host} does not accept the token for {what}: it is wrong or was deleted, make a new one at {ACCOUNT}."
    if error.status == 401:
        return f"{host} wants a login for {what}: make an API key at {ACCOUNT}, and set token to it."
    if error.status == 403 and "do not have access" in said:
        whose = "the token's account" if token else "anonymous people"
        return f"{host} does not let {whose} download {what}: ask its creator for access, or choose another version."
    if error.status == 403 and error.json() is not None:
        return f"{host} has blocked this host's address or account (HTTP 403 for {what}): write to {SUPPORT}."
    if error.status == 403:
        return (
            f"The firewall before {host} refuses this host (HTTP 403 for {what}): try again later, or add another "
            "address of the hub to base_urls."
        )
    if error.status == 429 and "unusual amount" in said:
        return (
            f"{host} has counted too many downloads by this account or address within a day (HTTP 429 for {what}): run "
            f"this again tomorrow, or write to {SUPPORT}."
        )
    if error.status == 429:
        return f"{host} gets too many requests from here (HTTP 429 for {what}): run this again in some minutes."
    if error.status == 451:
        return (
            f"{host} does not serve the region of this host (HTTP 451 for {what}): add another address of the hub to "
            "base_urls, or a copy of the file to mirrors."
        )
    return None


def _early_access(version: Version, base: str, error: HttpError) -> str:
    until = text(table(error.json()).get("deadline")) or version.early_access_until
    wait = f" until {date(until)}" if until else ""
    page = f"{base}/models/{version.model_id}?modelVersionId={version.id}"
    return (
        f"{version} is in early access{wait}: buy it at {page} and set token to that account's, "
        f"{'wait, ' if until else ''}or choose an older version with version_id."
    )


def _said(error: HttpError) -> str:
    """The reason that a refusal names, in lower case."""
    answer = table(error.json())
    texts = [value.lower() for value in (answer.get("error"), answer.get("message")) if isinstance(value, str)]
    if "early access" in texts:
        return "early access"
    return " ".join(texts)


def date(text: str) -> str:
    found = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::[\d.]+)?(Z|\+00:00)?", text)
    return f"{found[1]} {found[2]}{' UTC' if found[3] else ''}" if found else clean(text)


def host_of(base: str) -> str:
    return urlsplit(base).netloc.rpartition("@")[2]
