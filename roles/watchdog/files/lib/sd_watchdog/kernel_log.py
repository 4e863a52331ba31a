# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what the kernel has said since the last look: from the journal, or from a file when the settings name one.

Only root writes there (the journal keeps what the kernel itself said apart), so an Xid cannot be made up by the web UI.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from typing import Any

from sd_watchdog import bounded

JOURNAL = "journal"
# In one look; the rest comes with the next one.
_MOST_BYTES = 4 << 20
_DEADLINE = 10.0
# [ 1234.567890] in front of the message.
_STAMP = re.compile(r"\[ *(\d{1,9}\.\d{1,9})\]")
# The kernel's first words of a boot.
_BANNER = re.compile(r"\] Linux version \d")


@dataclass(frozen=True)
class Message:
    """What the kernel said, and when (seconds since boot, suspends counted)."""

    text: str
    boottime: float


@dataclass(frozen=True)
class Look:
    """What is new, where the next look begins, and what went wrong ("" when nothing did)."""

    messages: list[Message]
    place: dict[str, Any]
    problem: str = ""


def read(source: str, place: dict[str, Any], boot_id: str, boottime: float, asleep: float) -> Look:
    """Everything since `place`, which the last look has left; `asleep`: seconds of this boot in a suspend."""
    known = place if place.get("source") == source else {}
    if source == JOURNAL:
        return _read_journal(known if known.get("boot_id") == boot_id else {}, boot_id, boottime, asleep)
    return _read_file(source, known, boot_id, boottime)


def _read_journal(place: dict[str, Any], boot_id: str, boottime: float, asleep: float) -> Look:
    """The kernel's own messages of this boot; at the very first look all of them."""
    cursor = place.get("cursor")
    # -k is of this boot only.
    command = ["journalctl", "--quiet", "--no-pager", "--dmesg", "--output=json"]
    command.append("--output-fields=MESSAGE,_SOURCE_MONOTONIC_TIMESTAMP")
    done = bounded.run(
        [*command, *([f"--after-cursor={cursor}"] if cursor else [])], _DEADLINE, _MOST_BYTES, errors=False
    )
    fresh = {"source": JOURNAL, "boot_id": boot_id, "cursor": cursor}
    # Too much to say is no failure: what came is used.
    if done.status not in (0, None) or (done.status is None and not done.output):
        # A place that the journal no longer knows would fail for ever: the next look is at all of this boot, as far as
        # it is newer than what was seen.
        fresh.update(cursor=cursor if done.status is None else None, seen=place.get("seen", -1.0))
        status = "has not ended in time" if done.status is None else f"has ended with status {done.status}"
        return Look([], fresh, f"journalctl {status}; try journalctl --dmesg on the host")
    messages = []
    seen = float(place.get("seen", -1.0))
    for line in done.output[: done.output.rfind(b"\n") + 1].split(b"\n"):
        entry = _entry(line)
        if entry is None:
            continue
        fresh["cursor"] = entry.get("__CURSOR") or fresh["cursor"]
        message = _message(entry, boottime, asleep)
        if cursor is None and message.boottime <= seen:
            continue
        messages.append(message)
    newest = max([seen, *(message.boottime for message in messages)])
    return Look(messages, {**fresh, "seen": newest})


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line of journalctl's JSON."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _message(entry: dict[str, Any], boottime: float, asleep: float) -> Message:
    """The message; its time is the kernel's own, else the journal's, which both leave out suspends."""
    text = entry.get("MESSAGE")
    if isinstance(text, list):
        # What is not plain text comes as numbers.
        text = bytes(byte for byte in text if isinstance(byte, int) and 0 <= byte < 256).decode("utf-8", "replace")
    for name in ("_SOURCE_MONOTONIC_TIMESTAMP", "__MONOTONIC_TIMESTAMP"):
        stamp = entry.get(name)
        if isinstance(stamp, str) and stamp.isascii() and stamp.isdigit():
            return Message(str(text), min(boottime, int(stamp) / 1e6 + asleep))
    return Message(str(text), boottime)


def _read_file(source: str, place: dict[str, Any], boot_id: str, boottime: float) -> Look:
    """What a file of the kernel's messages has got since. At the very first look nothing: it may be of other boots."""
    fresh = {"source": source, "boot_id": boot_id, "inode": 0, "offset": 0}
    try:
        # A pipe would have to be waited for.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return Look([], fresh)
    except OSError as error:
        return Look([], place or fresh, f"the kernel log {source} cannot be read ({error.strerror})")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Look([], place or fresh, f"the kernel log {source} is no file; correct watchdog_kernel_log")
        fresh["inode"] = status.st_ino
        if not place:
            return Look([], {**fresh, "offset": status.st_size})
        offset = int(place.get("offset") or 0)
        if place.get("inode") != status.st_ino or status.st_size < offset:
            # Rotated, or cut.
            offset = 0
        data = os.pread(descriptor, _MOST_BYTES, offset)
    finally:
        os.close(descriptor)
    # A line that is still being written is left for the next look, if it ever ends.
    end = data.rfind(b"\n") + 1 or (len(data) if len(data) == _MOST_BYTES else 0)
    text = data[:end].decode("utf-8", "replace")
    if place.get("boot_id") != boot_id:
        # What the last boot said at its end is no news of this one.
        starts = [match.start() for match in _BANNER.finditer(text)]
        text = text[starts[-1] :] if starts else text
    lines = [line for line in text.split("\n") if line]
    return Look([Message(line, _stamp(line, boottime)) for line in lines], {**fresh, "offset": offset + end})


def _stamp(line: str, boottime: float) -> float:
    """When the kernel said it; now, where it does not tell."""
    match = _STAMP.search(line[:100])
    return min(boottime, float(match.group(1))) if match else boottime
