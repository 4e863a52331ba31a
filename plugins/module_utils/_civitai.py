# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks Civitai's API, and tells where its files are. Private to this collection: not an interface for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_errors import (
    date,
    explanation,
    host_of,
    is_final,
    refusal,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_request import Request, request_of
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_version import (
    WEIGHTS,
    File,
    Version,
    choose_version,
    table,
    text,
    version_of,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    Client,
    DownloadError,
    HttpError,
    Source,
    redact,
)

# Downloads are sent on to signed addresses: b2.civitai.com, Backblaze itself, or a bucket of Cloudflare's R2, of which
# Civitai has used several. Pictures come from image.civitai.com and its relatives.
HOSTS = (
    "civitai.com",
    "*.civitai.com",
    "civitai.red",
    "*.civitai.red",
    "civitai.green",
    "*.civitai.green",
    "*.r2.cloudflarestorage.com",
    "*.backblazeb2.com",
)


def request_key(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What tells this request from another one; None when its answer may change."""
    try:
        asked = request_of(params)
    except DownloadError:
        return None
    sha256 = (params.get("sha256") or "").lower() or None
    if not asked.is_pinned and sha256 is None:
        return None
    # Not base_urls: the numbers and hashes are the same at all of them.
    return {
        "source": "civitai",
        "dest": params["dest"],
        "version_id": asked.version_id,
        "model_id": asked.model_id,
        "version_name": asked.version_name,
        "hash": asked.hash,
        "file_id": asked.file_id,
        "file_type": asked.file_type,
        "file_format": asked.file_format,
        "fp": asked.fp,
        "file_size": asked.file_size,
        "sha256": sha256,
        "sidecar": params.get("sidecar") is not False,
        "preview": params.get("preview") is not False,
        "scan_pending": params.get("scan_pending") or "refuse",
        "pickle": params.get("pickle") or "deny",
    }


def sources(version: Version, file: File, base_urls: Sequence[str], token: bool) -> tuple[Source, ...]:
    """Where to download it, with an address of our own making: the API's may name another host, and lacks the file."""
    found = []
    component = file.type not in WEIGHTS and not file.primary
    for base in base_urls:
        path = f"{base}/api/download/models/{version.id}"
        explain = explanation(version, file, base, token)
        if file.id is not None:
            # The file of a component may belong to another version, for which this address is never right.
            retry: frozenset[int] = frozenset() if component else frozenset({404})
            found.append(Source(f"{path}?fileId={file.id}", explain=explain, retry=retry, is_final=is_final))
        if file.id is None or component:
            params = {"type": file.type, "format": file.format, "size": file.size, "fp": file.fp}
            query = urlencode({name: value for name, value in params.items() if value}, quote_via=quote)
            found.append(Source(f"{path}?{query}", explain=explain, retry=frozenset({404}), is_final=is_final))
    return tuple(found)


def foreseen(version: Version, mini: Any, token: bool) -> str | None:
    """What will stop the download, for check mode, which must not ask for the file; None when nothing is known."""
    said = table(mini)
    if version.usage != "Download":
        return f"The creator of {version} has disabled downloads, so the download will probably be refused."
    until = version.early_access_until or text(said.get("earlyAccessEndsAt"))
    if version.for_sale or (until and said.get("checkPermission") is True):
        state = f"is in early access until {date(until)}" if until else "has to be bought"
        return f"{version} {state}, so only accounts that have bought it may download it."
    if said.get("requireAuth") is True and not token:
        return f"Civitai wants a login for {version}, so the download will be refused without token."
    return None


class Civitai:
    """The questions about one version, put to one address of the hub after another."""

    def __init__(self, client: Client, base_urls: Sequence[str], token: bool) -> None:
        self._client = client
        self._token = token
        # The one that answered comes first, also for the download.
        self.base_urls = tuple(base_urls)

    def version(self, asked: Request) -> Version:
        if asked.hash is not None:
            return self._version(f"by-hash/{asked.hash}", f"no published file with the hash {asked.hash}")
        number = asked.version_id
        if number is None and asked.model_id is not None:
            answer = self._get(
                f"models/{asked.model_id}",
                f"the model {asked.model_id}",
                f"no model {asked.model_id} (the number may be a version's, which version_id takes)",
            )
            number = choose_version(answer, asked.model_id, asked.version_name)
        version = self._version(
            str(number), f"no published version {number} (the number may be a model's, which model_id takes)"
        )
        if asked.model_id is not None and version.model_id not in (None, asked.model_id):
            raise DownloadError(
                f"{version} belongs to the model {version.model_id}, and air says {asked.model_id}: correct air."
            )
        return version

    def mini(self, version: Version) -> Any:
        """Whether a login or a permission is needed; None where nobody tells."""
        try:
            return self._get(f"model-versions/mini/{version.id}", str(version), "")
        except DownloadError:
            return None

    def _version(self, path: str, missing: str) -> Version:
        version = version_of(self._get(f"model-versions/{path}", f"the version {path}", missing))
        if version is None:
            raise self._not_the_api(self.base_urls[0])
        return version

    def _get(self, path: str, what: str, missing: str) -> Any:
        failures: list[DownloadError] = []
        for base in self.base_urls:
            try:
                answer, _headers = self._client.get_json(f"{base}/api/v1/{path}")
            except HttpError as error:
                sentence = refusal(what, base, self._token, error)
                if error.status == 404:
                    sentence = (
                        f"{host_of(base)} has {missing}: correct the number or hash, or add another address of the hub "
                        "to base_urls."
                    )
                failures.append(DownloadError(sentence) if sentence else error)
                # Another address of the same hub would say the same.
                if error.status in (400, 401, 429):
                    break
            except DownloadError as error:
                failures.append(error)
            else:
                if not isinstance(answer, dict) or not answer.keys() & {"id", "air"}:
                    failures.append(self._not_the_api(base))
                    continue
                self.base_urls = (base, *(other for other in self.base_urls if other != base))
                return answer
        if len(failures) == 1:
            raise failures[0]
        raise DownloadError(" ".join(dict.fromkeys(map(str, failures))))

    @staticmethod
    def _not_the_api(base: str) -> DownloadError:
        return DownloadError(f"{redact(base)} does not answer as Civitai's API does: correct base_urls.")
