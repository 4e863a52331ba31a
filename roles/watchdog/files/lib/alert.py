# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send the alerts in the outbox, and end when it is empty. Started by sd-watchdog-alert.path.

The outbox belongs to the web UI's user, and this runs as root: its files are reached through the opened folder, so
that nobody can put another folder in its place, and what is no event is removed unread.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sd_watchdog import alert_policy, alert_send, config, paths, proc, report, store, untrusted
from sd_watchdog.alert_policy import Event, Limits

# How often the outbox is looked at while something waits in it.
LOOK_SECONDS = 5.0
# After a failure a channel is left alone for so long, then twice as long, and so on.
RETRY_SECONDS, RETRY_MOST = 30.0, 600.0
# Nobody wants to hear of it any more.
GIVE_UP_SECONDS = 86400.0
# A file under way is renamed at once; this one was left behind.
PART_SECONDS = 60.0
# More than the supervisor leaves there; the rest was put there by somebody else.
MOST = 500
NAME = re.compile(r"[0-9A-Za-z_-]{1,64}\.json")


def say(sentence: str, warning: bool = False) -> None:
    """In the journal, with a level."""
    level = ("<4>" if warning else "<5>") if os.environ.get("JOURNAL_STREAM") else ""
    print(f"{level}{untrusted.clean(sentence, 500)}", flush=True)


@dataclass
class Waiting:
    """An event on its way. Times are seconds since boot."""

    event: Event
    seen: float
    # People are to be told; these channels have told them.
    accepted: bool = False
    done: list[str] = field(default_factory=list)
    # Nothing is left to do but to remove the file.
    over: bool = False
    # Why it waits.
    said: str = ""


@dataclass
class Pause:
    """A channel that has failed."""

    seconds: float = 0.0
    until: float = 0.0


class Alerts:
    """The outbox and what is remembered about it."""

    def __init__(self, folder: int, boot_id: str, retry: float = RETRY_SECONDS) -> None:
        self.folder = folder
        self.boot_id = boot_id
        self.retry = retry
        self.waiting: dict[str, Waiting] = {}
        self.pauses: dict[str, Pause] = {}
        self.foreign: dict[str, float] = {}
        self.told_of: set[str] = set()
        now = boottime()
        saved = store.read(paths.SENT) or {}
        self.state = alert_policy.load(saved, boot_id, now, time.time())
        # Of those that were in the outbox when this ended the last time.
        known = saved.get("waiting")
        self.known: dict[str, Any] = known if isinstance(known, dict) else {}
        self.shift = alert_policy.shift(saved, boot_id, now, time.time())
        self.saved: dict[str, Any] = {}

    def save(self) -> None:
        """Remember across a restart what was told to whom."""
        waiting = {
            name: {"seen": one.seen, "accepted": one.accepted, "done": list(one.done), "over": one.over}
            for name, one in list(self.waiting.items())[-100:]
            if has_file(name)
        }
        content = {"schema": 1, "state": dataclasses.asdict(self.state), "waiting": waiting}
        if content == self.saved:
            return
        self.saved = content
        data = {**alert_policy.dump(self.state, self.boot_id, boottime(), time.time()), "schema": 1, "waiting": waiting}
        try:
            store.write(paths.SENT, data)
        except OSError as error:
            self.once(f"{paths.SENT} cannot be written ({error.strerror}); an alert may come twice.")

    def once(self, sentence: str) -> None:
        """What stays as it is need not be said each time."""
        if sentence not in self.told_of:
            self.told_of.add(sentence)
            say(sentence, warning=True)

    # The folder

    def look(self) -> None:
        """Take in what is new, forget what is gone, remove what does not belong there."""
        names = set()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if len(names) >= 4 * MOST:
                    break
        self.waiting = {name: one for name, one in self.waiting.items() if name in names or not has_file(name)}
        self.foreign = {name: since for name, since in self.foreign.items() if name in names}
        for name in sorted(names):
            if name in self.waiting:
                continue
            if not NAME.fullmatch(name):
                self.look_at_foreign(name)
            elif len(self.waiting) >= MOST:
                self.once(f"more than {MOST} alerts wait in {paths.OUTBOX}; the newest are removed.")
                self.remove(name)
            else:
                self.take(name)

    def look_at_foreign(self, name: str) -> None:
        """Perhaps it is an event that is being written."""
        now = boottime()
        since = self.foreign.setdefault(name, now)
        if not name.endswith(".part") or now - since > PART_SECONDS:
            self.once(f"{paths.OUTBOX} held something that is no alert ({untrusted.clean(name, 80)}); it is removed.")
            if self.remove(name):
                del self.foreign[name]

    def take(self, name: str) -> None:
        """Read an event."""
        try:
            event = alert_policy.parse(untrusted.read_object(name, dir_fd=self.folder))
        except FileNotFoundError:
            return
        except (untrusted.Refused, ValueError) as error:
            self.once(f"{paths.OUTBOX}/{name} is no alert ({error}); it is removed.")
            if not self.remove(name):
                # Ended, this would be started again at once because of it.
                self.foreign[name] = boottime()
            return
        now = boottime()
        known = self.known.get(name)
        known = known if isinstance(known, dict) else {}
        seen = report.number(known.get("seen"))
        done = known.get("done")
        self.waiting[name] = Waiting(
            event,
            now if seen is None else min(now, seen + self.shift),
            known.get("accepted") is True,
            [str(channel) for channel in done] if isinstance(done, list) else [],
            known.get("over") is True,
        )

    def remove(self, name: str) -> bool:
        """Is it out of the outbox?"""
        try:
            # The name is that of an entry of the folder, never a way out of it.
            if stat.S_ISDIR(os.stat(name, dir_fd=self.folder, follow_symlinks=False).st_mode):
                os.rmdir(name, dir_fd=self.folder)
            else:
                os.unlink(name, dir_fd=self.folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.once(
                f"{paths.OUTBOX}/{untrusted.clean(name, 80)} cannot be removed ({error.strerror}); remove it by hand."
            )
            return False
        return True

    # The events

    def judge(self, limits: Limits) -> None:
        """Which of the new ones people are to be told."""
        for name, one in list(self.waiting.items()):
            now = boottime()
            if one.over:
                continue
            if now - one.seen > GIVE_UP_SECONDS:
                say(f"given up after {report.duration(GIVE_UP_SECONDS)}: {alert_send.title(one.event)}", warning=True)
                if not one.done:
                    alert_policy.note_given_up(one.event, self.state)
                one.over = True
                continue
            if one.accepted:
                continue
            decision = alert_policy.decide(one.event, self.state, now, limits)
            if decision.notice:
                # It has no file: after a restart it is said again if it is still so.
                self.waiting[f"/held back {now}"] = Waiting(
                    alert_policy.held_back(one.event.host, limits), now, accepted=True
                )
                self.state.notice = now
            if decision.action == "send":
                one.accepted = True
                if one.event.event == "recovered":
                    self.forget_outages(name)
                alert_policy.note_sent(one.event, self.state, now)
            elif decision.action == "drop":
                say(f"not sent ({decision.said}): {alert_send.title(one.event)}")
                one.over = True
                if one.event.event == "recovered":
                    self.forget_outages(name)
            elif not one.said:
                one.said = decision.said
                say(f"waits ({decision.said}): {alert_send.title(one.event)}")

    def forget_outages(self, before: str) -> None:
        """Those that nobody was told of and that are over."""
        for name, one in self.waiting.items():
            if name == before:
                return
            if one.event.event == "outage" and not one.accepted and not one.over:
                say(f"not sent (it is over): {alert_send.title(one.event)}")
                one.over = True

    def deliver(self, channels: list[alert_send.Channel]) -> None:
        """Tell people, by each channel in the order of events."""
        for channel in channels:
            pause = self.pauses.setdefault(channel.name, Pause())
            for one in list(self.waiting.values()):
                if one.over or not one.accepted or channel.name in one.done:
                    continue
                if boottime() < pause.until:
                    break
                self.tell(channel, pause, one)
        names = {channel.name for channel in channels}
        for one in self.waiting.values():
            if one.accepted and names <= set(one.done):
                one.over = True

    def tell(self, channel: alert_send.Channel, pause: Pause, one: Waiting) -> None:
        """One event by one channel."""
        try:
            remark = channel.send(one.event)
        except alert_send.SendError as error:
            pause.seconds = min(RETRY_MOST, pause.seconds * 2 if pause.seconds else self.retry)
            pause.until = boottime() + pause.seconds
            say(f"{error} Tried again in {report.duration(pause.seconds)}.", warning=True)
            return
        pause.seconds = pause.until = 0.0
        one.done.append(channel.name)
        say(f"sent by {channel.name}: {alert_send.title(one.event)}")
        if remark:
            say(remark, warning=True)
        # Sent is sent, even if this process ends now.
        self.save()

    def sweep(self) -> None:
        """Remove what is over."""
        for name, one in list(self.waiting.items()):
            if one.over and (not has_file(name) or self.remove(name)):
                del self.waiting[name]


def has_file(name: str) -> bool:
    """All but the one about alerts that are held back, which comes from here."""
    return not name.startswith("/")


def boottime() -> float:
    """Seconds since the host started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def limits_of(settings: dict[str, Any]) -> Limits:
    """What the role has set."""
    repeat, most = report.number(settings.get("repeat_seconds")), report.number(settings.get("most_per_hour"))
    return Limits(
        Limits.repeat_seconds if repeat is None else repeat, Limits.most_per_hour if most is None else int(most)
    )


def run(alerts: Alerts, look: float) -> None:
    """Until the outbox is empty."""
    settings: dict[str, Any] | None = None
    while True:
        alerts.look()
        before = settings
        try:
            settings = config.load_object(paths.ALERTS_CONFIG)
        except config.ConfigError as error:
            alerts.once(str(error))
        if settings is not None:
            if settings != before:
                # Perhaps they were corrected because of a failure.
                alerts.pauses.clear()
            channels = alert_send.channels(settings)
            if not channels:
                alerts.once(
                    "no way to send alerts is set; set watchdog_ntfy_url, watchdog_webhook_url or watchdog_mail_to."
                )
            alerts.judge(limits_of(settings))
            alerts.save()
            alerts.deliver(channels)
            alerts.sweep()
            alerts.save()
        if not alerts.waiting and not alerts.foreign:
            return
        time.sleep(look)


def open_outbox(path: Path) -> int:
    """The folder itself; a link in its place is not followed."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def main() -> int:
    """Run until the outbox is empty."""
    parser = argparse.ArgumentParser(description="Send the alerts of the watchdog.")
    parser.add_argument("--look", type=float, default=LOOK_SECONDS, help="seconds between two looks at the outbox")
    parser.add_argument("--retry", type=float, default=RETRY_SECONDS, help="seconds after the first failure")
    arguments = parser.parse_args()
    try:
        folder = open_outbox(paths.OUTBOX)
    except FileNotFoundError:
        return 0
    except OSError as error:
        say(
            f"{paths.OUTBOX} is no folder that can be read ({error.strerror}); run site.yml for this host again.",
            warning=True,
        )
        return 1
    run(Alerts(folder, proc.Proc().boot_id(), arguments.retry), arguments.look)
    return 0


if __name__ == "__main__":
    sys.exit(main())
