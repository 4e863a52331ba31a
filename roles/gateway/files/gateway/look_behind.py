# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway has to know of a server behind it. Changes nothing.

Read by python3 from standard input, with one more line that calls main(). Prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

# Both are for other roles and tools to read (docs/architecture.md).
ENGINE = "/etc/sd-webui/engine.json"
BENCHMARK = "/var/lib/secondhand-diffusion/benchmark.json"


def load(path: str) -> dict[str, Any] | None:
    """The JSON object of schema 1 in a file; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("schema") == 1:
            return data
    return None


def profile(engine: dict[str, Any]) -> str:
    """The profile that the web UI shall have."""
    with contextlib.suppress(OSError, KeyError, TypeError):
        return Path(engine["profile_file"]).read_text(encoding="utf-8").strip()
    return ""


def default_address() -> str:
    """By which address the rest of the network reaches this host."""
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["ip", "-o", "-4", "route", "get", "192.0.2.1"], check=False, capture_output=True, text=True
        )
        found = re.search(r"\bsrc (\S+)", done.stdout)
        return found[1] if found else ""
    return ""


def main() -> None:
    """Look."""
    engine = load(ENGINE)
    print(
        json.dumps(
            {
                "engine": engine,
                "profile": profile(engine) if engine else "",
                "benchmark": load(BENCHMARK),
                "address": default_address(),
            }
        )
    )
