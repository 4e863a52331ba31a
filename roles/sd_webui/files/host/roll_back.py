# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the release that ran before the current one: for a release that no longer starts. Restarts nothing.

What a playbook does with sd_webui_version: previous, without its proof by a picture: the next start shows whether it
works, and the next run of site.yml stays with that release and proves it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import settings

CURRENT = settings.DEFAULT_RELEASE
PREVIOUS = settings.ROOT / "opt/sd-webui/previous"
ROLLED_BACK_FROM = settings.ROOT / "var/lib/sd-webui/rolled-back-from"
# There while a playbook tries another release.
CANDIDATE = settings.ROOT / "run/systemd/system" / f"{settings.UNIT}.d/50-candidate.conf"
ENGINE_FILE = settings.CONFIG / "engine.json"


class Refused(Exception):
    """It is not done; the message is one sentence."""


def release_of(link: Path) -> Path | None:
    """The release that a link leads to, None where it leads nowhere."""
    folder = link.resolve()
    return folder if link.is_symlink() and folder.is_dir() else None


def left_before() -> str:
    """The release that the last rollback left, "" when there was none."""
    try:
        return ROLLED_BACK_FROM.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.chmod(0o644)
    part.replace(path)


def point(link: Path, target: Path) -> None:
    """Have a link lead elsewhere, without a moment in which it leads nowhere."""
    part = link.with_name(f".{link.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def check() -> tuple[Path, Path]:
    """Where the current release is, and the one to go back to; raises Refused or settings.SettingsError."""
    if CANDIDATE.exists():
        raise Refused("a playbook is trying another release right now; wait for its end.")
    if not CURRENT.is_symlink():
        raise Refused(f"{CURRENT} is no link to a release; run site.yml for this host.")
    # It may lead to a release that somebody has removed.
    current, previous = Path(os.readlink(CURRENT)), release_of(PREVIOUS)
    if previous is None or previous.name == current.name:
        raise Refused("there is no earlier release to go back to; only an update leaves one behind.")
    before = left_before()
    if before and before != current.name:
        raise Refused(f"{current.name} already is what {before} was rolled back to; run site.yml with another release.")
    return current, previous


def recipe_of(previous: Path, contract: dict[str, Any]) -> dict[str, Any]:
    """How that release is started, if this host is still set up for it; raises Refused or settings.SettingsError."""
    recipe = settings.read_json(previous / "release.json")
    engine = settings.read_json(previous / "build.json").get("engine")
    # Login, sandbox and settings are the engine's.
    wanted = contract.get("engine")
    if engine != wanted:
        raise Refused(f"{previous.name} is of the engine {engine}, and this host is set up for {wanted}; run site.yml.")
    profile = settings.desired_profile()
    if profile not in recipe["profiles"]:
        raise Refused(f"{previous.name} has no profile {profile}, which this host is set to; run site.yml.")
    return recipe


def tell(contract: dict[str, Any], recipe: dict[str, Any]) -> str:
    """What other roles and tools read about the release that runs here, as role sd_webui writes it."""
    paths = recipe["paths"]
    changed = {
        "release": recipe["id"],
        "version": recipe["version"],
        "profiles": list(recipe["profiles"]),
        "minimum_memory_mib": recipe["minimum_memory_mib"],
        "health_path": paths["health"],
        "readiness_path": paths["readiness"],
        "progress_path": paths["progress"],
        "txt2img_path": paths["txt2img"],
        "activity_path": paths.get("activity") or None,
    }
    return json.dumps({**contract, **changed}, indent=4, sort_keys=True) + "\n"


def roll_back() -> str:
    """Do it and say so; raises Refused, settings.SettingsError or OSError."""
    current, previous = check()
    contract = settings.read_json(ENGINE_FILE)
    told = tell(contract, recipe_of(previous, contract))
    # In this order: a power cut between two steps leaves a server that starts, and never a release that is left twice.
    replace(ROLLED_BACK_FROM, f"{current.name}\n")
    point(CURRENT, previous)
    point(PREVIOUS, current)
    replace(ENGINE_FILE, told)
    return (
        f"{previous.name} is the current release again, in place of {current.name}; to try that one again, "
        f"remove {ROLLED_BACK_FROM} and run site.yml."
    )


def main() -> int:
    """Print one sentence."""
    if os.geteuid() != 0:
        print("error: going back to another release is root's; run it with sudo.", file=sys.stderr)
        return 1
    try:
        print(roll_back())
    except (Refused, settings.SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (OSError, KeyError, TypeError) as error:
        print(f"error: the release cannot be changed ({error!r}); run site.yml for this host again.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
