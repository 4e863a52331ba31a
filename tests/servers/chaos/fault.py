# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all faults share: names, pictures that people wait for meanwhile, and what is seen until all is well again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos import observe

FAULTS: dict[str, Callable[[], dict[str, Any]]] = {}
LIMIT = 150.0


def fault(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Its name becomes a word of the command line."""
    FAULTS[function.__name__] = function
    return function


class Jobs:
    """Pictures that are asked for while something happens: how many of them are lost?"""

    def __init__(self, seconds: float = LIMIT) -> None:
        self._seconds = seconds
        self._threads: list[threading.Thread] = []
        self.answers: list[int] = []

    def ask(self, count: int = 1, **wanted: Any) -> Jobs:
        """All at the same time."""
        body = {"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 7, "sampler_name": "Euler", **wanted}
        for _number in range(count):
            thread = threading.Thread(target=self._ask, args=(body,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def _ask(self, body: dict[str, Any]) -> None:
        self.answers.append(observe.ask(observe.engine_file()["txt2img_path"], body, timeout=self._seconds)[0])

    def wait(self) -> Jobs:
        """Until each has had its answer."""
        for thread in self._threads:
            thread.join(self._seconds)
        return self

    @property
    def done(self) -> bool:
        """Has each had its answer?"""
        return len(self.answers) == len(self._threads)

    def told(self) -> dict[str, int]:
        """For the report."""
        return {"asked": len(self._threads), "lost": len(self._threads) - self.answers.count(200)}


def until(function: Callable[[], Any], seconds: float = LIMIT, interval: float = 0.1) -> Any:
    """What the function says, as soon as it says something; what it said last where that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        found = function()
        if found or time.monotonic() >= deadline:
            return found
        time.sleep(interval)


def settle() -> None:
    """Until the web UI answers and the watchdog has forgotten the faults before."""

    def settled() -> bool:
        said = observe.status()
        return said.get("state") == "ready" and not said.get("failures") and bool(observe.engine())

    if not until(settled, 60):
        raise RuntimeError(f"it does not settle: {observe.status()}")


class Observed:
    """One fault from its beginning to the next good answer."""

    def __init__(self, jobs: Jobs | None = None) -> None:
        self._recorder = observe.Recorder()
        self._jobs = jobs
        self._engine = observe.engine()
        self._history = len(observe.status().get("restarts") or [])
        self._before = observe.restarts()
        until(lambda: self._engine in self._recorder.engines, 5)
        self.at = time.time()

    def now(self) -> None:
        """The fault is made at this moment."""
        self.at = time.time()

    def recovered(self, seconds: float = LIMIT) -> dict[str, Any]:
        """What was seen until it answers again, or until that has taken too long."""
        new = until(lambda: self._recorder.ready(self.at, self._engine), seconds, 0.05)
        if new and observe.STATUS.exists():
            # The watchdog's own word comes with its next look.
            until(lambda: observe.status().get("state") in ("ready", "busy"), 10)
        self._recorder.stop()
        engines = self._recorder.engines
        gone = engines.get(self._engine, {}).get("gone")
        starts = sorted(seen["started"] for seen in engines.values() if seen["started"] > self.at - 0.05)
        lines = observe.journal(self.at - 0.05)
        words = [line["wall"] for line in lines if line["message"].startswith("watchdog:") or line["by"] == "systemd"]
        after = observe.restarts()
        return {
            "detected": self._after(min(words, default=None)),
            "ended": self._after(gone),
            "restarted": self._after(min(starts, default=None)),
            "ready": self._after(new[1] if new else None),
            "starts": len(starts),
            "jobs": self._jobs.wait().told() if self._jobs is not None and new else None,
            "counted": {reason: count - self._before.get(reason, 0) for reason, count in after.items()},
            "restarts": (observe.status().get("restarts") or [])[-3:],
            "state": observe.status().get("state"),
            "said": [line["message"] for line in lines if line["message"].startswith("watchdog:")][:40],
            "journal": [line["message"] for line in lines][-60:],
        }

    def _after(self, wall: float | None) -> float | None:
        return None if wall is None else round(max(0.0, wall - self.at), 2)


def difference(before: dict[str, int]) -> dict[str, int]:
    """Restarts since then, by reason; `asked` is the word for what a person wished."""
    after = observe.restarts()
    return {reason: count - before.get(reason, 0) for reason, count in after.items() if count > before.get(reason, 0)}


def picture() -> bool:
    """The server still does what it is for."""
    return Jobs().ask().wait().told()["lost"] == 0


def write_fault(**asked: Any) -> None:
    """Tell the stand-in what to do wrong (tests/servers/automatic1111/trees/webui/modules/faults.py)."""
    path = Path(observe.engine_file()["data_dir"], "webui/fault.json")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asked), encoding="utf-8")
    part.replace(path)
