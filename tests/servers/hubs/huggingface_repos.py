# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories as Hugging Face keeps them: commits, trees, small files in Git and large ones in LFS."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from hubs.content import StoredFile

# Bytes lie in Git itself, a StoredFile in LFS.
Content = Union[StoredFile, bytes]


def git_sha1(data: bytes) -> str:
    """The name that Git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def pointer(stored: StoredFile) -> bytes:
    """What Git has instead of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{stored.sha256}\nsize {stored.size}\n".encode()


def xet_hash(stored: StoredFile) -> str:
    """As long as a SHA-256, and something else."""
    return hashlib.sha256(b"xet" + stored.sha256.encode()).hexdigest()


@dataclass(frozen=True)
class Commit:
    """All files of one state, by path."""

    id: str
    files: Mapping[str, Content]


@dataclass
class Repository:
    """A repository and who may see it."""

    name: str
    type: str = "model"
    # False, or how access is granted: "auto" or "manual".
    gated: bool | str = False
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    # Branches and tags, and the commits that they stand for.
    refs: dict[str, str] = field(default_factory=dict)
    # What the hub's scanners say of a file, if it is not "safe".
    security: dict[str, str] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether anybody may have its files."""
        return not self.gated and not self.private

    def commit(self, files: Mapping[str, Content], branch: str = "main") -> str:
        """A new state of a branch."""
        text = "\n".join(f"{path} {oid(content)}" for path, content in sorted(files.items()))
        text = f"{self.type} {self.name} {len(self.commits)}\n{text}"
        name = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = Commit(name, dict(files))
        self.refs[branch] = name
        return name

    def find(self, revision: str) -> Commit | None:
        """By branch, tag or the whole id of a commit."""
        return self.commits.get(self.refs.get(revision, revision))


def oid(content: Content) -> str:
    return git_sha1(content if isinstance(content, bytes) else pointer(content))


def entries(
    repository: Repository, commit: Commit, folder: str, recursive: bool, expand: bool
) -> Iterator[dict[str, Any]]:
    """A folder as the API lists it: folders and files, sorted by path."""
    prefix = f"{folder}/" if folder else ""
    listed: dict[str, dict[str, Any]] = {}
    for path, content in commit.files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = prefix + "/".join(parts[:depth])
            tree = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
            listed[name] = {"type": "directory", "oid": tree, "size": 0, "path": name}
        if recursive or len(parts) == 1:
            listed[path] = _entry(repository, path, content, expand)
    return iter([listed[path] for path in sorted(listed)])


def _entry(repository: Repository, path: str, content: Content, expand: bool) -> dict[str, Any]:
    size = len(content) if isinstance(content, bytes) else content.size
    said: dict[str, Any] = {"type": "file", "oid": oid(content), "size": size, "path": path}
    if isinstance(content, StoredFile):
        said["lfs"] = {"oid": content.sha256, "size": content.size, "pointerSize": len(pointer(content))}
        said["xetHash"] = xet_hash(content)
    if expand:
        status = repository.security.get(path, "safe")
        said["lastCommit"] = {"id": oid(content), "title": "Upload", "date": "2024-01-01T00:00:00.000Z"}
        said["securityFileStatus"] = {
            "status": status,
            "avScan": {"status": status, "virusFound": status == "unsafe", "virusNames": None},
            "pickleImportScan": {"status": status, "pickleImports": []},
        }
    return said
