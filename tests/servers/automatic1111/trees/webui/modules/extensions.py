# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The extensions that came with the web UI and the user's own, and their scripts."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import sys
from typing import Any

from . import errors, shared
from .paths_internal import extensions_builtin_dir, extensions_dir

os.makedirs(extensions_dir, exist_ok=True)


@dataclasses.dataclass
class Extension:
    """One folder."""

    name: str
    path: str
    enabled: bool
    is_builtin: bool


extensions: list[Extension] = []


def list_extensions() -> None:
    """Those that the settings do not turn off are enabled."""
    extensions.clear()
    off = shared.opts.get("disabled_extensions")
    for folder in (extensions_builtin_dir, extensions_dir):
        for name in sorted(os.listdir(folder) if os.path.isdir(folder) else []):
            path = os.path.join(folder, name)
            if not os.path.isdir(path):
                continue
            if any(known.name.lower() == name.lower() for known in extensions):
                errors.report(f'Duplicate canonical name "{name}" found in extensions. The second is discarded.')
                continue
            extensions.append(Extension(name, path, name not in off, folder == extensions_builtin_dir))


def active() -> list[Extension]:
    """As far as no flag or setting turns more of them off."""
    options = shared.cmd_opts
    which = shared.opts.get("disable_all_extensions")
    if options.disable_all_extensions or which == "all":
        return []
    only_builtin = options.disable_extra_extensions or which == "extra"
    return [found for found in extensions if found.enabled and (found.is_builtin or not only_builtin)]


def load_scripts() -> None:
    """Import scripts/*.py; one that fails is said and left out."""
    for extension in active():
        scripts = os.path.join(extension.path, "scripts")
        for name in sorted(os.listdir(scripts) if os.path.isdir(scripts) else []):
            if not name.endswith(".py"):
                continue
            path = os.path.join(scripts, name)
            sys.path.insert(0, extension.path)
            try:
                spec: Any = importlib.util.spec_from_file_location(name, path)
                module: Any = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
            except Exception:
                errors.report(f"Error loading script: {name}", exc_info=True)
            finally:
                sys.path.remove(extension.path)


def described() -> list[dict[str, Any]]:
    """What /sdapi/v1/extensions lists: the user's own ones that are clones of something."""
    git: Any = importlib.import_module("git")
    found = []
    for extension in extensions:
        if extension.is_builtin or not os.path.exists(os.path.join(extension.path, ".git")):
            continue
        try:
            repository = git.Repo(extension.path)
            commit = repository.head.commit
            found.append(
                {
                    "name": extension.name,
                    "remote": next(repository.remote().urls),
                    "branch": repository.active_branch.name,
                    "commit_hash": commit.hexsha,
                    "commit_date": str(commit.committed_date),
                    "version": commit.hexsha[:8],
                    "enabled": extension.enabled,
                }
            )
        except Exception:
            errors.report(f"Failed reading extension data from Git repository ({extension.name})", exc_info=True)
    return found
