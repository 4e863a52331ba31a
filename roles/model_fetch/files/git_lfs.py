# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the files of one commit of a Git repository, those in Git LFS too, into a folder of their own.

Read by python3 from standard input, with one more line that calls main(). Prints, as JSON, where each file lies and
which SHA-256 the commit asks of it. Nothing of the repository is run: no hooks, no filters, no submodules, no checkout.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
from typing import Any

# A pointer is a few lines; a model of less than that does not exist.
LONGEST_POINTER = 1024
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)
SETTINGS = ("core.hooksPath=/dev/null", "credential.helper=", "gc.auto=0", "protocol.ext.allow=never")


class GitError(Exception):
    """The message is a sentence with the next step."""


class Clone:
    """A bare repository that has next to nothing in it."""

    def __init__(self, folder: str, repository: str) -> None:
        self.folder = folder
        self.repository = repository

    def git(self, *arguments: str) -> bytes:
        """What git prints; raises GitError with the line that says why."""
        command = ["git", "-C", self.folder]
        for setting in SETTINGS:
            command += ["-c", setting]
        environment = {
            **os.environ,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/true",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "HOME": self.folder,
            "LC_ALL": "C",
        }
        done = subprocess.run([*command, *arguments], check=False, capture_output=True, env=environment)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            fatal = [line for line in said if line.startswith(("fatal:", "error:"))]
            raise GitError(fatal[0] if fatal else said[-1])
        return done.stdout

    def prepare(self) -> None:
        if not os.path.isdir(os.path.join(self.folder, "objects")):
            self.git("init", "--quiet", "--bare", ".")
            self.git("remote", "add", "origin", self.repository)

    def has(self, commit: str) -> bool:
        try:
            self.git("cat-file", "-e", f"{commit}^{{commit}}")
        except GitError:
            return False
        return True

    def fetch(self, commit: str) -> None:
        """That commit alone; from a host that gives no single ones, all of it, without what is in LFS."""
        if self.has(commit):
            return
        try:
            self.git("fetch", "--quiet", "--depth=1", "--no-tags", "origin", commit)
        except GitError as single:
            try:
                self.git("fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
            except GitError:
                raise single from None
            if not self.has(commit):
                raise GitError(f"the repository has no commit {commit}") from None

    def paths(self, commit: str) -> list[str]:
        listed = self.git("ls-tree", "-r", "-z", "--name-only", commit)
        return [name.decode("utf-8", "surrogateescape") for name in listed.split(b"\0") if name]

    def file(self, commit: str, path: str) -> dict[str, Any]:
        """Where the content lies, after it was brought if it is in LFS."""
        name = f"{commit}:{path}"
        size = int(self.git("cat-file", "-s", name))
        content = self.git("cat-file", "blob", name)
        pointer = POINTER.fullmatch(content) if size <= LONGEST_POINTER else None
        if pointer is None:
            place = os.path.join(self.folder, "plain", hashlib.sha256(content).hexdigest())
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "wb") as file:
                file.write(content)
            return {"path": path, "object": place, "sha256": os.path.basename(place), "size": size}
        digest = pointer[1].decode("ascii")
        place = os.path.join(self.folder, "lfs/objects", digest[:2], digest[2:4], digest)
        if not os.path.exists(place):
            # Git LFS takes a comma for the end of a pattern, and these for parts of one.
            pattern = re.sub(r"([][*?\\!#])", r"\\\1", path)
            if "," in path:
                raise GitError(f'Git LFS cannot be asked for "{path}" alone, because of its comma')
            self.git("lfs", "fetch", "origin", commit, f"--include={pattern}", "--exclude=")
        if not os.path.exists(place):
            raise GitError(f'Git LFS has not brought "{path}"')
        return {"path": path, "object": place, "sha256": digest, "size": int(pointer[2])}


def fetch(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The files that match; raises GitError."""
    clone = Clone(asked["folder"], asked["repository"])
    clone.prepare()
    clone.fetch(asked["commit"])
    patterns = asked["include"]
    names = [path for path in clone.paths(asked["commit"]) if any(fnmatch.fnmatchcase(path, one) for one in patterns)]
    if not names:
        raise GitError(f"the commit {asked['commit']} has no file {' or '.join(patterns)}")
    short = [os.path.basename(name) for name in names]
    if len(set(short)) < len(short):
        raise GitError(f"two files of the commit have one name ({', '.join(sorted(names)[:5])})")
    return [clone.file(asked["commit"], name) for name in names]


def main(text: str) -> None:
    """What is asked for, as JSON."""
    asked = json.loads(text)
    folder = asked["folder"]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    # Another run that wants the same waits here, and then finds it.
    with open(f"{folder}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            print(json.dumps(fetch(asked)))
        except (GitError, OSError) as error:
            print(error, file=sys.stderr)
            sys.exit(1)
