# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what a module writes about its progress to lines for a person."""

from __future__ import annotations

import json
from typing import Any

LONGEST_NAME = 60
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def parse(text: str) -> dict[str, Any] | None:
    """What the module wrote; None while it has not written anything."""
    try:
        progress = json.loads(text)
    except ValueError:
        return None
    return progress if isinstance(progress, dict) and (progress.get("name") or progress.get("note")) else None


def line(progress: dict[str, Any]) -> str:
    """A file's name, how much of it is there, how fast it comes, and how long it still takes."""
    if not progress.get("name"):
        # Before it is known what there is to fetch.
        return _printable(f"{progress.get('state')}: {progress['note']}")
    words = name(progress)
    amount = _amount(_number(progress.get("done")), progress.get("total"))
    state, note = progress.get("state"), _printable(str(progress.get("note") or ""))
    if state == "downloading":
        rate, eta = _number(progress.get("rate")), progress.get("eta")
        words = f"{words} {amount}"
        if rate:
            words += f", {size(rate)}/s"
        if rate and eta is not None:
            words += f", {duration(_number(eta))} left"
    elif state == "waiting":
        words += f" {amount}, waiting"
    elif state == "checking":
        words += f" {amount} checked"
    else:
        words += f": {_printable(str(state))}"
    return f"{words}: {note}" if note else words


def name(progress: dict[str, Any]) -> str:
    """A file's name, and which of how many it is."""
    words = _printable(str(progress.get("name") or "download"))
    if len(words) > LONGEST_NAME:
        # The end tells more than the middle: it has the version and the format.
        words = f"{words[: LONGEST_NAME // 2]}…{words[-LONGEST_NAME // 2 + 1 :]}"
    files = _number(progress.get("files"))
    return f"{words} ({_number(progress.get('file')):.0f} of {files:.0f})" if files > 1 else words


def finished(progress: dict[str, Any], transferred: float, seconds: float) -> str:
    """The last line, for a file whose progress was shown."""
    words = f"{name(progress)} done"
    if transferred > 0 and seconds > 0:
        words += f": {size(transferred)} in {duration(seconds)}, {size(transferred / seconds)}/s"
    return words


def size(count: float) -> str:
    number, unit = _scaled(count, count)
    return f"{number} {unit}"


def duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _amount(done: float, total: Any) -> str:
    if not _number(total):
        return size(done)
    number, unit = _scaled(_number(total), _number(total))
    part, _unit = _scaled(done, _number(total))
    return f"{part} of {number} {unit}"


def _scaled(count: float, reference: float) -> tuple[str, str]:
    """A number of bytes in the unit that fits the reference, with three digits that mean something."""
    step = 0
    while reference >= 999.5 and step < len(UNITS) - 1:
        reference, count, step = reference / 1024, count / 1024, step + 1
    if not step:
        return f"{count:.0f}", UNITS[0]
    digits = 0 if reference >= 100 else 1 if reference >= 10 else 2
    return f"{count:.{digits}f}", UNITS[step]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
