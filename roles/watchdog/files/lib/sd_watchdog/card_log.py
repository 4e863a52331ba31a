# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The card's errors from the kernel log, judged, and published for the supervisor (gpu.json)."""

from __future__ import annotations

import time
from typing import Any

from sd_watchdog import book as books
from sd_watchdog import kernel_log, paths, store, who, xid
from sd_watchdog.config import Config
from sd_watchdog.proc import Proc

# What a program could not do that long ago has been noticed otherwise, or its program has ended since.
_LATE_SECONDS = 300.0


def look(config: Config, unit: str, proc: Proc, book: dict[str, Any]) -> str:
    """Read on, judge and publish; returns what went wrong and was not said before, "" when nothing did."""
    boot_id, boottime = proc.boot_id(), proc.boottime()
    before = repr(book)
    if book["boot_id"] != boot_id:
        book.update(boot_id=boot_id, xids=[])
    # The journal's seconds leave out those asleep.
    asleep = max(0.0, boottime - time.monotonic()) if proc.is_real else 0.0
    seen = kernel_log.read(config.kernel_log, book["place"], boot_id, boottime, asleep)
    book["place"] = seen.place
    for message in seen.messages:
        found = xid.parse(message.text)
        if found is not None:
            verdict, said = _judge(found, boottime - message.boottime, unit, proc)
            xid.enter(book, found, message.boottime, verdict, said)
    problem = seen.problem
    if repr(book) != before:
        try:
            books.save(book)
        except OSError as error:
            # The next look reads the same lines and gives them the same numbers.
            problem = problem or f"{paths.ROOT_FILE} cannot be written ({error.strerror}); look at the disk"
    return _publish(book, problem)


def _judge(found: xid.Xid, age: float, unit: str, proc: Proc) -> tuple[str, str]:
    """The table's verdict, unless it is about another program than the web UI, or about one that is long gone."""
    if found.verdict != xid.RESTART:
        return found.verdict, found.said
    if age > _LATE_SECONDS:
        return xid.IGNORE, f"{found.said} ({age / 60:.0f} minutes ago)"
    owner = who.unit_of(proc.root, found.pid) if found.pid is not None else ""
    if owner not in ("", unit):
        return xid.IGNORE, f"{found.said} (of {who.describe(proc.root, found.pid or 0)}, not of the web UI)"
    return found.verdict, found.said


def _publish(book: dict[str, Any], problem: str) -> str:
    """Write what has changed; returns a problem that is new."""
    former = store.read(paths.GPU) or {}
    names = ("schema", "boot_id", "xids", "counts", "reboots_total")
    now = {**{name: book[name] for name in names}, "problem": problem}
    if now != former:
        try:
            store.write(paths.GPU, now)
        except OSError as error:
            return f"{paths.GPU} cannot be written ({error.strerror})"
    return problem if problem != former.get("problem") else ""
