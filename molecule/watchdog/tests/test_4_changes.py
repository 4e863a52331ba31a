# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes under the watchdog: settings that do not start, the watchdog taken away, everything taken away."""

from __future__ import annotations

from typing import Any

REAL, STAND_IN = "sd-watchdog", "sd-watchdog-a1111"


def test_settings_that_do_not_start_are_taken_back(chaos: Any) -> None:
    """As without a watchdog; and it counts nothing of it."""
    found = chaos(REAL, "candidate")
    assert found["rc"] != 0 and "runs on" in found["message"] and "no-such-flag" in found["message"]
    assert found["after"]["state"] in ("ready", "busy")
    assert found["after"]["restarts_total"] == found["before"]["restarts_total"]


def test_absent_gives_the_plain_unit_back(chaos: Any) -> None:
    found = chaos(REAL, "absent")
    assert found["rc"] == 0, found["output"]
    assert found["running"].strip() == "it runs" and found["again"] == 0
    for what in ("unit", "shown", "files"):
        assert found["now"][what] == found["plain"][what], what


def test_reset_leaves_nothing(chaos: Any) -> None:
    found = chaos(STAND_IN, "reset")
    assert found["rc"] == 0, found["output"]
    assert found["left"] == ""
