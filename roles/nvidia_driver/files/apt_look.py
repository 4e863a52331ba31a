# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print, as JSON, what apt on this host can offer for the driver, by asking apt itself. Changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TARGET = "$(CREATED_BY)|$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)"


def run(command: list[str]) -> str:
    """Return what a command prints, or nothing where it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    except OSError:
        return ""
    return done.stdout


def signed_by(entry: str, uri: str) -> str:
    """Return the key that the sources file names for this address: apt refuses the same archive with another one."""
    name, __, number = entry.rpartition(":")
    try:
        text = Path(name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    if name.endswith(".list"):
        lines = text.splitlines()
        line = lines[int(number) - 1] if number.isdigit() and 0 < int(number) <= len(lines) else ""
        found = re.search(r"\[[^\]]*signed-by=([^\s\]]+)", line, re.IGNORECASE)
        return found.group(1).replace(",", " ") if found else ""
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        if uri.rstrip("/") in stanza:
            found = re.search(r"^Signed-By:[ \t]*((?:.*)(?:\n[ \t]+.*)*)", stanza, re.IGNORECASE | re.MULTILINE)
            return found.group(1).rstrip() if found else ""
    return ""


def missing_components(codename: str, wanted: list[str], own_file: str) -> list[dict[str, Any]]:
    """Return, as stanzas for a sources file, which wanted components each suite of Debian lacks here."""
    have: dict[tuple[str, str], set[str]] = {}
    keys: dict[tuple[str, str], str] = {}
    for line in run(["apt-get", "indextargets", "--format", TARGET]).splitlines():
        kind, origin, uri, name, suite, component, entry = line.split("|")
        ours = entry.startswith(f"{own_file}:")
        # The security suite is called bookworm-security by both, Debian 11's updates bullseye-updates.
        debian = origin == "Debian" and name.startswith(codename) and "backports" not in name
        if kind == "Packages" and debian and not ours:
            have.setdefault((uri, suite), set()).add(component)
            keys.setdefault((uri, suite), signed_by(entry, uri))
    stanzas: dict[str, dict[str, Any]] = {}
    for (uri, suite), components in sorted(have.items()):
        missing = [component for component in wanted if component not in components]
        if "main" in components and missing:
            same = {"uri": uri, "components": missing, "signed_by": keys[uri, suite]}
            stanzas.setdefault(json.dumps(same), {**same, "suites": []})["suites"].append(suite)
    return list(stanzas.values())


def candidates(names: list[str]) -> dict[str, str]:
    """Return the version of each package that apt would install."""
    found = {}
    name = ""
    for line in run(["apt-cache", "policy", *names]).splitlines() if names else []:
        if line and not line[0].isspace():
            name = line.rstrip(":")
        elif line.strip().startswith("Candidate:") and "(none)" not in line:
            found[name] = line.split()[1]
    return found


def main() -> None:
    """Answer the questions given as the JSON argument."""
    ask = json.loads(sys.argv[1])
    headers = [f"linux-headers-{kernel}" for kernel in ask["kernels"]]
    json.dump(
        {
            "missing": missing_components(ask["codename"], ask["components"], ask["own_file"]),
            "own_file": Path(ask["own_file"]).exists(),
            "candidates": candidates(ask["packages"]),
            "headers": sorted(candidates(headers)),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
