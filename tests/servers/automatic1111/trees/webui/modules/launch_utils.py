# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Preparation and start. The preparation fetches what is missing from the network, so a service has to skip it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from typing import Any

from . import cmd_args, errors
from .paths_internal import extensions_dir, script_path

args, _unknown = cmd_args.parser.parse_known_args()
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

REPOSITORIES = {
    "stable-diffusion-webui-assets": "AUTOMATIC1111/stable-diffusion-webui-assets",
    "stable-diffusion-stability-ai": "Stability-AI/stablediffusion",
    "generative-models": "Stability-AI/generative-models",
    "k-diffusion": "crowsonkb/k-diffusion",
    "BLIP": "salesforce/BLIP",
}


def run(*command: str) -> str:
    """The output; a RuntimeError where it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"Command: {shlex.join(command)}\nError code: {done.returncode}\nstderr: {done.stderr}")
    return done.stdout.strip()


def commit_hash() -> str:
    """The commit, or <none> where Git is missing or distrusts the owner of the folder."""
    try:
        return run("git", "-C", script_path, "rev-parse", "HEAD")
    except (OSError, RuntimeError):
        return "<none>"


def prepare_environment() -> None:
    """Install and clone what is missing."""
    restart = os.path.join(script_path, "tmp", "restart")
    if os.path.exists(restart):
        os.remove(restart)
    print(f"Python {sys.version}\nCommit hash: {commit_hash()}", flush=True)
    for package in ("torch", "clip"):
        if importlib.util.find_spec(package) is None:
            print(f"Installing {package}", flush=True)
            run(sys.executable, "-m", "pip", "install", package)
    if not args.skip_torch_cuda_test and not importlib.import_module("torch").cuda.is_available():
        raise RuntimeError("Torch is not able to use GPU; add --skip-torch-cuda-test to COMMANDLINE_ARGS")
    for folder, name in REPOSITORIES.items():
        path = os.path.join(script_path, "repositories", folder)
        if not os.path.exists(path):
            print(f"Cloning {folder} into {path}...", flush=True)
            run("git", "clone", f"https://github.com/{name}.git", path)


def list_extensions(settings_file: str) -> list[str]:
    """The user's extensions that are not turned off; damaged settings are moved away."""
    settings: dict[str, Any] = {}
    try:
        with open(settings_file, encoding="utf-8") as file:
            settings = json.load(file)
    except FileNotFoundError:
        pass
    except ValueError:
        errors.report(f"The settings file {settings_file} is damaged and moved to tmp/config.json", exc_info=True)
        os.replace(settings_file, os.path.join(script_path, "tmp", "config.json"))
    off = set(settings.get("disabled_extensions", []))
    if args.disable_all_extensions or args.disable_extra_extensions or not os.path.isdir(extensions_dir):
        return []
    return [name for name in os.listdir(extensions_dir) if name not in off]


def start() -> None:
    """Run the main program in this process."""
    print(f"Launching Web UI with arguments: {shlex.join(sys.argv[1:])}", flush=True)
    importlib.import_module("webui").webui()
