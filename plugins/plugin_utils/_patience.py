# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks a host again when the connection is lost, for as long as a restart or a bad line may take."""

from __future__ import annotations

import time
from typing import Any, Callable, TypeVar

from ansible.errors import AnsibleConnectionFailure
from ansible.utils.display import Display

# Seconds: how long in all, and between two attempts at most.
LONGEST = 600.0
LONGEST_PAUSE = 30.0
# Attempts when something else than the connection fails, which may be how a connection ends as well.
ATTEMPTS = 5

T = TypeVar("T")
display = Display()


def first_line(exc: Exception) -> str:
    """What an exception says, without the advice that Ansible adds to some."""
    return str(exc).strip().partition("\n")[0][:200]


class GivenUp(Exception):
    """Asking again cannot help; the message is one sentence with the next step."""


class Patience:
    """Calls what needs the host, until it works."""

    def __init__(self, connection: Any, tell: Callable[[str], None], lost: str, advice: str) -> None:
        self._connection = connection
        self._tell = tell
        # What is said when the connection is lost, and what to do when it does not come back.
        self._lost = lost
        self._advice = advice
        # How often a connection was lost and found again.
        self.losses = 0

    def ask(self, question: Callable[[], T]) -> T:
        pause, since, attempts, told = 1.0, 0.0, 0, False
        while True:
            try:
                answer = question()
            except GivenUp:
                raise
            except Exception as exc:
                # Connections raise whatever they like.
                since = since or time.monotonic()
                lost = isinstance(exc, AnsibleConnectionFailure)
                attempts += not lost
                if attempts >= ATTEMPTS:
                    raise
                display.vvv(f"Trying again: {exc}")
                if time.monotonic() - since > LONGEST:
                    raise AnsibleConnectionFailure(
                        f"The host has not answered for {LONGEST / 60:.0f} minutes ({exc}): {self._advice}."
                    ) from exc
                if lost and not told:
                    self._tell(f"{self._lost}, trying again")
                    told = True
                self._reset()
                time.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
            else:
                self.losses += since > 0
                return answer

    def _reset(self) -> None:
        # Not every connection has something to reset, and one that is broken may fail at it.
        try:
            self._connection.reset()
        except Exception as exc:
            display.vvv(f"The connection could not be reset: {exc}")
