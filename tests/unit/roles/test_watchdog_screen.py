# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the person at the terminal reads."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sd_watchdog import screen
from sd_watchdog.screen import View

NOW = time.mktime((2026, 11, 23, 13, 10, 0, 0, 0, -1))
UNIT = "sd-webui.service"
RESTARTS = [
    {
        "wall": NOW - 90_000,
        "reason": "stopped",
        "said": "its process has been stopped (state T) for 10 s",
        "evidence": ["process state T, 0.00 cores at work, profile gpu_full"],
        "ready_after": 33.0,
    },
    {
        "wall": NOW - 300,
        "reason": "cuda_error",
        "said": "jobs fail one after the other",
        "evidence": ["process state S", "log: CUDA error: an illegal memory access", "log: 40%|████      | 8/20"],
        "ready_after": 61.0,
    },
]
FACTS: dict[str, Any] = {
    "schema": 1,
    "host": "closet",
    "engine": "automatic1111",
    "release": "automatic1111-1.10.1",
    "address": "127.0.0.1",
    "port": 7860,
    "state": "ready",
    "since": NOW - 11534,
    "said": "it answers",
    "profile": "gpu_full",
    "desired_profile": "gpu_full",
    "supervisor_pid": 100,
    "engine_pid": 101,
    "uptime": 11534.0,
    "ready_after": 42.0,
    "queue": 0,
    "job": None,
    "cores": 0.01,
    "memory_mib": 6600,
    "memory_limit_mib": 7372,
    "probe_seconds": 0.0214,
    "gpu": {"utilization": 98.0, "memory_used_mib": 3400, "temperature": 71.0, "said": ""},
    "restarts_total": {},
    "restarts": [],
    "rung": "restart",
    "problems": [],
}
DOWN = {"engine_pid": None, "ready_after": None, "uptime": None, "cores": None, "memory_mib": None, "gpu": None}


def view(facts: dict[str, Any] | None = None, **more: Any) -> View:
    values: dict[str, Any] = {"alive": True, "silent": 3.0, "unit": UNIT, "now": NOW, **more}
    return View(facts={**FACTS, **(facts or {})}, **values)


def shown(one: View, width: int = 80) -> str:
    text = screen.screen(one, width)
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert all(len(line) <= max(width, 60) for line in text.splitlines() if "sudo" not in line), text
    return text


def test_all_is_well() -> None:
    assert shown(view()) == (
        "The web UI on closet is ready, for 3 h 12 min.\n"
        "\n"
        "  Web UI     automatic1111-1.10.1, on 127.0.0.1:7860, up for 3 h 12 min (started\n"
        "             in 42 s), answers in 0.021 s\n"
        "  Profile    gpu_full\n"
        "  Work       no picture is being made; 0.0 cores in use\n"
        "  Memory     6.4 GiB of 7.2 GiB (90 %)\n"
        "  Card       98 % busy, 3.3 GiB in use, 71 °C\n"
        "  So far     no restart\n"
    )
    assert screen.exit_status(view()) == 0


def test_at_work() -> None:
    one = view({"state": "busy", "said": "it makes a picture", "job": "txt2img", "step": 12, "steps": 20, "queue": 1})
    text = shown(one)
    assert text.startswith("The web UI on closet is ready and at work, for 3 h 12 min.\n")
    assert "  Work       txt2img, step 12 of 20; 1 request waits; 0.0 cores in use\n" in text
    assert "Next step" not in text
    assert screen.exit_status(one) == 0


def test_what_is_about_to_happen() -> None:
    one = view({"state": "busy", "said": "a CUDA error was seen; it is started anew when it makes no picture"})
    assert "\n  A CUDA error was seen; it is started anew when it makes no picture.\n" in shown(one)
    assert screen.exit_status(one) == 0


def test_last_restarts_are_on_the_screen() -> None:
    text = shown(view({"restarts": RESTARTS, "restarts_total": {"killed": 1, "cuda_error": 1}, "xid_total": {"79": 1}}))
    assert text.endswith(
        "  So far     2 restarts, Xid 79 once\n"
        "\n"
        "Last restarts\n"
        "  13:05         cuda error, back after 61 s: jobs fail one after the other\n"
        "                log: CUDA error: an illegal memory access\n"
        "  Nov 22 12:10  stopped, back after 33 s: its process has been stopped (state T…\n"
        "                process state T, 0.00 cores at work, profile gpu_full\n"
    )


def test_it_fits_on_a_screen() -> None:
    facts = {
        "restarts": RESTARTS * 9,
        "problems": ["812 MiB are free on the disk of /srv/sd, less than 1024; remove old pictures"],
        "profile": "cpu",
        "rung": "cpu",
    }
    override = {"profile": "cpu", "expires": NOW + 600_000, "set_by": "watchdog", "reason": "3 faults; at last crashed"}
    assert shown(view(facts, override=override)).count("\n") <= 30


def test_a_smaller_profile_says_why_until_when_and_how_to_go_back() -> None:
    override = {"profile": "cpu", "expires": NOW + 604_800, "set_by": "watchdog", "reason": "xid: it fell off the bus"}
    text = shown(view({"profile": "cpu", "rung": "cpu"}, override=override), 120)
    assert (
        "Profile    cpu instead of gpu_full until Nov 30 13:10, set by the watchdog: xid: it fell off the bus\n" in text
    )
    assert text.endswith(
        "None: a day of health brings it back toward gpu_full. To try it now:\n    sudo sd-profile clear\n"
    )
    # An override that is not in force explains nothing.
    text = shown(view({"profile": "cpu", "profile_reason": "by hand"}, override={"profile": "gpu_lowvram"}))
    assert "Profile    cpu instead of gpu_full: by hand\n" in text


def test_the_card_needs_a_reboot() -> None:
    text = shown(view({"profile": "cpu", "rung": "reboot"}))
    assert "    sudo systemctl reboot\n  Then go back to gpu_full:\n    sudo sd-profile clear\n" in text
    text = shown(view({"profile": "cpu", "rung": "driver_reload"}))
    assert "  None yet: while no picture is being made, the card's driver is loaded anew." in text
    text = shown(view({"gpu": {"said": "nvidia-smi has not answered for 10 s"}}))
    assert "  Card       nvidia-smi has not answered for 10 s\n" in text
    assert "only a restart of the host helps:\n    sudo systemctl reboot\n" in text


def test_waiting_for_the_next_start() -> None:
    facts = {"state": "waiting", "said": "7 faults in a row; the next start is in 64 s", "next_start_in": 64.0, **DOWN}
    one = view({**facts, "restarts": [*RESTARTS, {**RESTARTS[1], "reason": "config", "ready_after": None}]}, outage=724)
    text = shown(one)
    assert text.startswith(
        "The web UI on closet is down; the last answer is 12 min ago.\n"
        "  7 faults in a row; the next start is in 64 s.\n"
    )
    assert "config, not back yet: jobs fail" in text
    assert text.endswith(
        "Next step\n"
        "  Correct its settings in the inventory and run site.yml. The whole log:\n"
        "    sudo journalctl -u sd-webui.service -n 100\n"
        "  It tries again by itself; to have it tried now:\n"
        "    sudo systemctl restart sd-webui.service\n"
    )
    assert screen.exit_status(one) == 1


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ("port 7860 is taken by another program: nginx (process 123, nginx.service)", "another sd_webui_port"),
        ("/srv/sd cannot be written (read-only); look at dmesg", "sudo dmesg"),
        ("the disk of /srv/sd is full (2 MiB free); remove pictures", "Remove pictures"),
    ],
)
def test_something_is_in_the_way_of_a_start(said: str, step: str) -> None:
    # Whatever the last restart was about.
    text = shown(view({"state": "waiting", "said": said, "restarts": RESTARTS, **DOWN}))
    assert step in text.partition("Next step")[2]
    assert "CUDA" not in text.partition("Next step")[2]


@pytest.mark.parametrize("state", ["starting", "unhealthy", "stopping", "something new", None, 5])
def test_it_does_not_answer(state: Any) -> None:
    one = view({"state": state, "said": "3 health requests had no answer", "next_start_in": None})
    assert "  3 health requests had no answer.\n" in shown(one)
    assert screen.exit_status(one) == 1


def test_maintenance() -> None:
    maintenance = {"left": 3600.0, "by": "anna", "reason": "new card"}
    one = view({"state": "maintenance", "said": "the watchdog does nothing"}, maintenance=maintenance)
    text = shown(one)
    assert text.startswith("The web UI on closet answers, and is in maintenance, for 3 h 12 min.\n")
    assert "Watchdog   restarts nothing for 1 h more, until 14:10, asked for by anna: new\n             card\n" in text
    assert text.endswith("    sudo sd-watchdog maintenance off\n")
    assert screen.exit_status(one) == 0
    one = view({"state": "maintenance", **DOWN}, maintenance={"left": None})
    assert "The web UI on closet is in maintenance" in shown(one)
    assert "restarts nothing until it is switched off\n" in shown(one)
    assert screen.exit_status(one) == 1


@pytest.mark.parametrize(
    ("unit_state", "headline", "step", "status"),
    [
        ("inactive", "The web UI on closet has been stopped.", "sudo systemctl start sd-webui.service", 3),
        ("failed", "The web UI on closet has failed, and systemd", "sudo systemctl restart sd-webui.service", 1),
        ("activating", "The web UI on closet is being started.", "Look again in a minute.", 1),
        ("deactivating", "The web UI on closet is being stopped.", "Look again in a minute.", 1),
        ("not-found", "There is no sd-webui.service on this host.", "Run site.yml", 1),
        ("active", "The watchdog of the web UI is not running; it reported 3 min 20 s ago", "systemctl status", 1),
        ("", "The watchdog of the web UI is not running; it reported 3 min 20 s ago", "systemctl status", 1),
    ],
)
def test_a_dead_supervisor_is_no_ready_server(unit_state: str, headline: str, step: str, status: int) -> None:
    one = view({"restarts": RESTARTS}, alive=False, silent=200.0, unit_state=unit_state)
    text = shown(one)
    assert text.startswith(headline)
    assert step in text.partition("Next step")[2]
    # What was measured then is no news of now.
    assert not any(word in text for word in ("Memory", "up for", "answers in", "is ready", "°C"))
    assert "Last restarts" in text
    assert screen.exit_status(one) == status


def test_nothing_was_ever_reported() -> None:
    one = View(facts={}, alive=False, silent=None, unit=UNIT, unit_state="active", now=NOW, problem="there is no /x")
    assert shown(one, 100).startswith(
        "The watchdog has not reported anything since this host started (there is no /x).\n"
    )
    assert screen.exit_status(one) == 1


def test_history_has_all_of_it_and_the_newest_first() -> None:
    text = screen.history(RESTARTS, NOW, 200)
    assert text == (
        "13:05  cuda error, back after 61 s: jobs fail one after the other\n"
        "  - process state S\n"
        "  - log: CUDA error: an illegal memory access\n"
        "  - log: 40%|████      | 8/20\n".replace("      ", " ")
        + "Nov 22 12:10  stopped, back after 33 s: its process has been stopped (state T) for 10 s\n"
        "  - process state T, 0.00 cores at work, profile gpu_full\n"
    )
    assert screen.history([], NOW, 80) == "The watchdog has not restarted the web UI so far.\n"


@pytest.mark.parametrize(
    "odd",
    [
        dict.fromkeys(FACTS, "\x1b[2J\x1b]0;owned\x07\u202e"),
        dict.fromkeys(FACTS, 10**400),
        {key: [] for key in FACTS},
        {key: {"a": {}} for key in FACTS},
        dict.fromkeys(FACTS, True),
        {"restarts": [None, 5, {}, {"wall": 1e300, "reason": [], "evidence": 5, "ready_after": "x"}]},
        {
            "restarts": [{"wall": -1e300, "said": "x" * 99999, "evidence": ["\x1b[31m"] * 99}],
            "problems": [None, {}, "\n"],
        },
    ],
)
def test_whatever_stands_in_the_file_something_sensible_is_shown(odd: dict[str, Any]) -> None:
    for one in (
        view(odd, override=odd, maintenance=odd),
        view({**odd, "state": "waiting"}),
        view(odd, alive=False, unit_state="failed"),
    ):
        text = screen.screen(one, 80)
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert len(text) < 20_000
        assert screen.exit_status(one) in (0, 1, 3)
    restarts = odd["restarts"] if isinstance(odd["restarts"], list) else []
    assert all(letter.isprintable() or letter == "\n" for letter in screen.history(restarts, NOW, 80))


@pytest.mark.parametrize(
    ("wall", "words"),
    [(NOW - 60, "13:09"), (NOW - 86_400, "Nov 22 13:10"), (NOW - 366 * 86_400, "2025-11-22"), (1e300, "?")],
)
def test_moments(wall: float, words: str) -> None:
    assert screen.moment(wall, NOW) == words
