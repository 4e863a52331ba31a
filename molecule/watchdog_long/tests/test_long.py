# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In real time what every other run shows with a made-up clock: patience. Not one restart by the watchdog."""

from __future__ import annotations

from typing import Any


def test_a_start_of_220_seconds(told: Any) -> None:
    found = told("sd-long-start")
    assert 220 <= found["ready"] <= 300
    assert found["engines"] == 1 and found["counted"] == {}
    assert set(found["states"]) == {"starting"} and found["picture"]


def test_a_picture_of_twelve_minutes(told: Any) -> None:
    found = told("sd-long-job")
    assert found["seconds"] >= 720
    assert found["jobs"] == {"asked": 1, "lost": 0}
    assert found["engines"] == 1 and found["counted"] == {}
    # The processor was at work all that time, and nobody thought otherwise.
    assert set(found["states"]) <= {"busy", "unhealthy"}
