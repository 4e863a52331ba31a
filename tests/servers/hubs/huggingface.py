# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hugging Face: its API, and the URLs that resolve to files or lead to a storage host."""

from __future__ import annotations

import gzip
import math
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from hubs.content import StoredFile
from hubs.huggingface_repos import Commit, Content, Repository, entries, git_sha1, xet_hash
from hubs.server import Handler, Server
from hubs.storage import UNSATISFIABLE, Storage, range_of

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
PAGE, EXPANDED_PAGE = 1000, 50


class HuggingFace(Server):
    """token may see everything, other_token is somebody who was let in nowhere."""

    token = "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"
    other_token = "hf_tokenOfSomebodyWhoWasLetInNowhere"

    def __init__(self, *arguments: Any, storages: tuple[Storage, Storage], **more: Any) -> None:
        self._storages = storages
        self.reset()
        super().__init__(*arguments, **more)

    def reset(self) -> None:
        """No repositories, and nobody has asked for anything."""
        # By type and name.
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.renamed: dict[tuple[str, str], str] = {}
        # How many requests of a kind ("api", "resolvers") are free in how many seconds; then 429.
        self.limits: dict[str, tuple[int, float]] = {"api": (500, 300), "resolvers": (3000, 300)}
        # Small files of public repositories lie behind a relative redirect, and are served directly without it.
        self.resolve_cache = True
        self._windows: dict[str, tuple[float, int]] = {}

    def add_repo(
        self,
        name: str,
        files: Mapping[str, Content],
        gated: bool | str = False,
        private: bool = False,
        type: str = "model",
        branch: str = "main",
        security: Mapping[str, str] | None = None,
    ) -> str:
        """A repository, or a further commit of one, with just these files; gives the commit."""
        repository = self.repositories.setdefault((type, name), Repository(name, type))
        repository.gated, repository.private = gated, private
        repository.security.update(security or {})
        return repository.commit(files, branch)

    def tag(self, name: str, ref: str, commit: str, type: str = "model") -> None:
        """Name a commit."""
        self.repositories[type, name].refs[ref] = commit

    def rename(self, old: str, new: str, type: str = "model") -> None:
        """The old name leads to the new one, by relative redirects."""
        repository = self.repositories.pop((type, old))
        repository.name = new
        self.repositories[type, new] = repository
        self.renamed[type, old] = new

    def limit(self, kind: str, count: int, seconds: float) -> None:
        """Answer 429 after `count` requests in `seconds`, counted from now."""
        self.limits[kind] = (count, seconds)
        self._windows.pop(kind, None)

    # Who may do what.

    def respond(self, handler: Handler) -> None:
        path = handler.path.partition("?")[0]
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        if not self._free(handler, "resolvers" if "resolve" in parts else "api"):
            self._refuse(handler, 429, None, "We had to rate limit you")
        elif handler.command not in ("GET", "HEAD"):
            self._refuse(handler, 405, None, "Method not allowed")
        elif handler.token not in (None, self.token, self.other_token):
            self._refuse(handler, 401, None, "Invalid credentials in Authorization header")
        elif parts[:2] == ["api", "resolve-cache"] and len(parts) > 6 and parts[2] in TYPES:
            self._cached(handler, TYPES[parts[2]], parts[3:])
        elif parts[0] == "api" and len(parts) > 2 and parts[1] in TYPES:
            self._api(handler, TYPES[parts[1]], parts[2:])
        elif "resolve" in parts:
            prefix = parts[0] if parts[0] in ("datasets", "spaces") else "models"
            self._resolve(handler, TYPES[prefix], parts[prefix != "models" :])
        else:
            self._refuse(handler, 404, None, "Sorry, we can't find the page you are looking for.")

    def _free(self, handler: Handler, kind: str) -> bool:
        """Count the request, and say in its answer how many more are free."""
        now = time.monotonic()
        count, seconds = self.limits[kind]
        with self.lock:
            begun, used = self._windows.get(kind, (now, 0))
            if now - begun >= seconds:
                begun, used = now, 0
            self._windows[kind] = (begun, used + 1)
        # In this order: a sum of clock and seconds is rounded, and a hair more than the window is a second more.
        rest = math.ceil(seconds - (now - begun))
        handler.more_headers["RateLimit"] = f'"{kind}";r={max(0, count - used - 1)};t={rest}'
        handler.more_headers["RateLimit-Policy"] = f'"fixed window";"{kind}";q={count};w={math.ceil(seconds)}'
        return used < count

    def _refuse(self, handler: Handler, status: int, code: str | None, message: str) -> None:
        """The reason is in the headers, because HEAD has no body."""
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        if handler.path.startswith("/api/"):
            handler.send_json(status, {"error": message}, headers)
        else:
            handler.send(status, message.encode(), headers)

    def _visible(self, handler: Handler, type: str, name: str) -> Repository | None:
        """The repository, if it is there for this caller. Else the caller has been told, or sent to its new name."""
        if (type, name) in self.renamed:
            path, mark, query = handler.path.partition("?")
            new = urllib.parse.quote(self.renamed[type, name])
            handler.redirect(307, path.replace(urllib.parse.quote(name), new, 1) + mark + query)
            return None
        repository = self.repositories.get((type, name))
        if repository and (not repository.private or handler.token == self.token):
            return repository
        # Nobody is told whether somebody else has such a repository.
        if handler.token is None:
            self._refuse(handler, 401, None, "Invalid username or password.")
        else:
            self._refuse(handler, 404, "RepoNotFound", "Repository not found")
        return None

    def _let_in(self, handler: Handler, repository: Repository) -> bool:
        """Whether this caller may have the files, not just their list; else it has been told."""
        if not repository.gated or handler.token == self.token:
            return True
        name = repository.name
        if handler.token is None:
            message = f"Access to {repository.type} {name} is restricted. You must have access to it and be"
            self._refuse(handler, 401, "GatedRepo", f"{message} authenticated to access it. Please log in.")
        else:
            message = f"Access to {repository.type} {name} is restricted and you are not in the authorized list."
            self._refuse(handler, 403, "GatedRepo", f"{message} Visit {self.url}/{name} to ask for access.")
        return False

    def _found(self, handler: Handler, repository: Repository, revision: str) -> Commit | None:
        commit = repository.find(revision)
        if commit is None:
            self._refuse(handler, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            handler.more_headers["X-Repo-Commit"] = commit.id
        return commit

    # The API.

    def _api(self, handler: Handler, type: str, parts: list[str]) -> None:
        """NAME, NAME/revision/REVISION, NAME/tree/REVISION/FOLDER; most names have two parts."""
        verb = next((place for place in (1, 2) if parts[place : place + 1] in (["tree"], ["revision"])), len(parts))
        repository = self._visible(handler, type, "/".join(parts[:verb]))
        if repository is None:
            return
        what, revision = parts[verb : verb + 2] if len(parts) > verb + 1 else ("revision", "main")
        commit = self._found(handler, repository, revision)
        if commit is None:
            return
        if what == "tree":
            self._tree(handler, repository, commit, "/".join(parts[verb + 2 :]))
        else:
            handler.send_json(200, _info(repository, commit, _true(handler.query.get("blobs"))))

    def _tree(self, handler: Handler, repository: Repository, commit: Commit, folder: str) -> None:
        query = handler.query
        expand = _true(query.get("expand"))
        listed = list(entries(repository, commit, folder, _true(query.get("recursive")), expand))
        if folder and not listed:
            self._refuse(handler, 404, "EntryNotFound", f'{folder} does not exist on "{commit.id}"')
            return
        most = self.faults.hub_page_size or (EXPANDED_PAGE if expand else PAGE)
        most = min(most, int(query.get("limit", most)))
        first = int(query.get("cursor", "0"))
        headers = {}
        if first + most < len(listed):
            more = urllib.parse.urlencode({**query, "limit": most, "cursor": first + most})
            headers["Link"] = f'<{self.base(handler)}{handler.path.partition("?")[0]}?{more}>; rel="next"'
        handler.send_json(200, listed[first : first + most], headers)

    # Files.

    def _resolve(self, handler: Handler, type: str, parts: list[str]) -> None:
        """NAME/resolve/REVISION/PATH."""
        verb = parts.index("resolve")
        repository = self._visible(handler, type, "/".join(parts[:verb]))
        if repository is None or not self._let_in(handler, repository):
            return
        commit = self._found(handler, repository, (parts[verb + 1 :] or [""])[0])
        if commit is None:
            return
        path = "/".join(parts[verb + 2 :])
        content = commit.files.get(path)
        if content is None:
            self._refuse(handler, 404, "EntryNotFound", "Entry not found")
        elif isinstance(content, StoredFile):
            self._lead_on(handler, content, path)
        elif self.resolve_cache and content and "/" in repository.name and repository.open:
            # Only the place: what is to know about the file is said there.
            handler.more_headers.pop("X-Repo-Commit")
            place = urllib.parse.quote(f"/api/resolve-cache/{type}s/{repository.name}/{commit.id}/{path}")
            query = urllib.parse.urlencode({handler.plain_path: "", "etag": f'"{git_sha1(content)}"'})
            handler.redirect(307, f"{place}?{query}")
        else:
            self._send_small(handler, content, path)

    def _cached(self, handler: Handler, type: str, parts: list[str]) -> None:
        """NAME/COMMIT/PATH, of public repositories."""
        repository = self.repositories.get((type, "/".join(parts[:2])))
        commit = repository.commits.get(parts[2]) if repository else None
        content = commit.files.get("/".join(parts[3:])) if commit else None
        if repository is None or repository.private or commit is None or not isinstance(content, bytes):
            self._refuse(handler, 404, "EntryNotFound", "Entry not found")
            return
        handler.more_headers["X-Repo-Commit"] = commit.id
        self._send_small(handler, content, parts[-1])

    def _lead_on(self, handler: Handler, stored: StoredFile, path: str) -> None:
        """To the storage host. Size and SHA-256 stand here and nowhere else."""
        storage = self._storages[self.faults.second_storage]
        headers = {
            "X-Linked-Size": str(stored.size),
            "X-Linked-Etag": f'"{stored.sha256}"',
            "X-Xet-Hash": xet_hash(stored),
            "Accept-Ranges": "bytes",
        }
        handler.redirect(302, storage.sign(stored, path.rpartition("/")[2]), headers)

    def _send_small(self, handler: Handler, data: bytes, path: str) -> None:
        """A small file, which the hub has itself."""
        name = path.rpartition("/")[2]
        etag = f'"{git_sha1(data)}"'
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Content-Disposition": f"inline; filename*=UTF-8''{urllib.parse.quote(name)}; filename=\"{name}\";",
        }
        span = range_of(handler.headers.get("Range"), len(data))
        if span == UNSATISFIABLE:
            handler.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        elif span and handler.headers.get("If-Range", etag) == etag:
            headers["Content-Range"] = f"bytes {span[0]}-{span[1]}/{len(data)}"
            handler.send(206, data[span[0] : span[1] + 1], headers)
        elif self.faults.hub_gzip and "gzip" in handler.headers.get("Accept-Encoding", ""):
            handler.send(200, gzip.compress(data), {**headers, "Content-Encoding": "gzip", "ETag": f"W/{etag}"})
        else:
            handler.send(200, data, headers)


def _true(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes")


def _info(repository: Repository, commit: Commit, blobs: bool) -> dict[str, Any]:
    """What there is to know about a repository, with the names of its files."""
    siblings: list[dict[str, Any]] = []
    for entry in entries(repository, commit, "", True, False):
        if entry["type"] == "file":
            siblings.append({"rfilename": entry["path"]})
            if blobs:
                siblings[-1].update({"size": entry["size"], "blobId": entry["oid"]})
                if "lfs" in entry:
                    lfs = entry["lfs"]
                    siblings[-1]["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return {
        "_id": commit.id[:24],
        "id": repository.name,
        "sha": commit.id,
        "private": repository.private,
        "gated": repository.gated and (repository.gated if isinstance(repository.gated, str) else "auto"),
        "disabled": False,
        "lastModified": "2024-01-01T00:00:00.000Z",
        "tags": [],
        "siblings": siblings,
    }
