# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the web UI is doing, told at once however long its queue is.

Upstream's own routes run in a pool of threads, and requests that wait for a picture fill it: then a busy server looks
dead from outside. This one is answered before any route, in the event loop; it waits for no lock and decodes no
preview. The names are those of A1111 v1.10.1 and of Forge, which are the same here: modules/shared_state.py,
modules/call_queue.py and modules/fifo_lock.py. Nothing is imported: what is not there yet tells nothing.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PATH = "/secondhand/activity"
API = "/sdapi/v1/"
_SEEN = "sd_webui.activity"


class Activity:
    """Counts what the API is asked to do, and tells it together with what the web UI says of itself."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._last: tuple[Any, ...] = ()
        self._since = time.monotonic()

    def serve(self, application_class: Any) -> None:
        """Answer in every application of this class; who may ask is decided by what stands in front of it."""
        inner = application_class.__call__

        @functools.wraps(inner)
        async def watched(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
            # An application inside another one: the outermost has counted already.
            if scope["type"] != "http" or _SEEN in scope:
                await inner(app, scope, receive, send)
            elif scope["path"] == PATH and scope["method"] in ("GET", "HEAD"):
                await self._answer(send, with_body=scope["method"] == "GET")
            elif scope["path"].startswith(API) and scope["method"] == "POST":
                # Until it is done, also for a client that has given up: the web UI goes on with it.
                self._in_flight += 1
                try:
                    await inner(app, {**scope, _SEEN: True}, receive, send)
                finally:
                    self._in_flight -= 1
            else:
                await inner(app, {**scope, _SEEN: True}, receive, send)

        application_class.__call__ = watched

    def look(self) -> dict[str, Any]:
        """One look, in a few reads."""
        state = getattr(sys.modules.get("modules.shared"), "state", None)
        name, number, step = getattr(state, "job", ""), _count(state, "job_no"), _count(state, "sampling_step")
        # time_start tells two jobs of one name apart.
        place = (name, number, step, getattr(state, "time_start", None))
        now = time.monotonic()
        if place != self._last:
            self._last, self._since = place, now
        at_lock = _at_lock(getattr(sys.modules.get("modules.call_queue"), "queue_lock", None))
        # What waits for the lock is mostly the API's requests again, so they are not added.
        queue = max(self._in_flight, at_lock or 0)
        # job_count is -1 at the very beginning. A job that fails may leave both behind (modules/postprocessing.py),
        # so it is none if nobody holds the lock. modules/progress.py says more, but keeps tasks that have failed.
        job = bool(name or _count(state, "job_count")) and (queue > 0 or at_lock is None)
        return {
            "job": job,
            "queue": queue,
            # Who holds the lock or waits for it and did not come through the API: the page. By its name a job cannot be
            # told, as the web UI calls it "Batch 1 out of 4" where it makes several pictures.
            "page": None if at_lock is None else max(0, at_lock - self._in_flight),
            "name": _printable(name) if job else "",
            "step": step if job else 0,
            "steps": _count(state, "sampling_steps") if job else 0,
            "job_number": number if job else 0,
            "last_step_seconds": round(now - self._since, 1),
        }

    async def _answer(self, send: Send, with_body: bool) -> None:
        body = json.dumps(self.look()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body if with_body else b""})


def _count(state: Any, name: str) -> int:
    """A number of the web UI's; extensions write there too."""
    value = getattr(state, name, 0)
    return value if isinstance(value, int) else 0


def _at_lock(lock: Any) -> int | None:
    """How many hold the web UI's lock or wait for it; None if that cannot be told."""
    held = getattr(getattr(lock, "_lock", lock), "locked", None)
    waiting = getattr(lock, "_pending_threads", ())
    return int(held()) + len(waiting) if callable(held) else None


def _printable(name: Any) -> str:
    return "".join(character for character in str(name or "") if character.isprintable())[:100]
