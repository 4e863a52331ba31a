# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which alerts people get: not the same one again and again, not too many, and no "recovered" out of the blue.

Pure: times are seconds since boot, and they come in. Those of a former boot are negative.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from sd_watchdog.report import duration, number
from sd_watchdog.untrusted import clean, clean_lines

EVENTS = ("outage", "recovered", "warning", "rung", "reboot", "test")
# An outage and its end may come late, but they come; the others lose their worth.
LASTING = ("outage", "recovered")
HOUR = 3600.0


@dataclass(frozen=True)
class Event:
    """What happened, as the supervisor or the root part says it; already safe to show."""

    event: str
    key: str
    title: str
    text: str
    host: str
    wall: float | None = None
    seconds: float | None = None

    @property
    def mark(self) -> str:
        """Events with the same mark are the same news."""
        return f"{self.event}|{self.key}"


def parse(data: dict[str, Any]) -> Event:
    """An event from its file; raises ValueError with what is wrong."""
    if data.get("schema") != 1:
        raise ValueError("its schema is not 1")
    kind = clean(data.get("event"), 20)
    if kind not in EVENTS:
        raise ValueError(f"there is no event {kind!r}")
    title, text = clean(data.get("title"), 200), clean_lines(data.get("text"))
    if not title and not text:
        raise ValueError("it says nothing")
    seconds = number(data.get("seconds"))
    return Event(
        event=kind,
        key=clean(data.get("key"), 100),
        title=title or text.splitlines()[0][:200],
        text=text or title,
        host=clean(data.get("host"), 100),
        wall=number(data.get("wall")),
        seconds=None if seconds is None or seconds < 0 else seconds,
    )


@dataclass(frozen=True)
class Limits:
    """How often the same news, and how many in an hour."""

    repeat_seconds: float = HOUR
    most_per_hour: int = 12


@dataclass
class State:
    """What people were told, and when."""

    told: dict[str, float] = field(default_factory=dict)
    recent: list[float] = field(default_factory=list)
    # When they were told that there is more.
    notice: float | None = None
    # Outages that they know of and whose end they do not know yet.
    open: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Decision:
    """send it, let it wait in the outbox, or drop it; `notice`: people have to be told that alerts are held back."""

    action: str
    said: str = ""
    notice: bool = False


SEND = Decision("send")


def decide(event: Event, state: State, now: float, limits: Limits) -> Decision:
    """What to do with an event that nobody has been told yet."""
    if event.event == "recovered" and not state.open:
        return Decision("drop", "nobody was told of the outage")
    told = state.told.get(event.mark)
    if told is not None and now - told < limits.repeat_seconds and event.event not in ("recovered", "test"):
        ago = f"the same alert was sent {duration(now - told)} ago"
        if event.event == "outage" and event.mark not in state.open:
            # People believe that it is over: an outage that lasts may not be kept from them.
            return Decision("wait", f"{ago}; it is sent if the outage lasts")
        return Decision("drop", ago)
    if len(_within_hour(state, now)) >= limits.most_per_hour:
        notice = state.notice is None or now - state.notice >= HOUR
        said = f"{limits.most_per_hour} alerts were sent within an hour"
        return Decision("wait" if event.event in LASTING else "drop", said, notice)
    return SEND


def note_sent(event: Event, state: State, now: float) -> None:
    """People are told."""
    state.recent = [*_within_hour(state, now), now]
    state.told[event.mark] = now
    # No more than this can be of use: so many are not sent within a repeat time.
    state.told = dict(sorted(state.told.items(), key=lambda pair: pair[1])[-500:])
    if event.event == "outage" and event.mark not in state.open:
        state.open.append(event.mark)
    elif event.event == "recovered":
        state.open.clear()


def note_given_up(event: Event, state: State) -> None:
    """It could not be delivered to anybody after all."""
    if event.mark in state.open:
        state.open.remove(event.mark)
    state.told.pop(event.mark, None)


def held_back(host: str, limits: Limits) -> Event:
    """The one alert about those that are not sent."""
    return Event(
        event="warning",
        key="held_back",
        title="more alerts were held back",
        text=f"{limits.most_per_hour} alerts were sent within an hour, so the next ones are not. "
        "See what is going on with: sd-watchdog status",
        host=host,
    )


# The state in its file. Seconds since boot end with the boot, so the file says which boot they belong to.


def dump(state: State, boot_id: str, now: float, wall: float) -> dict[str, Any]:
    """The state for its file."""
    return {"boot_id": boot_id, "boottime": now, "wall": wall, **dataclasses.asdict(state)}


def shift(data: dict[str, Any], boot_id: str, now: float, wall: float) -> float:
    """What to add to the times in a file so that they are times of this boot."""
    saved = number(data.get("boottime"))
    if saved is None or data.get("boot_id") == boot_id:
        return 0.0
    # At least as long ago as this boot is; an old machine's clock may say anything until it is set.
    passed = max(now, wall - (number(data.get("wall")) or wall))
    return now - passed - saved


def load(data: dict[str, Any], boot_id: str, now: float, wall: float) -> State:
    """The state from its file, as far as it makes sense."""
    add = shift(data, boot_id, now, wall)
    told, recent, opened = data.get("told"), data.get("recent"), data.get("open")
    state = State()
    if isinstance(told, dict):
        times = {str(mark): number(time) for mark, time in told.items()}
        state.told = {mark: min(now, time + add) for mark, time in times.items() if time is not None}
    if isinstance(recent, list):
        state.recent = [min(now, time + add) for time in map(number, recent) if time is not None]
    if isinstance(opened, list):
        state.open = [str(mark) for mark in opened]
    notice = number(data.get("notice"))
    state.notice = None if notice is None else min(now, notice + add)
    return state


def _within_hour(state: State, now: float) -> list[float]:
    return [time for time in state.recent if now - time < HOUR]
