# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which alerts people get, with a clock that is a number."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sd_watchdog import alert_policy
from sd_watchdog.alert_policy import Event, Limits, State

LIMITS = Limits(repeat_seconds=3600, most_per_hour=3)


def event(kind: str = "outage", key: str = "killed") -> Event:
    return Event(event=kind, key=key, title="The web UI has failed", text="it was ended by signal 9", host="closet")


class People:
    """Who is told, and when."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.state = State()
        self.limits = limits

    def get(self, now: float, kind: str, key: str = "killed") -> str:
        """send, wait or drop; a second word when they are told that there is more."""
        one = event(kind, key)
        decision = alert_policy.decide(one, self.state, now, self.limits)
        if decision.action == "send":
            alert_policy.note_sent(one, self.state, now)
            assert decision.said == ""
        else:
            assert decision.said
        if decision.notice:
            self.state.notice = now
            return f"{decision.action}, notice"
        return decision.action


def test_the_same_news_is_not_told_again_and_again() -> None:
    people = People()
    assert people.get(100, "outage") == "send"
    assert people.get(200, "outage") == "drop"
    assert people.get(3699, "outage") == "drop"
    assert people.get(3700, "outage") == "send"
    # Another reason is other news.
    assert people.get(3701, "outage", "oom") == "send"


def test_recovered_only_after_an_outage_that_was_told() -> None:
    people = People()
    assert people.get(100, "recovered") == "drop"
    assert people.get(200, "outage") == "send"
    assert people.get(260, "recovered") == "send"
    assert people.get(261, "recovered") == "drop"


def test_one_recovered_ends_all_outages() -> None:
    people = People()
    assert people.get(100, "outage", "killed") == "send"
    assert people.get(110, "outage", "oom") == "send"
    assert people.get(200, "recovered", "oom") == "send"
    assert people.get(210, "recovered", "killed") == "drop"


def test_an_outage_that_lasts_is_told_although_it_is_old_news() -> None:
    people = People()
    assert people.get(100, "outage") == "send"
    assert people.get(150, "recovered") == "send"
    # People believe that all is well: the second one waits for its end or for its time, and is never lost.
    assert people.get(200, "outage") == "wait"
    assert people.get(3000, "outage") == "wait"
    assert people.get(3700, "outage") == "send"
    assert people.get(3750, "recovered") == "send"


def test_not_too_many_in_an_hour() -> None:
    people = People()
    assert [people.get(number, "warning", f"w{number}") for number in range(3)] == ["send"] * 3
    assert people.get(10, "warning", "another") == "drop, notice"
    assert people.get(11, "warning", "one more") == "drop"
    # An outage is told when it may be.
    assert people.get(12, "outage") == "wait"
    assert people.get(3599.5, "outage") == "wait"
    assert people.get(3600, "outage") == "send"
    assert people.get(3601, "recovered") == "send"


def test_its_end_waits_too() -> None:
    people = People()
    assert people.get(0, "outage") == "send"
    assert [people.get(number, "rung", f"r{number}") for number in (1, 2)] == ["send"] * 2
    assert people.get(10, "recovered") == "wait, notice"
    assert people.get(3600, "recovered") == "send"


def test_the_notice_comes_once_an_hour() -> None:
    people = People(Limits(repeat_seconds=60, most_per_hour=1))
    assert people.get(0, "warning", "a") == "send"
    assert people.get(1, "warning", "b") == "drop, notice"
    assert people.get(3000, "warning", "c") == "drop"
    assert people.get(3600, "warning", "d") == "send"
    assert people.get(3601, "warning", "e") == "drop, notice"


def test_none_at_all() -> None:
    assert People(Limits(most_per_hour=0)).get(0, "warning") == "drop, notice"


def test_tests_are_no_news_but_count() -> None:
    people = People()
    assert [people.get(number, "test", "test") for number in range(4)] == ["send"] * 3 + ["drop, notice"]


def test_what_could_not_be_delivered_was_not_told() -> None:
    people = People()
    assert people.get(0, "outage") == "send"
    alert_policy.note_given_up(event("outage"), people.state)
    assert people.get(100, "recovered") == "drop"
    assert people.get(200, "outage") == "send"


def saved(state: State, boot: str, now: float, wall: float) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(alert_policy.dump(state, boot, now, wall)))
    return data


def test_what_was_told_is_remembered() -> None:
    people = People()
    people.get(1000, "outage")
    people.state = alert_policy.load(saved(people.state, "boot", 1010, 5e9), "boot", 1500, 1e9)
    # Whatever the wall clock says meanwhile.
    assert people.get(1500, "outage") == "drop"
    assert people.get(4600, "outage") == "send"


def test_a_reboot_ends_the_seconds_but_not_the_memory() -> None:
    people = People()
    people.get(90_000, "outage")
    data = saved(people.state, "old", 90_060, 1_000_000)
    # 100 s after the boot, which took 40 s: 60 + 140 s have passed.
    people.state = alert_policy.load(data, "new", 100, 1_000_140)
    assert people.state.told == {"outage|killed": pytest.approx(-100)}
    assert people.get(3499, "outage") == "drop"
    assert people.get(3500, "outage") == "send"


@pytest.mark.parametrize("wall", [0, 999_000, 1_000_001])
def test_a_clock_that_is_not_set_yet_makes_nothing_young(wall: float) -> None:
    people = People()
    people.get(90_000, "outage")
    state = alert_policy.load(saved(people.state, "old", 90_060, 1_000_000), "new", 100, wall)
    # At least as old as this boot.
    assert state.told == {"outage|killed": pytest.approx(-60)}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"told": [], "recent": {}, "open": "x", "notice": "y"},
        {"told": {"a": "b"}, "recent": ["c", None], "boottime": "d", "boot_id": 5, "wall": {}},
    ],
)
def test_a_damaged_memory_is_none(data: dict[str, Any]) -> None:
    assert alert_policy.load(data, "boot", 100, 1e9) == State()


def test_times_of_the_future_are_now() -> None:
    state = alert_policy.load({"told": {"a|b": 1e12}, "recent": [1e12], "notice": 1e12}, "", 100, 1e9)
    assert (state.told, state.recent, state.notice) == ({"a|b": 100}, [100], 100)


def test_parse_an_event() -> None:
    data = {
        "schema": 1,
        "event": "recovered",
        "key": "killed",
        "title": "The web UI is back",
        "text": "it answers again\nafter a while",
        "wall": 1795438656.8,
        "seconds": 42.5,
        "host": "closet",
    }
    assert alert_policy.parse(data) == Event(
        "recovered", "killed", "The web UI is back", "it answers again\nafter a while", "closet", 1795438656.8, 42.5
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "its schema is not 1"),
        ({"event": "party"}, "there is no event 'party'"),
        ({"event": ["outage"]}, "there is no event ''"),
        ({"title": "", "text": "\n"}, "it says nothing"),
        ({"title": None, "text": 5}, "it says nothing"),
    ],
)
def test_what_is_no_event(change: dict[str, Any], words: str) -> None:
    data = {"schema": 1, "event": "outage", "title": "a", "text": "b", **change}
    with pytest.raises(ValueError, match=words):
        alert_policy.parse(data)


def test_nothing_in_an_event_steers_a_terminal_or_adds_a_header() -> None:
    one = alert_policy.parse(
        {
            "schema": 1,
            "event": "outage",
            "key": "k" * 9999,
            "title": "a\r\nBcc: everybody@example.org\x1b[2J\u202e",
            "text": "first\x07\nsecond\x1b]0;owned\x07" + "t" * 9999,
            "wall": "yesterday",
            "seconds": -3,
            "host": "\x00",
        }
    )
    assert one.title == "a Bcc: everybody@example.org [2J"
    assert one.text.startswith("first\nsecond ]0;owned")
    assert all(letter.isprintable() or letter == "\n" for letter in one.title + one.text + one.host + one.key)
    assert (len(one.key), len(one.text) <= 2000, one.wall, one.seconds, one.host) == (100, True, None, None, "")
