# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVIDIA's driver tells about a card in the kernel log (Xids), and what follows from it.

A verdict says what clears the error: nothing has to ("ignore"), a new process ("restart"), a new start of the driver
("reset"), of the host ("reboot"), or the processor first because only a new start of the host brings the card back
("cpu_then_reboot").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sd_watchdog import untrusted

IGNORE, RESTART, RESET, REBOOT, CPU_THEN_REBOOT = "ignore", "restart", "reset", "reboot", "cpu_then_reboot"

OFF_THE_BUS = 79
_RECOVERY_ACTION = 154

# Meanings and causes: "XID Errors", NVIDIA (docs.nvidia.com/deploy/pdf/XID_Errors.pdf, the table for Volta and older
# cards, as leptonai/gpud quotes it in components/accelerator/nvidia/xid/xid.go), names in src/common/sdk/nvidia/inc/
# nverror.h of NVIDIA/open-gpu-kernel-modules. Actions: the catalog (docs.nvidia.com/deploy/xid-errors/
# analyzing-xid-catalog.html), which is of Ampere and newer: what it calls unused there is judged here by the causes in
# the old table and by NVIDIA's "GPU debug guidelines" (a reset for 61 and 62). The cards in question are of Maxwell and
# Pascal: they have no row remapping, no system processor and mostly no link between cards.
TABLE: dict[int, tuple[str, str]] = {
    1: (RESTART, "invalid or corrupted push buffer stream"),
    2: (RESTART, "invalid or corrupted push buffer stream"),
    3: (RESTART, "invalid or corrupted push buffer stream"),
    4: (RESTART, "invalid or corrupted push buffer stream"),
    6: (RESTART, "invalid or corrupted push buffer stream"),
    7: (RESTART, "invalid or corrupted push buffer address"),
    8: (RESTART, "the card has stopped processing"),
    9: (RESTART, "the driver has programmed the card wrongly"),
    11: (RESTART, "invalid or corrupted push buffer stream"),
    # The old table knows no other cause than the driver, which a new process sets up anew.
    12: (RESTART, "the driver could not handle an exception of the card"),
    13: (RESTART, "exception of the graphics engine, as a rule an illegal access of the program"),
    # Displays: nobody's pictures are made there.
    16: (IGNORE, "the display engine hangs"),
    18: (REBOOT, "the card may no longer use the bus"),
    19: (IGNORE, "error of the display engine"),
    24: (RESTART, "the card has waited too long for a semaphore"),
    25: (RESTART, "invalid or illegal push buffer stream"),
    26: (RESET, "the card's memory does not answer in time"),
    30: (RESTART, "wrong access to a semaphore of the card"),
    31: (RESTART, "page fault in the card's memory, as a rule an illegal access of the program"),
    32: (RESTART, "invalid or corrupted push buffer stream"),
    33: (RESET, "error of the card's own controller"),
    37: (IGNORE, "the card's firmware was told something that it does not know"),
    # Ignored by the catalog; on older cards a context switch that hangs, after which the program gets no more done.
    38: (RESTART, "the watchdog of the card's firmware has run out"),
    39: (RESTART, "exception of a copy engine"),
    40: (RESTART, "exception of a copy engine"),
    41: (RESTART, "exception of a copy engine"),
    43: (IGNORE, "a program was cut off from the card after its own error; the card is well"),
    44: (RESTART, "fault of the graphics engine while it changed contexts"),
    # Each program that is killed while it computes leaves one, and ours is killed by us.
    45: (IGNORE, "a program's work was cleared away: it follows our own kill, or another Xid"),
    46: (RESET, "the card has stopped processing"),
    48: (RESET, "double bit error in the card's memory"),
    # No reset plugs a cable in.
    54: (IGNORE, "the power cable of the card is not plugged in; turn the PC off and plug it in"),
    56: (IGNORE, "error of the display engine"),
    57: (RESET, "the interface to the card's memory could not be programmed"),
    58: (RESET, "the interface to the card's memory is unstable"),
    59: (RESET, "error of the card's own controller"),
    61: (RESET, "breakpoint of the card's own controller"),
    62: (RESET, "the card's own controller has halted"),
    63: (IGNORE, "a bad page of the card's memory is retired"),
    64: (RESET, "a bad page of the card's memory could not be retired"),
    66: (RESTART, "illegal access by the driver"),
    67: (RESTART, "illegal access by the driver"),
    68: (RESTART, "exception of the video decoder"),
    69: (RESTART, "class error of the graphics engine"),
    70: (RESTART, "exception of a copy engine"),
    71: (RESTART, "exception of a copy engine"),
    72: (RESTART, "exception of a copy engine"),
    74: (RESET, "error of the link between cards"),
    78: (IGNORE, "a virtual card could not be started"),
    # A card that is gone does not come back while the host runs: open-gpu-kernel-modules#507.
    OFF_THE_BUS: (CPU_THEN_REBOOT, "the card has fallen off the bus; look at its power, its heat and its seat"),
    80: (RESTART, "the data sent to the card were corrupted"),
    81: (IGNORE, "error of the VGA subsystem"),
    92: (IGNORE, "many single bit errors in the card's memory"),
    94: (RESTART, "memory error that was contained"),
    95: (RESET, "memory error that was not contained"),
    109: (RESET, "a context switch has taken too long"),
    119: (RESET, "the card's system processor does not answer"),
    120: (RESET, "error of the card's system processor"),
}

# Xid 154 names the action itself (driver 565 and newer): "GPU recovery action changed from 0x0 (None) to 0x2 (Node
# Reboot Required)", in the words of 610 "(OS Reboot)". The first that is found counts.
_RECOVERY = (
    ("reboot", REBOOT),
    ("reset", RESET),
    # Function level reset.
    ("flr", RESET),
    ("drain", RESTART),
    ("none", IGNORE),
)

# NVRM: Xid (PCI:0000:03:00): 79, pid=1234, GPU has fallen off the bus.
# NVRM: Xid (0000:01:00): 13, 0005 00000000 …   (of old drivers)
_LINE = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)[^)]*\)\s*:\s*(\d{1,5})\b")
_PID = re.compile(r"\bpid=(\d{1,10})\b")
# Without any Xid, in one line or in several: NVIDIA/NVSentinel#155, leptonai/gpud#1209.
_FALLEN = re.compile(r"fallen off the bus", re.IGNORECASE)
_ADDRESS = re.compile(r"NVRM:.*?\b((?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})\.\d\b", re.DOTALL)

KEPT = 50
# One fault makes many lines: within so many seconds they are one entry.
_SAME_SECONDS = 10.0
# The driver says so again when somebody asks for the card.
_STILL_GONE_SECONDS = 60.0


@dataclass(frozen=True)
class Xid:
    """One error. `pid`: the process that it is about, as far as the driver knows; `implied`: no number stood there."""

    xid: int
    verdict: str
    said: str
    line: str
    card: str = ""
    pid: int | None = None
    implied: bool = False


def parse(text: str) -> Xid | None:
    """The Xid in a message of the kernel, None where there is none."""
    if "NVRM" not in text:
        return None
    line = untrusted.clean(text)
    match = _LINE.search(text)
    if match is None:
        if _FALLEN.search(text) is None:
            return None
        address = _ADDRESS.search(text)
        verdict, said = TABLE[OFF_THE_BUS]
        return Xid(
            OFF_THE_BUS, verdict, _sentence(OFF_THE_BUS, said), line, address.group(1) if address else "", None, True
        )
    number = int(match.group(2))
    if number == _RECOVERY_ACTION:
        verdict, said = _recovery(text[match.end() :])
    else:
        verdict, said = TABLE.get(number, (IGNORE, "this watchdog does not know it; see NVIDIA's list of Xids"))
    process = _PID.search(text, match.end())
    return Xid(
        number, verdict, _sentence(number, said), line, match.group(1), int(process.group(1)) if process else None
    )


def _sentence(number: int, said: str) -> str:
    return f"Xid {number}: {said}"


def _recovery(text: str) -> tuple[str, str]:
    """What the driver itself recommends."""
    wanted = text.rpartition("(")[2].partition(")")[0].lower()
    for word, verdict in _RECOVERY:
        if word in wanted:
            return verdict, f'the driver recommends "{untrusted.clean(wanted, 60)}"'
    return IGNORE, "the driver recommends something that this watchdog does not know"


def enter(book: dict[str, Any], found: Xid, boottime: float, verdict: str, said: str) -> None:
    """Write an Xid into the book: "number", "counts" (of each Xid) and "xids" (the last ones, numbered)."""
    same_seconds = _STILL_GONE_SECONDS if found.implied else _SAME_SECONDS
    for entry in reversed(book["xids"]):
        fits = found.implied or entry["card"] in ("", found.card)
        if entry["xid"] == found.xid and fits and 0 <= boottime - entry["boottime"] < same_seconds:
            if not found.implied:
                book["counts"][str(found.xid)] = book["counts"].get(str(found.xid), 0) + 1
                entry["times"] += 1
            return
    book["number"] += 1
    book["counts"][str(found.xid)] = book["counts"].get(str(found.xid), 0) + 1
    entry = {
        "number": book["number"],
        "xid": found.xid,
        "boottime": round(boottime, 3),
        "verdict": verdict,
        "said": said,
        "line": found.line,
        "card": found.card,
        "times": 1,
    }
    book["xids"] = [*book["xids"], entry][-KEPT:]
