#!/usr/bin/env python3
# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the repositories of the stand-in, as a Git host has them: build.py FOLDER. README.md says which.

Prints the ids of their commits as JSON. Authors and dates are fixed, so the same sources have the same ids.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TREES = Path(__file__).resolve().parent / "trees"
# Names upstream's sources by what launch.py calls their folders; Stable Diffusion from a maintained copy.
SMALL = {
    "assets": ("AUTOMATIC1111/stable-diffusion-webui-assets", {"README.md": "Fonts and pictures.\n"}),
    "stable_diffusion": (
        "w-e-w/stablediffusion",
        {
            "ldm/__init__.py": "",
            "ldm/models/diffusion/ddpm.py": "",
            "ldm/modules/encoders/modules.py": "import clip\n\nassert clip.SimpleTokenizer\n",
        },
    ),
    "generative_models": ("Stability-AI/generative-models", {"sgm/__init__.py": ""}),
    "k_diffusion": ("crowsonkb/k-diffusion", {"k_diffusion/__init__.py": "", "k_diffusion/sampling.py": ""}),
    "blip": ("salesforce/BLIP", {"models/blip.py": ""}),
}
# The extensions that come with the web UI, as far as they add flags; a path below the folder of models each.
BUILTIN = {
    "LDSR": {"--ldsr-models-path": "LDSR"},
    "Lora": {"--lora-dir": "Lora", "--lyco-dir-backcompat": "LyCORIS"},
    "ScuNET": {"--scunet-models-path": "ScuNET"},
    "SwinIR": {"--swinir-models-path": "SwinIR"},
}
# In the format of the real table: pairs of tokens, most frequent first. The real one's first 48894 are used.
MERGES = 48894
ABSENT = "0123456789abcdef0123456789abcdef01234567"


def git(folder: Path, *arguments: str, day: int = 1) -> str:
    """Git with nobody's settings, on a fixed day."""
    when = f"2024-07-{day:02}T12:00:00+0000"
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_NAME": "Somebody" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_DATE": when for who in ("AUTHOR", "COMMITTER")},
    }
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def merges() -> list[str]:
    """A made-up table: syllables that grow out of those before them, each of them once."""
    chance = random.Random(11)
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
    known, tokens = set(letters), list(letters)
    pairs: list[str] = []
    while len(pairs) < MERGES:
        left, right = chance.choice(tokens), chance.choice(letters)
        ending = "</w>" if len(pairs) % 3 == 0 else ""
        token = left + right + ending
        if token in known or len(left) > 6:
            continue
        known.add(token)
        pairs.append(f"{left} {right}{ending}")
        if not ending:
            tokens.append(token)
    return pairs


class Repository:
    """One of them while it grows, with a work tree that is thrown away."""

    def __init__(self, top: Path, name: str) -> None:
        self.bare = top / f"{name}.git"
        self.work = Path(tempfile.mkdtemp())
        git(self.work, "init", "--quiet", "--initial-branch=master")

    def commit(self, message: str, day: int = 1) -> str:
        """All that is in the work tree now."""
        for path in self.work.rglob("*"):
            if ".git" not in path.parts:
                path.chmod(0o755 if path.is_dir() else 0o644)
        git(self.work, "add", "--all", "--force")
        git(self.work, "commit", "--quiet", "--message", message, day=day)
        return git(self.work, "rev-parse", "HEAD")

    def write(self, files: dict[str, str]) -> None:
        """Text files below the work tree."""
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def publish(self) -> None:
        """As a Git host has it; the objects of no branch too, which a host keeps for a long time."""
        self.bare.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.work / ".git", self.bare)
        git(self.bare, "config", "core.bare", "true")
        git(self.bare, "update-server-info")
        shutil.rmtree(self.work)


def release(version: str, fault: str = "") -> dict[str, str]:
    """What differs between the releases of the web UI."""
    text = (TREES / "webui/modules/release.py").read_text(encoding="utf-8")
    text = text.replace('VERSION = "1.10.1"', f'VERSION = "{version}"').replace('FAULT = ""', f'FAULT = "{fault}"')
    return {"modules/release.py": text, "CHANGELOG.md": f"## {version}\n"}


def build_webui(top: Path) -> dict[str, str]:
    """Two good releases, three broken ones, a commit that only a moved tag had, and that tag."""
    repository = Repository(top, "AUTOMATIC1111/stable-diffusion-webui")
    shutil.copytree(TREES / "webui", repository.work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, flags in BUILTIN.items():
        lines = ["import os", "", "from modules.paths_internal import models_path", "", "", "def preload(parser):"]
        lines += [
            f'    parser.add_argument("{flag}", default=os.path.join(models_path, "{path}"))'
            for flag, path in flags.items()
        ]
        repository.write({f"extensions-builtin/{name}/preload.py": "\n".join(lines) + "\n"})
    commits = {}
    repository.write(release("1.10.1"))
    commits["webui"] = repository.commit("1.10.1")
    variants = {
        "webui_v2": release("1.10.2"),
        "webui_exit": release("1.10.3", "exit"),
        "webui_silent": release("1.10.4", "silent"),
        "webui_no_model": release("1.10.5", "no_model"),
        "webui_moved": release("1.10.1-first"),
    }
    for day, (name, files) in enumerate(variants.items(), start=2):
        git(repository.work, "checkout", "--quiet", "-B", name.replace("_", "-"), commits["webui"])
        repository.write(files)
        commits[name] = repository.commit(name, day)
    git(repository.work, "checkout", "--quiet", "-B", "master", commits["webui_v2"])
    # The tag was once on a commit that no branch has; now it is on the second release.
    git(repository.work, "tag", "v1.10.1", commits["webui_v2"])
    git(repository.work, "branch", "--quiet", "-D", "webui-moved")
    repository.publish()
    return commits


def build_clip(top: Path) -> str:
    """A package that is built as the real one is, with a table of tokens of the real size."""
    repository = Repository(top, "openai/CLIP")
    shutil.copytree(TREES / "clip", repository.work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    table = "\n".join(["#version: 0.2 - made up", *merges()]) + "\n"
    (repository.work / "clip/bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(table.encode(), mtime=0))
    commit = repository.commit("CLIP")
    repository.publish()
    return commit


def build_extension(top: Path) -> dict[str, str]:
    """Two versions of an extension."""
    repository = Repository(top, "somebody/sd-webui-greeting")
    shutil.copytree(
        TREES / "greeting", repository.work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    commits = {}
    for day, (name, version) in enumerate((("greeting", "1.0"), ("greeting_v2", "2.0")), start=1):
        repository.write({"VERSION": f"{version}\n"})
        commits[name] = repository.commit(version, day)
    repository.publish()
    return commits


def build(top: Path) -> dict[str, str]:
    """All repositories, and the ids of their commits."""
    commits = build_webui(top)
    for name, (path, files) in SMALL.items():
        repository = Repository(top, path)
        repository.write(files)
        commits[name] = repository.commit(name)
        repository.publish()
    commits["clip"] = build_clip(top)
    commits.update(build_extension(top))
    commits["absent"] = ABSENT
    return commits


def main() -> None:
    """Into a folder that is new."""
    if len(sys.argv) != 2:
        sys.exit("usage: build.py FOLDER")
    print(json.dumps(build(Path(sys.argv[1])), indent=2))


if __name__ == "__main__":
    main()
