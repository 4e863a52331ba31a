# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host is in the way: its port, its disk, its clock, its plug. Each has its own sentence, and nothing loops."""

from __future__ import annotations

from typing import Any

import pytest

REAL, HOST = "sd-watchdog", "sd-watchdog-host"


def test_a_taken_port_is_named(chaos: Any) -> None:
    found = chaos(REAL, "port_taken")
    assert "port 7860" in found["named"] and "python3" in found["named"] and "squatter.service" in found["named"]
    assert found["waiting"]["state"] == "waiting" and "squatter.service" in found["waiting"]["said"]
    # Not one start of an engine that could not have its port; and it comes up by itself when the port is free.
    assert found["tries"] == 0
    assert found["ready"] is not None and found["ready"] < 60


@pytest.mark.parametrize("name", ["read_only", "disk_full"])
def test_a_disk_that_is_no_use(chaos: Any, name: str) -> None:
    """A server that runs is left alone; a start waits for the disk, and then works by itself."""
    found = chaos(HOST, name)
    assert found["warned"] and found["untouched"]
    assert found["waiting"], "it does not say what it waits for"
    assert found["tries"] == 0
    assert found["ready"] is not None and found["ready"] < 60


def test_the_clock_may_jump(chaos: Any) -> None:
    """A year ahead, a year back: nobody is killed for it, and a real fault is answered as ever."""
    found = chaos(HOST, "clock_jump")
    assert found["jumped"], "the clock of the supervisor did not move: this shows nothing"
    assert found["same"] and set(found["states"]) == {"ready"}
    assert found["ready"] is not None and found["restarted"] < 3 * 3


def test_a_reboot_forgets_nothing(chaos: Any) -> None:
    found = chaos(REAL, "reboot")
    before, after = found["before"], found["status"]
    assert after["state"] in ("ready", "busy") and found["picture"]
    assert after["restarts_total"] == before["restarts_total"] and before["restarts_total"]["killed"] >= 1
    assert after["restarts"] == before["restarts"]
