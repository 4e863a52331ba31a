# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Become the engine: ExecStart of sd-webui.service.

Brings the files that the web UI itself writes up to date with the inventory (while it runs, it would write over them),
fills the release's command with this host's settings, adds the active profile and executes it in this very process, so
that whoever has started this one has started the engine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import merge_settings
import settings


def placeholders(config: dict[str, Any]) -> dict[str, Any]:
    """What may stand in braces in a recipe."""
    known = ("address", "port", "data_dir", "models_dir", "outputs_dir", "checkpoint")
    values = {name: config[name] for name in known if name in config}
    values["release"] = str(settings.release_dir().resolve())
    values["libexec"] = str(Path(__file__).resolve().parent)
    # Where systemd puts secrets (LoadCredential): they are on no command line, and in no file that others may read.
    if "CREDENTIALS_DIRECTORY" in os.environ:
        values["credentials"] = os.environ["CREDENTIALS_DIRECTORY"]
    return values


def fill(text: Any, config: dict[str, Any]) -> str:
    """A part of a recipe with this host's values in it; raises SettingsError."""
    try:
        return str(text).format(**placeholders(config))
    except (KeyError, IndexError, ValueError) as error:
        raise settings.SettingsError(
            f"the recipe has {text}, and this host tells no value for it; run site.yml for this host again."
        ) from error


def command(release: dict[str, Any], config: dict[str, Any], profile: str) -> list[str]:
    """The engine's whole command line."""
    chosen = release["profiles"][profile]
    recipe = [*release["command"]]
    if config.get("login"):
        recipe += release.get("command_when_login", [])
    recipe += chosen["arguments"]
    if config.get("broken_fp16") and profile.startswith("gpu_"):
        recipe += chosen.get("broken_fp16_arguments", [])
    return [fill(part, config) for part in recipe] + [str(part) for part in config["extra_args"]]


def environment(release: dict[str, Any], config: dict[str, Any], profile: str) -> dict[str, str]:
    """The engine's environment: the service's own, then the release's, then the profile's, then this host's."""
    recipe = {**release.get("environment", {}), **release["profiles"][profile]["environment"]}
    added = {name: fill(value, config) for name, value in recipe.items()}
    added.update({name: str(value) for name, value in config["environment"].items()})
    if config.get("login"):
        # Nothing of the above may open the server.
        added["SD_WEBUI_LOGIN"] = "required"
    return {**os.environ, **added}


def missing_cpu_features() -> list[str]:
    """What the release was compiled for and this CPU lacks: a disk may have moved to an older PC."""
    try:
        built_for = settings.read_json(settings.release_dir() / "build.json")["cpu_features"]
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next(line for line in lines if line.startswith("flags")).split()
    except (settings.SettingsError, KeyError, OSError, StopIteration):
        return []
    return sorted(set(built_for) - set(flags))


def main() -> int:
    """Execute the engine; return only when it cannot be."""
    try:
        config, release = settings.load_settings(), settings.load_release()
        profile = settings.active_profile(release["profiles"])
    except settings.SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 78
    if profile not in release["profiles"]:
        known = ", ".join(release["profiles"])
        print(
            f"error: {release['id']} has no profile {profile}; set sd_webui_profile to one of {known}.", file=sys.stderr
        )
        return 78
    missing = missing_cpu_features()
    if missing:
        print(
            f"error: {release['id']} was built for a CPU with {', '.join(missing)}, which this one lacks; "
            "run site.yml, which builds one for it.",
            file=sys.stderr,
        )
        return 78
    if not os.access(config["checkpoint"], os.R_OK):
        print(
            f"error: the checkpoint {config['checkpoint']} is missing or not readable by this service; put it there, "
            "or chmod a+r it.",
            file=sys.stderr,
        )
        return 78
    try:
        argv, variables = command(release, config, profile), environment(release, config, profile)
    except settings.SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 78
    if merge_settings.main():
        return 78
    print(f"starting {release['id']} with profile {profile}", flush=True)
    try:
        os.execve(argv[0], argv, variables)
    except OSError as error:
        print(f"error: {argv[0]} cannot be executed ({error}); run site.yml for this host again.", file=sys.stderr)
    return 78


if __name__ == "__main__":
    sys.exit(main())
