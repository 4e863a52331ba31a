# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role has to know of a host, in one go. Changes nothing.

Read by python3 from standard input, with one more line that calls main(). Prints JSON.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

NVIDIA = "0x10de"


def read(path: str) -> str:
    """A small text file; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def load(path: str) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    with contextlib.suppress(ValueError):
        data = json.loads(read(path))
        if isinstance(data, dict):
            return data
    return None


def mark(path: str) -> str:
    """What a file is, to be compared: its mode and the SHA-256 of its content."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o7777
            return f"{mode:04o} {hashlib.sha256(file.read()).hexdigest()}"
    except OSError:
        return ""


def package_files(folder: str) -> list[str]:
    """What the package is made of on this host; what Python compiles from it is no part of it."""
    return sorted(path for path in glob.glob(f"{folder}/**/*.py", recursive=True) if os.path.isfile(path))


def has_card() -> bool:
    """A display controller of NVIDIA on the PCI bus, whether it has a driver or not."""
    return any(
        read(f"{device}/vendor").strip() == NVIDIA and read(f"{device}/class").startswith("0x03")
        for device in glob.glob("/sys/bus/pci/devices/*")
    )


def shown(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit."""
    answer = subprocess.run(
        ["systemctl", "show", f"--property={','.join(names)}", unit], check=False, capture_output=True, text=True
    )
    return {name: value for name, _sign, value in (line.partition("=") for line in answer.stdout.splitlines())}


def main(text: str) -> None:
    """Look, as the JSON object asks."""
    asked = json.loads(text)
    engine = load(asked["engine_file"])
    unit = str((engine or {}).get("unit") or asked["unit"])
    state = shown(unit, "LoadState", "ActiveState", "MainPID")
    command = read(f"/proc/{state.get('MainPID') or 0}/cmdline").split("\0")
    override = load(str((engine or {}).get("state_dir") or "/nonexistent") + "/profile-override.json") or {}
    files = [path.replace("{unit}", unit) for path in asked["files"]]
    starters = {name: shown(name, "ActiveState", "UnitFileState") for name in asked["starters"]}
    result = {
        "engine": engine,
        "unit_is_there": state.get("LoadState") == "loaded",
        "state": state.get("ActiveState", ""),
        "supervised": asked["supervisor"] in command,
        "proven": read(asked["proven"]).strip(),
        "card": has_card(),
        "files": {path: mark(path) for path in sorted({*files, *package_files(asked["package"])})},
        "missing_folders": [folder for folder in asked["folders"] if not os.path.isdir(folder)],
        # Where the metrics were linked, as the role has written it.
        "links": re.findall(r"^L\+? (\S+)", read(asked["tmpfiles"]), re.MULTILINE),
        "override_is_ours": override.get("set_by") == "watchdog",
        "starters": {
            name: [found.get("ActiveState") == "active", found.get("UnitFileState") == "enabled"]
            for name, found in starters.items()
        },
    }
    print(json.dumps(result))
