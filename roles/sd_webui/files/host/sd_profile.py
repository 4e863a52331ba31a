# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Switch how the web UI uses the hardware, for a while or until it is switched back.

The playbook's profile stays the desired one; this command lays an override with a reason and an end over it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from typing import Any

import drain
import settings

_UNITS = {"m": 60, "h": 3600, "d": 86400}
# Who asks when no program says its name.
PERSON = "sd-profile"


def duration(text: str) -> float:
    """Seconds of a duration such as 90m, 6h or 2d."""
    match = re.fullmatch(r"(\d+)([mhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write 90m, 6h or 2d")
    return int(match.group(1)) * _UNITS[match.group(2)]


def writer(text: str) -> str:
    """Who lays the override, in a word."""
    if re.fullmatch(r"[a-z][a-z0-9-]{0,31}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a name; write a word of small letters, digits and hyphens")
    return text


def local_time(seconds: float) -> str:
    """A point in time as people read it."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def pytorch() -> str:
    """The release's PyTorch and what it was built for; nothing for an engine without."""
    try:
        torch = settings.read_json(settings.release_dir() / "build.json").get("torch")
    except settings.SettingsError:
        return ""
    if not isinstance(torch, dict) or not torch.get("version") or torch.get("build") in (None, "none"):
        return ""
    build = torch["build"]
    words = [f"{torch['version']}", "for the CPU only" if build == "cpu" else f"for graphics cards ({build})"]
    if torch.get("xformers"):
        words.append(f"with xformers {torch['xformers']}")
    return ", ".join(words)


def status(release: dict[str, Any]) -> str:
    """The desired profile, the active one, why, and until when."""
    override = settings.load_override()
    lines = [
        f"desired:  {settings.desired_profile()}",
        f"active:   {settings.active_profile(release['profiles'])}",
        f"release:  {release['id']} (profiles: {', '.join(release['profiles'])})",
    ]
    built = pytorch()
    if built:
        lines.append(f"pytorch:  {built}")
    if override is not None:
        until = "until it is cleared" if override.expires is None else f"until {local_time(override.expires)}"
        lines.append(
            f"override: {override.profile}, {until}, by {override.set_by}: {override.reason or 'no reason given'}"
        )
    return "\n".join(lines)


def lying() -> dict[str, Any]:
    """The override as its file has it, in force or not; empty when there is none or it is damaged."""
    try:
        return settings.read_json(settings.OVERRIDE)
    except settings.SettingsError:
        return {}


def in_force(data: Any) -> dict[str, Any] | None:
    """This override, if it has a profile and has not expired."""
    if not isinstance(data, dict) or "profile" not in data:
        return None
    expires = data.get("expires")
    return data if expires is None or (isinstance(expires, (int, float)) and expires > time.time()) else None


def write(data: dict[str, Any]) -> None:
    """Have this override; whole or not at all."""
    part = settings.OVERRIDE.with_suffix(".part")
    part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    part.chmod(0o644)
    part.replace(settings.OVERRIDE)


def write_override(profile: str, reason: str, seconds: float | None, set_by: str = PERSON) -> None:
    """Lay an override over the desired profile. What a person has chosen waits below another program's."""
    expires = None if seconds is None else time.time() + seconds
    data = {"schema": 1, "profile": profile, "reason": reason, "expires": expires, "set_by": set_by}
    below = lying()
    if below.get("set_by") == set_by:
        below = below.get("over") or {}
    if set_by != PERSON and in_force(below):
        data["over"] = {name: value for name, value in below.items() if name != "over"}
    write(data)


def lift() -> None:
    """Take the upper override away; what it lay over is in force again."""
    below = in_force(lying().get("over"))
    if below:
        write(below)
    else:
        settings.OVERRIDE.unlink(missing_ok=True)


def wait(drain_seconds: float) -> None:
    """Wait until the server is idle, and say so where it is not."""
    if not drain.wait_until_idle(drain_seconds):
        print(f"A picture was still being made after {drain_seconds:.0f} s; the restart cuts it.")


def restart() -> int:
    """Restart the server; returns systemctl's exit status, which is 0 only when it answers again."""
    return subprocess.run(["systemctl", "restart", settings.UNIT], check=False).returncode


def put_back(override: bytes | None) -> None:
    """Have the override that was there before, or none."""
    if override is None:
        settings.OVERRIDE.unlink(missing_ok=True)
    else:
        settings.OVERRIDE.write_bytes(override)


def change(arguments: argparse.Namespace, release: dict[str, Any]) -> int:
    """Do what the command line asks for; restart the server if that changed the active profile and is not unwanted."""
    before = settings.active_profile(release["profiles"])
    if arguments.action == "expire":
        if in_force(lying()) or not settings.OVERRIDE.exists():
            return 0
        former_profile = str(lying().get("profile"))
        lift()
        if not arguments.restart:
            return 0
        # The override no longer counts since it expired, but the server still runs with it.
        wait(arguments.drain)
        result = restart()
        if result and former_profile in release["profiles"]:
            # What has run until now is better than nothing.
            write_override(former_profile, "the desired profile did not start", None)
            restart()
        return result
    former = settings.OVERRIDE.read_bytes() if settings.OVERRIDE.exists() else None
    wanted = arguments.action
    if arguments.action == "clear":
        # A damaged one is nobody's.
        if arguments.by not in (PERSON, lying().get("set_by", arguments.by)):
            print(f"The override is not from {arguments.by}, so it stays.")
            return 0
        below = in_force(lying().get("over")) if arguments.by != PERSON else None
        wanted = str(below["profile"]) if below else settings.desired_profile()
    if wanted != before and arguments.restart:
        # Before the override is written: whoever gives up waiting has changed nothing.
        wait(arguments.drain)
    if arguments.action == "clear" and arguments.by != PERSON:
        lift()
    elif arguments.action == "clear":
        settings.OVERRIDE.unlink(missing_ok=True)
    else:
        write_override(arguments.action, arguments.reason, arguments.duration, arguments.by)
    after = settings.active_profile(release["profiles"])
    result = restart() if after != before and arguments.restart else 0
    if result:
        # A card that is missing or too small: a server that runs is worth more than the wish.
        put_back(former)
        print(
            f"error: the server does not start with the profile {after}, so it goes back to {before}; "
            f"journalctl -u {settings.UNIT} says why.",
            file=sys.stderr,
        )
        if restart():
            print(f"error: it does not start with {before} either.", file=sys.stderr)
    print(status(release))
    return result


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="sd-profile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "action", help="status, list, clear (back to the desired profile), or the name of a profile to switch to"
    )
    parser.add_argument("--for", dest="duration", type=duration, help="switch back after, for example, 90m, 6h or 2d")
    parser.add_argument("--reason", default="", help="said by sd-profile status")
    parser.add_argument(
        "--by", type=writer, default=PERSON, help="the program that asks for it; its clear takes only its own away"
    )
    parser.add_argument(
        "--no-restart",
        dest="restart",
        action="store_false",
        help="the next start of the server uses it, whenever that is",
    )
    parser.add_argument("--drain", type=float, default=900, help="seconds to let a running generation finish (900)")
    arguments = parser.parse_args()
    try:
        release = settings.load_release()
        if arguments.action == "status":
            print(status(release))
            return 0
        if arguments.action == "list":
            print("\n".join(release["profiles"]))
            return 0
        if arguments.action not in {"clear", "expire", *release["profiles"]}:
            known = ", ".join(release["profiles"])
            print(f"error: {release['id']} has no profile {arguments.action}; choose {known}.", file=sys.stderr)
            return 2
        if os.geteuid() != 0:
            print("error: switching the profile restarts the server; run it with sudo.", file=sys.stderr)
            return 1
        return change(arguments, release)
    except settings.SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
