# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine as the supervisor's child: its start, its log, its end."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from sd_watchdog.log_lines import LogWatch

# The engine dies of a lack of memory long before the one that can start it again.
OOM_SCORE = 800
OURS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
# What only a defect of the program itself sends.
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


class EngineProcess:
    """One life of the engine. Its output goes on to the journal; what matters in it is kept."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it; raises OSError."""
        self._watch = LogWatch()
        self._events: collections.deque[tuple[str, str]] = collections.deque(maxlen=200)
        self.lines = 0
        self._open_line = False
        self._closed = False
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A session of its own: a signal for its group reaches all that it has started, and nothing else.
            # What systemd gives its main process is not for the engine.
            env={name: value for name, value in os.environ.items() if name not in OURS},
            start_new_session=True,
            preexec_fn=_prepare,
        )
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    @property
    def relays(self) -> bool:
        """Is the log still passed on, as far as there is one?"""
        return self._relay.is_alive() or self._closed

    def _pass_on(self) -> None:
        """From the pipe to our own output, and to the eyes of log_lines."""
        stream = self.process.stdout
        if stream is None:
            return
        descriptor = stream.fileno()
        while True:
            data = os.read(descriptor, 65536)
            if not data:
                # It may also write to a file of its own from now on, and live.
                self._closed = True
                # Last words need no end of a line.
                self._take(b"\n")
                return
            # A journal that is being restarted loses a line, not the engine.
            with contextlib.suppress(OSError):
                _write_all(1, data)
            self._open_line = not data.endswith(b"\n")
            self.lines += data.count(b"\n") + data.count(b"\r")
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Note what matters in it."""
        for event in self._watch.feed(data):
            self._events.append((event.kind, event.line))

    def end_line(self) -> None:
        """A progress bar has no end of line: what others say next would stand behind it."""
        if self._open_line:
            self._open_line = False
            with contextlib.suppress(OSError):
                _write_all(1, b"\n")

    def events(self) -> list[tuple[str, str]]:
        """Kinds and lines since the last call."""
        found = []
        while self._events:
            found.append(self._events.popleft())
        return found

    def tail(self, count: int) -> list[str]:
        """The last lines that it said."""
        return self._watch.tail(count)

    def ended(self) -> int | None:
        """Its exit status (below 0: the signal), None while it lives."""
        return self.process.poll()

    def drain_log(self, seconds: float) -> None:
        """After its end: until its last line has been passed on, or a child of it keeps the pipe open."""
        self._relay.join(seconds)

    def end(self, grace: float, tick: Callable[[], None]) -> bool:
        """Ask it to end, then make it, and call `tick` meanwhile; False when it hangs in the kernel."""
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            if patience <= 0:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if self.ended() is not None:
                    # What it has started goes with it.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(self.pid, signal.SIGKILL)
                    return True
                tick()
                time.sleep(0.05)
        return self.ended() is not None


def _prepare() -> None:
    """In the child, before it becomes the engine."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    # Raising it needs no right; where it cannot be done the kernel's own choice is good enough.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write(str(OOM_SCORE))


def _write_all(descriptor: int, data: bytes) -> None:
    """All of it, as a pipe may take less; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def describe(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        try:
            return f"ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"ended by signal {-status}"
    return f"ended with exit status {status}"
