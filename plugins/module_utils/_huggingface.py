# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Hugging Face's API tells about a repository. Private to this collection: not an interface for others."""

from __future__ import annotations

import difflib
import fnmatch
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    Client,
    DownloadError,
    HttpError,
    Source,
    asked_wait,
    is_base,
    origin,
    redact,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._transfer import Wanted

HUB = "https://huggingface.co"
# What the hub tells people to let through a firewall: its own hosts, Xet's, and those of its content delivery.
HOSTS = ("huggingface.co", "*.huggingface.co", "hf.co", "*.hf.co")
TYPES = ("model", "dataset", "space")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_NEXT = re.compile(r"<([^>]*)>[^,]*?;\s*rel=\"?next\"?(?=[;,\s]|$)", re.IGNORECASE)
# A thousand files a page: more pages than this are an answer that does not end.
_MOST_PAGES = 1000
_TOKENS = f"{HUB}/settings/tokens"


@dataclass(frozen=True)
class Repository:
    name: str
    type: str = "model"
    endpoint: str = HUB
    # Whether the requests carry one: the same status means something else then.
    token: bool = False

    def __str__(self) -> str:
        return f"{self.type} {self.name} on {redact(self.endpoint)}"

    @property
    def page(self) -> str:
        """Where a person sees it."""
        return f"{self.endpoint}/{self._prefix}{self.name}"

    def revision_url(self, revision: str) -> str:
        return f"{self._api}/revision/{quote(revision, safe='')}"

    def tree_url(self, commit: str, folder: str) -> str:
        return f"{self._api}/tree/{commit}" + (f"/{quote(folder, safe='')}" if folder else "")

    def file_url(self, commit: str, path: str) -> str:
        return f"{self.page}/resolve/{quote(commit, safe='')}/{quote(path)}"

    @property
    def _api(self) -> str:
        return f"{self.endpoint}/api/{self.type}s/{self.name}"

    @property
    def _prefix(self) -> str:
        return "" if self.type == "model" else f"{self.type}s/"


@dataclass(frozen=True)
class HubFile:
    path: str
    size: int
    # Large files have the one, the rest the other.
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Revision:
    commit: str
    # The files in which the hub's scanners found something that does harm.
    unsafe: frozenset[str] = frozenset()


class Hub:
    """The questions about one repository."""

    def __init__(self, client: Client, repository: Repository, revision: str) -> None:
        self._client = client
        self._repository = repository
        self._revision = revision

    def revision(self) -> Revision:
        # The hub scans models; the other types do not know the parameter.
        params = {"securityStatus": "true"} if self._repository.type == "model" else None
        answer, _headers = self._get(self._repository.revision_url(self._revision), params)
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise self._not_the_api()
        return Revision(commit, unsafe_files(answer.get("securityRepoStatus")))

    def files(self, commit: str, folder: str | None = None) -> list[HubFile]:
        """All files of a commit, or those that lie in one folder of it ("" is the first one)."""
        url = self._repository.tree_url(commit, folder or "")
        params: Mapping[str, str] | None = {"recursive": "true"} if folder is None else None
        found: dict[str, HubFile] = {}
        seen: set[str] = set()
        while url and url not in seen and len(seen) < _MOST_PAGES:
            seen.add(url)
            answer, headers = self._get(url, params)
            if not isinstance(answer, list):
                raise self._not_the_api()
            for entry in answer:
                if isinstance(entry, dict) and entry.get("type") != "file":
                    continue
                file = hub_file(entry)
                if file is None:
                    raise self._not_the_api()
                found[file.path] = file
            # The next address has the parameters already.
            url, params = next_page(headers, url), None
        if url:
            raise DownloadError(f"The list of files of {self._repository} does not end: check endpoint.")
        return sorted(found.values(), key=lambda file: file.path)

    def file(self, commit: str, path: str) -> HubFile:
        folder = path.rpartition("/")[0]
        files = self.files(commit, folder)
        for file in files:
            if file.path == path:
                return file
        near = difflib.get_close_matches(path, [file.path for file in files], n=1)
        advice = f'did you mean "{near[0]}"?' if near else f"see {self._repository.page}/tree/{commit} for its files."
        raise DownloadError(f'{self._repository} has no file "{path}" at revision {self._revision}: {advice}')

    def wanted(self, file: HubFile, commit: str, target: str, sha256: str | None = None) -> Wanted:
        """The order for the transfer, once it is known that the hub has what was asked for."""
        if sha256 and file.sha256 and sha256.strip().lower() != file.sha256:
            raise DownloadError(
                f'"{file.path}" of {self._repository} has the SHA-256 {file.sha256} at revision {self._revision}, and '
                f"sha256 asks for {sha256}: set revision to the commit with that file, or correct sha256."
            )
        return Wanted(
            path=target,
            sources=(self._source(commit, file.path),),
            sha256=file.sha256 or sha256,
            git_sha1=file.git_sha1,
            size=file.size,
        )

    def by_hash(self, path: str, target: str, sha256: str) -> Wanted:
        """The order for a file of which nothing else is known."""
        return Wanted(path=target, sources=(self._source(self._revision, path),), sha256=sha256)

    def _source(self, revision: str, path: str) -> Source:
        explain = explanation(self._repository, self._revision, path)
        return Source(self._repository.file_url(revision, path), explain=explain)

    def _get(self, url: str, params: Mapping[str, str] | None) -> tuple[Any, Mapping[str, str]]:
        try:
            return self._client.get_json(url, params)
        except HttpError as exc:
            raise explanation(self._repository, self._revision)(exc) from exc

    def _not_the_api(self) -> DownloadError:
        return DownloadError(
            f"{redact(self._repository.endpoint)} does not answer as Hugging Face's API does: correct endpoint."
        )


def endpoint(option: str | None, environment: Mapping[str, str]) -> str:
    """The hub's address: the option's, the host's, or that of Hugging Face itself."""
    name = "endpoint" if option else "HF_ENDPOINT in the host's environment"
    url = (option or environment.get("HF_ENDPOINT") or HUB).strip().rstrip("/")
    if not is_base(url):
        raise DownloadError(f"{name} is no address of a hub: write it like {HUB}.")
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise DownloadError(f"{name} has a password in it, which logs would show: leave it out, and set token.")
    return url


def check_repository(name: str) -> str:
    """The name itself; what the hub would not take as one must not get into an address."""
    if not _NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith(".git"):
        raise DownloadError(f'"{name}" is no repository of Hugging Face: write it like lllyasviel/Annotators.')
    return name


def safe_path(path: str) -> str:
    """The path itself, when it stays in the folder that it is put into."""
    parts = path.split("/")
    # Not all that cannot be printed: names have joiners and wide spaces.
    odd = any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in path)
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or odd:
        raise DownloadError(
            f"The hub names a file {path!r}, which could land outside dest: tell the repository's owner."
        )
    return path


def check_file(path: str | None) -> None:
    """Of the one file that is wanted; None for a snapshot."""
    if path is not None and any(part in ("", ".", "..") for part in path.split("/")):
        raise DownloadError(f"file is '{path}', which is no path in a repository: write it as vae/model.safetensors.")


def hub_file(entry: Any) -> HubFile | None:
    """From an entry of the tree; None when it is none."""
    if not isinstance(entry, dict):
        return None
    path, lfs = entry.get("path"), entry.get("lfs")
    # Of a large file the entry's own size and hash are those of Git's pointer to it.
    blob = lfs if isinstance(lfs, dict) else entry
    size, oid = blob.get("size"), blob.get("oid")
    if not isinstance(path, str) or not isinstance(size, int) or size < 0 or not isinstance(oid, str):
        return None
    if blob is lfs:
        return HubFile(path, size, sha256=oid) if _SHA256.fullmatch(oid) else None
    return HubFile(path, size, git_sha1=oid) if _COMMIT.fullmatch(oid) else None


def is_pinned(params: Mapping[str, Any]) -> bool:
    """Does the request name content, and not what a branch holds today?"""
    by_commit = bool(_COMMIT.fullmatch(params.get("revision") or ""))
    return by_commit or bool(params.get("file") and params.get("sha256"))


def request_key(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What tells this request from another one; None when its answer may change."""
    if not is_pinned(params):
        return None
    # Not endpoint: a commit and a SHA-256 name the same bytes wherever they come from.
    return {
        "source": "huggingface",
        "dest": params["dest"],
        "repository": params["repository"],
        "repository_type": params.get("repository_type") or "model",
        "revision": params.get("revision") or "main",
        "file": params.get("file"),
        "sha256": (params.get("sha256") or "").strip().lower() or None,
        "allow_patterns": params.get("allow_patterns"),
        "ignore_patterns": params.get("ignore_patterns"),
        "flatten": bool(params.get("flatten")),
        "unsafe": params.get("unsafe") or "refuse",
        "pickle": params.get("pickle") or "deny",
    }


def chosen(files: Sequence[HubFile], allow: Sequence[str] | None, ignore: Sequence[str] | None) -> list[HubFile]:
    """The files of a snapshot, by patterns as huggingface_hub takes them: "*" matches "/" as well."""
    return [
        file
        for file in files
        if not _is_hidden(file.path)
        and (allow is None or _matches(file.path, allow))
        and not (ignore and _matches(file.path, ignore))
    ]


def names_in(files: Sequence[HubFile], flatten: bool) -> list[tuple[HubFile, str]]:
    """Each file with its path below dest."""
    named: dict[str, HubFile] = {}
    for file in files:
        path = safe_path(file.path)
        name = path.rpartition("/")[2] if flatten else path
        if name in named:
            raise DownloadError(
                f'"{named[name].path}" and "{path}" would both become "{name}" with flatten: '
                "narrow allow_patterns down, or leave flatten out."
            )
        named[name] = file
    return [(file, name) for name, file in named.items()]


def unsafe_files(status: Any) -> frozenset[str]:
    """From securityRepoStatus; every pickle has the level "caution", so that says nothing."""
    issues = status.get("filesWithIssues") if isinstance(status, dict) else None
    return frozenset(
        str(issue.get("path"))
        for issue in (issues if isinstance(issues, list) else [])
        if isinstance(issue, dict) and issue.get("level") == "unsafe"
    )


def next_page(headers: Mapping[str, str], url: str) -> str:
    """The address of the list's next page, "" after the last one."""
    found = _NEXT.search(headers.get("Link", ""))
    if not found:
        return ""
    try:
        following: str = urljoin(url, found.group(1))
        same = origin(url) == origin(following)
    except ValueError:
        following, same = found.group(1), False
    if not same:
        raise DownloadError(
            f"{redact(url)} continues its list of files at {redact(following)}, which is another host: "
            "set endpoint to the hub that has all of it."
        )
    return following


def explanation(repository: Repository, revision: str, path: str | None = None) -> Callable[[HttpError], DownloadError]:
    """What the hub means by a status, in one sentence with the next step."""

    def explain(exc: HttpError) -> DownloadError:
        if path and origin(exc.url) != origin(repository.endpoint):
            return DownloadError(
                f'{urlsplit(exc.url).netloc}, where the hub keeps "{path}" of {repository}, answered with status '
                f"{exc.status}: run this again later."
            )
        return DownloadError(_sentence(repository, revision, path, exc))

    return explain


def _sentence(repository: Repository, revision: str, path: str | None, exc: HttpError) -> str:
    code = exc.headers.get("X-Error-Code", "")
    said = exc.headers.get("X-Error-Message", "")
    if code == "GatedRepo":
        return _gated(repository)
    if code == "RevisionNotFound":
        return f'{repository} has no revision "{revision}": correct revision, see {repository.page}/commits/main.'
    if code == "EntryNotFound":
        what = f'file "{path}"' if path else "such folder"
        return f"{repository} has no {what} at revision {revision}: see {repository.page}/tree/main for its files."
    if "is disabled" in said:
        return f"The hub has disabled {repository}: take the model from somewhere else."
    if exc.status == 401 and (repository.token or said.startswith("Invalid credentials")):
        return (
            f"The hub does not accept the token for {repository}: it is wrong or expired, make a new one at {_TOKENS}."
        )
    if exc.status == 401:
        return (
            f"The hub does not show {repository} (HTTP 401), so it is missing, private or gated: correct repository "
            f"and repository_type, or set token to one that may read it ({_TOKENS})."
        )
    if code == "RepoNotFound" or (exc.status == 404 and not code):
        who = "the token may not see it" if repository.token else "it is private and needs a token"
        return f"There is no {repository}, or {who}: correct repository and repository_type, or set another token."
    if exc.status == 403:
        step = "give the token that permission at" if repository.token else "set token to one that may, from"
        return f"The hub does not let this request read {repository} (HTTP 403): {step} {_TOKENS}."
    if exc.status == 429:
        return _too_many(repository, exc)
    if exc.status >= 500:
        return f"The hub has a fault of its own (HTTP {exc.status} for {repository}): run this again later."
    return f"The hub refused {repository} with HTTP {exc.status}: open {repository.page} in a browser."


def _gated(repository: Repository) -> str:
    if repository.token:
        return (
            f"{repository} is gated and the token's account was not let in: accept its terms at {repository.page}, and "
            "use a token that may read gated repositories."
        )
    return f"{repository} is gated: accept its terms at {repository.page}, then set token to one from {_TOKENS}."


def _too_many(repository: Repository, exc: HttpError) -> str:
    seconds = asked_wait(exc.headers)
    when = "in five minutes" if seconds is None else f"in {seconds:.0f} seconds"
    # It counts by account, and by address for everybody else.
    more = "" if repository.token else ", or set token, with which it allows more"
    return f"The hub has had too many requests from here (HTTP 429 for {repository}): run this again {when}{more}."


def _is_hidden(path: str) -> bool:
    # ".." is no name: that is said by safe_path.
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def _matches(path: str, patterns: Sequence[str]) -> bool:
    for pattern in patterns:
        glob = pattern.replace("\\", "/")
        if fnmatch.fnmatchcase(path, f"{glob}*" if glob.endswith("/") else glob):
            return True
    return False
