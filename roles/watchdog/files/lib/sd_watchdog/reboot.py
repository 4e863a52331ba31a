# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""May the host be restarted? A card that is broken for good must never make a PC that only ever restarts.

No wall clock: after a power cut an old PC may believe that it is 2008. What counts is how long the host has run.
"""

from __future__ import annotations

from typing import Any

from sd_watchdog.config import Config

# Time for a person to log in and stop it.
LEAST_UPTIME = 600.0
# A host that has run so long is well: earlier restarts no longer count.
FORGIVEN = 86400.0
_KEPT = 20


def counted(reboots: list[dict[str, Any]], uptime: float) -> list[dict[str, Any]]:
    """The restarts by the watchdog that count, the last one last."""
    return [] if uptime >= FORGIVEN else reboots


def refusal(config: Config, reboots: list[dict[str, Any]], uptime: float, boot_id: str) -> str:
    """Why the host is not restarted now, in a sentence; "" when it may be."""
    if not config.reboot:
        return "the watchdog may not restart this host; set watchdog_reboot: true if it shall"
    least = min(LEAST_UPTIME, config.reboot_interval)
    if uptime < least:
        return f"this host has run for {uptime:.0f} s only; it is not restarted before {least:.0f} s"
    if reboots:
        last = reboots[-1]
        # One of this boot did not happen; one of an earlier boot happened at the beginning of this one, or before.
        since = uptime - float(last["uptime"]) if last["boot_id"] == boot_id else uptime
        if since < config.reboot_interval:
            return (
                f"the watchdog has restarted this host {since:.0f} s ago, and does so only once in "
                f"{config.reboot_interval:.0f} s; look at the card, its power and its heat"
            )
    count = len(counted(reboots, uptime))
    if count >= config.reboot_most:
        return (
            f"the watchdog has restarted this host {count} times and it did not help; "
            "look at the card, its power and its heat (a day without a restart begins the count anew)"
        )
    return ""


def remember(
    reboots: list[dict[str, Any]], uptime: float, boot_id: str, wall: float, reason: str
) -> list[dict[str, Any]]:
    """With one more."""
    one_more = {"boot_id": boot_id, "uptime": round(uptime, 1), "wall": wall, "reason": reason}
    return [*counted(reboots, uptime), one_more][-_KEPT:]


def load(value: Any) -> list[dict[str, Any]]:
    """From the file, as far as it makes sense."""
    if not isinstance(value, list):
        return []
    return [
        entry
        for entry in value
        if isinstance(entry, dict)
        and isinstance(entry.get("boot_id"), str)
        and type(entry.get("uptime")) in (int, float)
    ]
