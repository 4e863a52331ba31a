# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Memory, processor and Debian release of this host. Private to this collection: not an interface for others."""

from __future__ import annotations

import os
import re
from typing import Any

# The instructions that the engines' CPU code is built for, as /proc/cpuinfo names them.
FLAGS = ("avx", "avx2", "avx512f", "f16c", "sha_ni")
# Debian's testing and unstable name themselves, but carry no number.
_RELEASES = {"bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}


def describe(proc_path: str = "/proc") -> dict[str, Any]:
    """What the module returns as ``host``; null is what the kernel does not tell."""
    memory = _fields(_read(os.path.join(proc_path, "meminfo")))
    # One processor is as good as another: the first one's lines.
    processor = _fields(_read(os.path.join(proc_path, "cpuinfo")).split("\n\n")[0])
    flags = set(processor.get("flags", "").split())
    return {
        "memory_mib": _mib(memory.get("MemTotal")),
        "swap_mib": _mib(memory.get("SwapTotal")),
        "cpu_model": " ".join(processor.get("model name", "").split()) or None,
        # Those that this process may run on, which is what a taskset or a container's cpuset leaves.
        "cores": len(os.sched_getaffinity(0)),
        "flags": {flag: flag in flags for flag in FLAGS},
    }


def debian_release(path: str = "/etc/os-release") -> str:
    """Its number, such as "12"; empty elsewhere."""
    values = {key: value.strip("\"'") for key, value in re.findall(r"^(\w+)=(.*)$", _read(path), re.MULTILINE)}
    if values.get("ID") != "debian":
        return ""
    return values.get("VERSION_ID") or _RELEASES.get(values.get("VERSION_CODENAME", ""), "")


def _fields(text: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _mib(text: str | None) -> int | None:
    number = re.match(r"(\d+) kB", text or "")
    return int(number[1]) // 1024 if number else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
