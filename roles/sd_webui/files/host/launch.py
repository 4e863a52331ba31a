# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Become the engine: ExecStart of sd-webui.service.

Fills the release's command with this host's settings, adds the active profile and executes it in this very process,
so that the engine is the service's main process and gets its signals.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import settings


def command(release: dict[str, Any], config: dict[str, Any], profile: str) -> list[str]:
    """The engine's whole command line."""
    values = {
        "release": str(settings.release_dir().resolve()),
        "address": config["address"],
        "port": config["port"],
        "models_dir": config["models_dir"],
        "outputs_dir": config["outputs_dir"],
        "checkpoint": config["checkpoint"],
    }
    recipe = [*release["command"], *release["profiles"][profile]["arguments"]]
    return [str(part).format(**values) for part in recipe] + [str(part) for part in config["extra_args"]]


def environment(release: dict[str, Any], config: dict[str, Any], profile: str) -> dict[str, str]:
    """The engine's environment: the service's own, then the profile's, then this host's."""
    added = {**release["profiles"][profile]["environment"], **config["environment"]}
    return {**os.environ, **{str(name): str(value) for name, value in added.items()}}


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
    argv = command(release, config, profile)
    print(f"starting {release['id']} with profile {profile}", flush=True)
    try:
        os.execve(argv[0], argv, environment(release, config, profile))
    except OSError as error:
        print(f"error: {argv[0]} cannot be executed ({error}); run site.yml for this host again.", file=sys.stderr)
    return 78


if __name__ == "__main__":
    sys.exit(main())
