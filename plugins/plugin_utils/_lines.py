# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows the progress of a task: not more lines than a person reads."""

from __future__ import annotations

import sys
import time
from typing import Any

from ansible.utils.display import Display
from ansible_collections.secondhand.diffusion.plugins.plugin_utils import _progress_line

# Ansible's workers have no terminal. This is read in its main process, where the strategies load the class of an action
# before they fork a worker.
ON_TERMINAL = bool(sys.stdout) and sys.stdout.isatty()

# Seconds between two lines of a file: at the beginning, and at the most, for one that takes long.
PACE = 2.0 if ON_TERMINAL else 5.0
SLOWEST_PACE = 10.0 if ON_TERMINAL else 60.0
# What is done sooner shows no line at all.
GRACE = 2.0
# How long one look at a job may take when nobody is shown anything.
QUIET_LOOK = 20.0
HIDDEN = "********"

display = Display()


class Lines:
    """The lines of one task on one host."""

    def __init__(self, mode: str, host: str, secrets: list[str], anonymous: bool = False) -> None:
        self.shown = mode == "always" or (mode == "auto" and ON_TERMINAL)
        self._host = host
        self._secrets = secrets
        # A task with no_log tells that something moves, and not what.
        self._anonymous = anonymous
        self._began = time.monotonic()
        self._next = self._began + GRACE
        self._last: dict[str, Any] | None = None

    @property
    def pause(self) -> float:
        """Seconds until the next line."""
        return max(0.2, self._next - time.monotonic()) if self.shown else QUIET_LOOK

    def show(self, progress: dict[str, Any] | None) -> None:
        """A line about it, if it is time for one: the longer a file takes, the fewer lines a minute."""
        if progress is None or not self.shown:
            return
        if self._anonymous:
            progress = {**progress, "name": "a file", "note": ""}
        now, last = time.monotonic(), self._last
        if last is None:
            # Why nothing comes is told at once.
            news = progress.get("state") == "waiting"
        else:
            news = any(last.get(key) != progress.get(key) for key in ("name", "state"))
        if now < self._next and not news:
            return
        if not progress.get("done") and progress.get("state") == "downloading" and now < self._began + PACE + GRACE:
            # The first bytes come soon, and say more.
            return
        if progress != last:
            self.tell(_progress_line.line(progress))
        self._last = progress
        self._next = now + min(SLOWEST_PACE, max(PACE, (now - self._began) / 20))

    def finish(self, result: dict[str, Any]) -> None:
        """The last line, if there were others before."""
        if self._last is not None:
            count, seconds = result.get("downloaded_bytes"), result.get("seconds")
            self.tell(_progress_line.finished(self._last, float(count or 0), float(seconds or 0)))

    def tell(self, sentence: str) -> None:
        """A line of progress."""
        if self.shown:
            display.display(self._line(sentence), color="bright gray")

    def announce(self, sentence: str) -> None:
        """What explains a delay, and so is told to everybody."""
        if self.shown:
            self.tell(sentence)
        else:
            display.warning(f"{self._line(sentence)}.")

    def _line(self, sentence: str) -> str:
        for secret in self._secrets:
            sentence = sentence.replace(secret, HIDDEN)
        return f"{self._host}: {sentence}"
