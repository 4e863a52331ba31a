# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The web UI's unit as systemd has it, and the files around it, as JSON: look.py [FILE]. Run on the host, as root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

UNIT = "sd-webui.service"
SHOWN = (
    "Type",
    "NotifyAccess",
    "ExecStart",
    "ExecStartPre",
    "ExecStartPost",
    "Restart",
    "RestartUSec",
    "WatchdogUSec",
    "KillMode",
    "TimeoutStartUSec",
    "TimeoutStopUSec",
    "OOMPolicy",
    "OOMScoreAdjust",
    "MemoryMax",
    "ReadWritePaths",
    "DropInPaths",
    "SuccessExitStatus",
)
FOLDERS = ("/etc", "/usr/local", "/var/lib/sd-webui", "/opt/sd-webui/libexec")
# Anything of the watchdog's in these.
RUNNING = ("/run", "/var/lib")


def output(*command: str) -> str:
    """What a command says."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def shown() -> list[str]:
    """Properties that do not change while it runs: what an ExecStart has done so far is left out."""
    lines = output("systemctl", "show", UNIT, *[f"--property={name}" for name in SHOWN]).splitlines()
    return sorted(line.partition(" ; ignore_errors=")[0] for line in lines)


def files() -> list[str]:
    """Names below the folders that a role writes to."""
    found = []
    for folder in FOLDERS:
        for top, _folders, names in os.walk(folder):
            found += [str(Path(top, name)) for name in names]
    for folder in RUNNING:
        found += [str(path) for path in Path(folder).iterdir() if "watchdog" in path.name]
    return sorted(path for path in found if "__pycache__" not in path)


def main() -> None:
    """To the file, else to the output."""
    text = json.dumps({"unit": output("systemctl", "cat", UNIT), "shown": shown(), "files": files()}, indent=1)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
