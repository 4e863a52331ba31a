# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In real time what every other run shows with a made-up clock: patience. Not one restart by the watchdog."""

from __future__ import annotations

import json
from typing import Any

import pytest


def told(host: Any, name: str) -> dict[str, Any]:
    """What the host says about it (tests/servers/chaos)."""
    found: dict[str, Any] = json.loads(host.check_output(f"cd /opt && python3 -B -m chaos {name}"))
    print(json.dumps(found, indent=1))
    return found


@pytest.mark.testinfra_hosts("sd-long-start")
def test_a_start_of_220_seconds(host: Any) -> None:
    found = told(host, "slow_start")
    assert 220 <= found["ready"] <= 300
    assert found["engines"] == 1 and found["counted"] == {}
    assert set(found["states"]) == {"starting"} and found["picture"]


@pytest.mark.testinfra_hosts("sd-long-job")
def test_a_picture_of_twelve_minutes(host: Any) -> None:
    found = told(host, "long_job")
    assert found["seconds"] >= 720
    assert found["jobs"] == {"asked": 1, "lost": 0}
    assert found["engines"] == 1 and found["counted"] == {}
    # The processor was at work all that time, and nobody thought otherwise.
    assert set(found["states"]) <= {"busy", "unhealthy"}
