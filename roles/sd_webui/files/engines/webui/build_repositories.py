# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetches the web UI, its sub-repositories and the extensions, each at its pinned commit, into $CACHE_DIRECTORY/out."""

from __future__ import annotations

import subprocess
import sys
import typing
import urllib.parse
from pathlib import Path

# With -E -s the script's own folder is no longer looked in.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

import recipe as role

# No prompt: a Git host asks for a name and a password where a repository is gone or private, and a build would wait for
# ever. No setting of whoever runs this. And no waiting for a host that says nothing: git itself would for ever.
GIT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
    "GIT_HTTP_LOW_SPEED_TIME": "60",
    "HOME": str(role.CACHE),
    "LC_ALL": "C",
}


# What git runs to ask for a name and a password: on a command line everybody on the host could read them.
ASKPASS = """#!/bin/sh
case "$1" in
  Username*) printf '%s\\n' "$SD_GIT_USER" ;;
  *) printf '%s\\n' "$SD_GIT_PASSWORD" ;;
esac
"""


def git(folder: Path, *arguments: str, login: dict[str, str] | None = None) -> str:
    """Run git in a folder."""
    command = ["git", "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main", *arguments]
    return role.run(command, {**GIT, **(login or {})}, folder)


def split_login(url: str) -> tuple[str, dict[str, str]]:
    """The address without its login, and what git needs to ask for that login."""
    parts = urllib.parse.urlsplit(url)
    if not parts.password or not parts.scheme.startswith("http"):
        return url, {}
    program = role.CACHE / "askpass"
    program.write_text(ASKPASS, encoding="utf-8")
    program.chmod(0o700)
    user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    bare = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, {"GIT_ASKPASS": str(program), "SD_GIT_USER": user, "SD_GIT_PASSWORD": password}


def sentence(source: dict[str, typing.Any], said: str) -> str:
    """Why a repository could not be fetched, and what to set."""
    name, url, commit = source["name"], role.without_password(source["repository"]), source["commit"]
    setting = source["setting"]
    if any(each in said for each in ("could not read Username", "Authentication failed", "could not read Password")):
        return (
            f"{url} asks for a login, which is how a Git host answers for a repository that was removed or made "
            f"private; set {setting}.repository to a copy, or sd_webui_git_mirror"
        )
    if "No space left on device" in said:
        return "the disk of /var/cache filled up while fetching; make room and run again"
    if any(each in said for each in ("not found", "does not exist", "does not appear to be a git repository")):
        return f"there is no repository {url}; set {setting}.repository to a copy, or sd_webui_git_mirror"
    if "not our ref" in said or "unadvertised object" in said or "missing commit" in said:
        return (
            f"{url} has no commit {commit} ({name}), so it is another repository or was rewritten; "
            f"set {setting}.repository to a copy that has it, or {setting}.commit to one that you trust"
        )
    return (
        f"{url} could not be fetched ({role.last_line(said)}); check this host's network, or set sd_webui_proxy or "
        "sd_webui_git_mirror"
    )


def fetch(source: dict[str, typing.Any]) -> None:
    """One repository at one commit, without its history; raises Problem."""
    folder, commit = role.OUT / source["path"], source["commit"]
    url, login = split_login(source["repository"])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        git(folder, "init", "--quiet")
        try:
            git(folder, "fetch", "--quiet", "--depth=1", url, commit, login=login)
        except subprocess.CalledProcessError as error:
            if "not our ref" not in error.output and "unadvertised object" not in error.output:
                raise
            # A Git host may hand out branches and tags only: then all of them.
            refs = ("+refs/heads/*:refs/found/heads/*", "+refs/tags/*:refs/found/tags/*")
            git(folder, "fetch", "--quiet", url, *refs, login=login)
            try:
                git(folder, "cat-file", "-e", f"{commit}^{{commit}}")
            except subprocess.CalledProcessError as missing:
                raise subprocess.CalledProcessError(1, "git", "missing commit") from missing
        git(folder, "checkout", "--quiet", "--force", commit)
        if source["tag"]:
            # What the page shows as its version; without history there is no other.
            git(folder, "tag", "--force", source["tag"])
        # It names the address that was fetched from, which may hold a password.
        (folder / ".git/FETCH_HEAD").unlink()
    except subprocess.CalledProcessError as error:
        raise role.Problem(sentence(source, error.output)) from error
    print(f"{source['name']}: {commit}", flush=True)


def build(recipe: dict[str, typing.Any]) -> None:
    """Fetch them all, the web UI first: the others live below it."""
    for source in sorted(recipe["repositories"], key=lambda source: source["path"].count("/")):
        fetch(source)
    if recipe.get("compile_with"):
        # The environment is there already, and no second script runs.
        role.compile_code(Path(recipe["compile_with"]))


if __name__ == "__main__":
    sys.exit(role.main(build))
