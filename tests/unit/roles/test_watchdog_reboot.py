# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the watchdog may restart a host, and above all when not: simulated lives of PCs, with no clock on the wall."""

from __future__ import annotations

from typing import Any

import pytest
from sd_watchdog import reboot
from sd_watchdog.config import Config

ON = Config(reboot=True)
HOUR = 3600.0


def one(uptime: float, boot_id: str) -> dict[str, Any]:
    return {"boot_id": boot_id, "uptime": uptime, "wall": 0.0, "reason": "x"}


def test_off_by_default() -> None:
    assert "watchdog_reboot: true" in reboot.refusal(Config(), [], 1e6, "a")


def test_not_before_a_person_could_log_in() -> None:
    assert "599 s only" in reboot.refusal(ON, [], 599, "a")
    assert reboot.refusal(ON, [], 601, "a") == ""


def test_once_in_six_hours() -> None:
    after = [one(700, "a")]
    assert "600 s ago" in reboot.refusal(ON, after, 600, "b")
    assert reboot.refusal(ON, after, 6 * HOUR - 1, "b") != ""
    assert reboot.refusal(ON, after, 6 * HOUR, "b") == ""


def test_one_that_did_not_happen_counts_too() -> None:
    assert reboot.refusal(ON, [one(10 * HOUR, "a")], 12 * HOUR, "a") != ""
    assert reboot.refusal(ON, [one(10 * HOUR, "a")], 16 * HOUR, "a") == ""


def test_three_that_did_not_help_are_enough() -> None:
    three = [one(6 * HOUR, boot) for boot in "abc"]
    assert "3 times and it did not help" in reboot.refusal(ON, three, 7 * HOUR, "d")
    assert reboot.refusal(ON, three, 24 * HOUR, "d") == ""
    assert len(reboot.remember(three, 24 * HOUR, "d", 0, "x")) == 1


def test_a_card_that_is_broken_for_good() -> None:
    """Asked each minute for thirty days, the host restarts a few times a day at most."""
    reboots: list[dict[str, Any]] = []
    boot, uptime, count = 0, 0.0, 0
    lives: list[float] = []
    for _minute in range(30 * 24 * 60):
        uptime += 60
        if reboot.refusal(ON, reboots, uptime, str(boot)) == "":
            reboots = reboot.remember(reboots, uptime, str(boot), 0.0, "x")
            lives.append(uptime)
            boot, uptime, count = boot + 1, 0.0, count + 1
    # One at first, two more after six hours each, then one a day and its two.
    assert count <= 3 * 30 and min(lives[1:]) >= 6 * HOUR
    assert all(sum(lives[index : index + 4]) >= 24 * HOUR for index in range(1, len(lives) - 4))


def test_what_the_file_may_hold() -> None:
    good = one(5.0, "a")
    assert reboot.load([good, None, {}, {"boot_id": 5, "uptime": 1}, {"boot_id": "a", "uptime": True}]) == [good]
    assert reboot.load(None) == reboot.load({"a": 1}) == []


@pytest.mark.parametrize("interval", [0.0, 30.0])
def test_a_shorter_interval_is_heard(interval: float) -> None:
    config = Config(reboot=True, reboot_interval=interval)
    assert reboot.refusal(config, [], interval, "a") == ""
