# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take the card's driver out of the kernel and put it in again: what GeForce cards have in place of a reset.

Only when nothing uses the card: the driver of a card that somebody computes or draws with is left alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from sd_watchdog import bounded, who

# In the order in which they let go of each other.
MODULES = ("nvidia_uvm", "nvidia_drm", "nvidia_modeset", "nvidia_peermem", "nvidia")
# It keeps the card open for nobody's sake but the next program's.
PERSISTENCE = "nvidia-persistenced.service"
DEVICES = "secondhand-nvidia-devices.service"
POWER = "secondhand-nvidia-power-limit.service"
# All steps together, and one of them. The supervisor waits longer than that.
MOST_SECONDS = 120.0
_STEP_SECONDS = 40.0
# Kept for the units and the proof after it.
_LAST_SECONDS = 40.0
# So long after one reload there is no other.
INTERVAL = 600.0

Run = Callable[[list[str], float], bounded.Done]


def nodes(root: Path) -> set[str]:
    """Device files of NVIDIA cards among those that all graphics cards have."""
    found = set()
    for vendor in (root / "sys/class/drm").glob("*/device/vendor"):
        name = vendor.parts[-3]
        try:
            is_nvidia = vendor.read_text(encoding="ascii", errors="replace").strip() == "0x10de"
        except OSError:
            continue
        if is_nvidia and re.fullmatch(r"(card|renderD)\d+", name):
            found.add(f"/dev/dri/{name}")
    return found


def _maps(root: Path, pid: int) -> bool:
    """Has the process mapped a card's file, which it may have closed since?"""
    try:
        with open(f"{root}/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            return any(" /dev/nvidia" in line for line in file)
    except OSError:
        return False


def holders(root: Path) -> list[int]:
    """The processes that use a card of NVIDIA."""
    drawing = nodes(root)
    return [
        pid
        for pid in who.pids(root)
        if any(name.startswith("/dev/nvidia") or name in drawing for name in who.opened(root, pid)) or _maps(root, pid)
    ]


def in_the_way(root: Path) -> str:
    """Who uses the card and would have to end first, in words; "" when nobody does."""
    found = [who.describe(root, pid) for pid in holders(root) if who.unit_of(root, pid) != PERSISTENCE]
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def loaded(root: Path) -> list[str]:
    """The driver's modules that are loaded, in the order of their removal."""
    try:
        lines = (root / "proc/modules").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    names = {line.partition(" ")[0] for line in lines}
    return [name for name in MODULES if name in names]


def _units(run: Run) -> tuple[set[str], set[str]]:
    """Which of the driver's units are there, and which of them are active."""
    units = (PERSISTENCE, POWER, DEVICES)
    done = run(["systemctl", "show", "--property=Id,LoadState,ActiveState", *units], 10.0)
    there, active = set(), set()
    for block in done.output.decode("utf-8", "replace").split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        if values.get("LoadState") == "loaded":
            there.add(values.get("Id", ""))
            if values.get("ActiveState") in ("active", "activating"):
                active.add(values.get("Id", ""))
    return there, active


def reload(root: Path, nvidia_smi: str) -> tuple[bool, str]:
    """Do it; whether the card answers afterwards, and what happened, in a sentence."""
    modules = loaded(root)
    if not modules:
        return False, "the driver of the card is not loaded; modprobe nvidia says why not"
    used_by = in_the_way(root)
    if used_by:
        return False, f"the driver cannot be reloaded while the card is used by {used_by}"
    until = time.monotonic() + MOST_SECONDS

    def run(command: list[str], seconds: float = _STEP_SECONDS) -> bounded.Done:
        return bounded.run(command, max(1.0, min(seconds, until - time.monotonic())))

    there, active = _units(run)
    if PERSISTENCE in active:
        run(["systemctl", "stop", PERSISTENCE], 15.0)
    removed = run(["modprobe", "-r", *modules])
    # In any case: what is half gone is put back.
    put_in = run(["modprobe", "nvidia"], min(_STEP_SECONDS, until - time.monotonic() - _LAST_SECONDS))
    for name in reversed(modules[: modules.index("nvidia")] if "nvidia" in modules else modules):
        run(["modprobe", name], 5.0)
    # Device files, which the sandboxed web UI cannot make, and what a new start of the driver forgets.
    for unit in (PERSISTENCE, POWER, DEVICES):
        if unit in active or (unit == DEVICES and unit in there):
            run(["systemctl", "restart", unit], 15.0)
    if not removed.ok:
        return False, f"the driver did not let go: {_why(removed)}"
    if not put_in.ok:
        return False, f"the driver was taken out and does not go in again: {_why(put_in)}"
    if not any((root / "proc/driver/nvidia/gpus").glob("*")):
        return False, "the driver was reloaded and finds no card"
    if not (root / "dev/nvidiactl").exists():
        # In a sandbox without devices nobody can ask the card itself.
        return True, "the driver was reloaded, and it has found the card"
    proof = run([nvidia_smi, "-L"], 15.0)
    if not proof.ok:
        return False, f"the driver was reloaded and the card still does not answer: {_why(proof)}"
    return True, f"the driver was reloaded, and the card answers: {proof.last_line()}"


def _why(done: bounded.Done) -> str:
    """How a command ended."""
    if done.status is None:
        return "it hangs"
    return done.last_line() or f"it ended with status {done.status}"
