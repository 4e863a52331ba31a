# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out a request: each action with its own limits, whoever has asked."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from sd_watchdog import book as books
from sd_watchdog import bounded, driver, paths, port_owner, reboot, requests, untrusted
from sd_watchdog.config import Config, Engine
from sd_watchdog.proc import Proc

# A command of role sd_webui, and the one that restarts the host. The supervisor waits for 30 s.
_SECONDS = 20.0
_BY = "watchdog"


@dataclass(frozen=True)
class Answer:
    """Was it done, and what happened, in a sentence."""

    ok: bool
    said: str
    data: dict[str, Any] = field(default_factory=dict)


class Actions:
    """What may be done on this host."""

    def __init__(self, config: Config, engine: Engine, proc: Proc, book: dict[str, Any]) -> None:
        self._config = config
        self._engine = engine
        self._proc = proc
        self._book = book

    def carry_out(self, request: requests.Request) -> Answer:
        """Do it."""
        if request.action == requests.PROFILE:
            return self._set_profile(request)
        if request.action == requests.CLEAR_PROFILE:
            return self._clear_profile()
        if request.action == requests.ROLL_BACK:
            return self._command(self._engine.roll_back_command, [], "")
        if request.action == requests.NAME_PORT_OWNER:
            owner = port_owner.find(paths.BASE, request.port)
            said = f"port {request.port} is taken by {owner}" if owner else f"nobody listens on port {request.port}"
            return Answer(True, said, {"owner": owner})
        if self._is_maintained():
            return Answer(
                False, "maintenance is on, so nothing is done to the host; see sd-watchdog maintenance status"
            )
        if request.action == requests.RELOAD_DRIVER:
            return self._reload_driver()
        return self._reboot(request.reason)

    def _command(self, command: tuple[str, ...], arguments: list[str], said: str) -> Answer:
        """Run a command of role sd_webui; `said`: what follows when it has worked, else its own last line."""
        if not command:
            return Answer(False, "role sd_webui has not told its commands; run site.yml for this host again")
        done = bounded.run([*command, *arguments], _SECONDS)
        if done.status is None:
            return Answer(False, f"{command[0]} has not ended in {_SECONDS:.0f} s")
        last = done.last_line()
        if not done.ok:
            return Answer(False, last or f"{command[0]} ended with status {done.status}")
        return Answer(True, said or last or "done")

    def _set_profile(self, request: requests.Request) -> Answer:
        """Lay an override over the desired profile; the supervisor starts the engine with it."""
        minutes = max(1, int(self._config.override_seconds // 60))
        arguments = [request.profile, "--no-restart", f"--by={_BY}", f"--for={minutes}m", f"--reason={request.reason}"]
        return self._command(self._engine.profile_command, arguments, f"profile {request.profile} is set")

    def _clear_profile(self) -> Answer:
        """Take the watchdog's override away; a person's stays."""
        try:
            override = untrusted.read_object(paths.BASE / self._engine.state_dir.lstrip("/") / "profile-override.json")
        except FileNotFoundError:
            return Answer(True, "no profile is laid over the desired one")
        except untrusted.Refused:
            # Damaged, so it counts as none; the command takes it away.
            override = {"set_by": _BY}
        if override.get("set_by") != _BY:
            by = untrusted.clean(override.get("set_by"), 40) or "somebody else"
            return Answer(False, f"the profile was set by {by}, not by the watchdog; sd-profile clear ends that")
        return self._command(
            self._engine.profile_command,
            ["clear", "--no-restart", f"--by={_BY}"],
            "the watchdog's profile is taken away",
        )

    def _is_maintained(self) -> bool:
        """Does a person work on this host?"""
        try:
            found = untrusted.read_object(paths.MAINTENANCE)
        except (FileNotFoundError, untrusted.Refused):
            return False
        until = found.get("until_boottime")
        over = isinstance(until, (int, float)) and until <= self._proc.boottime()
        return found.get("boot_id") == self._proc.boot_id() and not over

    def _reload_driver(self) -> Answer:
        """Not again and again: each one takes the card from whoever comes next."""
        if not self._config.driver_reload:
            return Answer(False, "the watchdog may not reload the driver; set watchdog_driver_reload: true if it shall")
        now, boot_id = self._proc.boottime(), self._proc.boot_id()
        last = self._book["reload"]
        if last.get("boot_id") == boot_id and now - float(last.get("boottime", 0.0)) < driver.INTERVAL:
            return Answer(False, f"the driver was reloaded less than {driver.INTERVAL / 60:.0f} minutes ago")
        used_by = driver.in_the_way(paths.BASE)
        if used_by:
            return Answer(False, f"the driver cannot be reloaded while the card is used by {used_by}")
        self._book["reload"] = {"boot_id": boot_id, "boottime": now}
        try:
            books.save(self._book)
        except OSError as error:
            return Answer(
                False, f"{paths.ROOT_FILE} cannot be written ({error.strerror}), so nothing is done to the host"
            )
        ok, said = driver.reload(paths.BASE, self._config.nvidia_smi)
        # Unlike the refusals above, this says something about the card.
        return Answer(ok, said, {"tried": True})

    def _reboot(self, reason: str) -> Answer:
        """First written down, then done: a host that forgot about it would restart for ever."""
        now, boot_id = self._proc.boottime(), self._proc.boot_id()
        refused = reboot.refusal(self._config, self._book["reboots"], now, boot_id)
        if not refused and books.is_damaged():
            refused = (
                f"{paths.ROOT_FILE} was damaged, so nobody knows how often this host was restarted; "
                f"remove {paths.ROOT_FILE}.damaged once you have looked at it"
            )
        if refused:
            return Answer(False, refused)
        self._book["reboots"] = reboot.remember(self._book["reboots"], now, boot_id, time.time(), reason)
        self._book["reboots_total"] += 1
        try:
            books.save(self._book)
        except OSError as error:
            return Answer(
                False, f"{paths.ROOT_FILE} cannot be written ({error.strerror}), so the host is not restarted"
            )
        done = self._command(self._config.reboot_command, [], "the host restarts now")
        if not done.ok:
            return Answer(False, f"the host was not restarted: {done.said}")
        return Answer(True, done.said, {"reboots_total": self._book["reboots_total"]})
