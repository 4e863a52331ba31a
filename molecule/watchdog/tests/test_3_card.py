# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A card that fails, a card whose tool hangs, the ladder of profiles, and what people do and are told."""

from __future__ import annotations

from typing import Any

HOST = "sd-watchdog-card"


def test_the_profile_of_the_card_runs(chaos: Any) -> None:
    assert "--lowvram" in chaos(HOST, "begin_card")["command_line"]


def test_a_person_switches_the_profile(chaos: Any) -> None:
    found = chaos(HOST, "profile_switch")
    assert "--use-cpu" in found["there"] and "--lowvram" not in found["there"]
    assert "--lowvram" in found["back"]
    assert "a large ControlNet" in found["said"] and "cpu" in found["shown"]
    assert found["counted"] == {}


def test_sixty_requests_are_no_fault(chaos: Any) -> None:
    """More than there are threads, while the card's own tool hangs and Python programs come and go."""
    found = chaos(HOST, "queue_of_sixty")
    assert found["jobs"] == {"asked": 60, "lost": 0}
    assert found["same"] and found["counted"] == {}
    assert found["busy"]["queue"] >= 1
    # It did happen: health requests failed, and nvidia-smi hung, in one process at most.
    assert found["failed"] >= 3
    assert found["most_hanging"] == 1 and any("nvidia-smi has not answered" in said for said in found["cards"])


def test_maintenance(chaos: Any) -> None:
    found = chaos(HOST, "maintenance")
    assert "another power supply" in found["shown"]
    assert found["untouched"] and found["ready"] is not None


def test_what_the_driver_says_after_a_kill_is_not_counted(chaos: Any) -> None:
    found = chaos(HOST, "xid_45")
    assert found["read"] >= 1 and "xid" not in found["total"]
    assert "--lowvram" in found["command_line"]
    assert {key: count for key, count in found["counted"].items() if count} == {"killed": 1}


def test_a_lost_card_leaves_the_processor(chaos: Any) -> None:
    found = chaos(HOST, "xid_79")
    assert found["gpu"]["counts"]["79"] >= 1
    assert found["restarts"][-1]["reason"] == "xid" and "79" in found["restarts"][-1]["said"]
    assert "--use-cpu" in found["command_line"]
    for shown in (found["sd_profile"], found["shown"]):
        assert "cpu" in shown and "79" in shown
    assert "by watchdog" in found["sd_profile"]


def test_the_ladder_goes_down_and_says_why(chaos: Any) -> None:
    """Three starts that fail with the card's profile, and the next one is another."""
    found = chaos(HOST, "ladder")
    assert "--lowvram" in found["before"] and "--use-cpu" in found["command_line"]
    assert found["starts"] == 4 and found["counted"]["exited"] == 3
    assert "3 faults with gpu_lowvram" in found["sd_profile"] and "by watchdog" in found["sd_profile"]
    assert "until" in found["sd_profile"]
    assert found["picture"]


def test_people_are_told(chaos: Any) -> None:
    found = chaos(HOST, "alerts")
    assert all(alert["path"] == "/closet" for alert in found["alerts"])
    text = "\n".join(f"{alert['headers']} {alert['text']}" for alert in found["alerts"])
    assert "SIGKILL" in text and "79" in text and "Recovered in" in text
    # The same again is not said again, and maintenance is quiet.
    assert text.count("another power supply") == 0
    assert len(found["alerts"]) <= 12 and found["left"] == []
