# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends a file to the host in pieces; the module there says which are missing, takes them, and finishes the file."""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from typing import Any

from ansible import constants
from ansible_collections.secondhand.diffusion.plugins.module_utils._download import bytes_of
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._copy_inbox import Inbox
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._copy_source import Source, SourceChanged
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._download_action import TransferAction
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._lines import Lines
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._patience import GivenUp, Patience

# What one run of the module takes: much, because a run costs half a second, but not more than a kill may cost.
BATCH_BYTES = 256 * 1024 * 1024
BATCH_SECONDS = 15.0
# A file up to this size is verified in the run that takes its last piece; a larger one by a job, with progress.
QUICK = 256 * 1024 * 1024
# How often the file may change meanwhile, or arrive damaged.
MOST_ATTEMPTS = 3


class ActionModule(TransferAction):
    module = "secondhand.diffusion.resumable_copy"

    def transfer(self, args: dict[str, Any], task_vars: dict[str, Any], lines: Lines) -> dict[str, Any]:
        if not args.get("src") or not args.get("dest"):
            # The module has the sentence for that.
            return self.run_directly({**args, "_copy": {}}, task_vars)
        path = self._find_needle("files", os.path.expanduser(str(args["src"])))
        patience = Patience(
            self._connection,
            lines.announce,
            "the connection is lost",
            "see to it that it can be reached, and run again; what was copied is kept",
        )
        for _attempt in range(MOST_ATTEMPTS):
            try:
                return Sending(self, args, task_vars, lines, patience, path).run()
            except SourceChanged:
                lines.announce(f"{os.path.basename(path)} was changed on the controller; beginning again")
        raise GivenUp(
            f"src {path} was changed {MOST_ATTEMPTS} times while it was copied: see that nothing writes to it, and run"
            " again."
        )


class Sending:
    """One try to bring the file as it is now."""

    def __init__(
        self,
        action: ActionModule,
        args: dict[str, Any],
        task_vars: dict[str, Any],
        lines: Lines,
        patience: Patience,
        path: str,
    ) -> None:
        self._action = action
        self._args = {**args, "src": path}
        self._task_vars = task_vars
        self._lines = lines
        self._patience = patience
        self._inbox = Inbox(action, patience)
        self._source = Source(path)
        self._began = time.monotonic()
        self._sent = 0
        self._warnings: list[Any] = []
        try:
            rate = args.get("rate_limit")
            self._rate = bytes_of(str(rate), "rate_limit") if rate else 0
        except DownloadError as exc:
            raise GivenUp(str(exc)) from exc
        self._speed: deque[tuple[float, int]] = deque([(self._began, 0)], maxlen=20)

    def run(self) -> dict[str, Any]:
        self._known = self._source.read(not self._action._task.check_mode, self._reading())
        wanted = str(self._args.get("sha256") or "").strip().lower()
        if wanted and wanted != self._known.sha256:
            raise GivenUp(
                f"src {self._source.path} has SHA-256 {self._known.sha256} instead of {wanted}: copy another file, or"
                " correct sha256."
            )
        answer = self._ask(None)
        rounds = 0
        while "copy" in answer:
            state = answer["copy"]
            self._warnings += answer.get("warnings", [])
            if state.get("patient"):
                answer = self._ask(None, patient=True)
                continue
            self._source.check()
            if not state["missing"]:
                answer = self._ask([], finish=True, patient=self._source.size > QUICK)
                rounds += 1
                if rounds > MOST_ATTEMPTS and "copy" in answer:
                    raise GivenUp(
                        f"What arrives of {self._source.path} is damaged on the host each time: look at its memory and"
                        " at its disk."
                    )
                continue
            answer = self._send(state)
        return self._result(answer)

    def _reading(self) -> Any:
        """Shows how far the file has been read on the controller."""
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            self._lines.show(self._progress("checking", done, "on the controller"))

        return tick

    def _progress(self, state: str, done: int, note: str = "") -> dict[str, Any]:
        now = time.monotonic()
        self._speed.append((now, self._sent))
        since, before = self._speed[0]
        rate = (self._sent - before) / (now - since) if now > since else 0.0
        return {
            "name": os.path.basename(self._source.path),
            "done": done,
            "total": self._source.size,
            "rate": rate,
            "eta": (self._source.size - done) / rate if rate else None,
            "state": state,
            "note": note,
        }

    def _ask(
        self, received: list[dict[str, Any]] | None, finish: bool = False, patient: bool = False
    ) -> dict[str, Any]:
        """One run of the module."""
        args = {
            **self._args,
            "_copy": {
                "size": self._source.size,
                "sha256": self._known.sha256,
                "piece_size": self._known.piece_size,
                # Only the first run compares them with what is there.
                "pieces": list(self._known.pieces) if received is None else [],
                "received": received,
                "finish": finish,
                "patient": patient,
            },
        }
        if patient:
            return self._action.run_module(args, self._task_vars, self._lines)
        if received is None and not finish:
            # A host that cannot be reached at all is told at once.
            return self._action.run_directly(args, self._task_vars)
        return self._patience.ask(lambda: self._action.run_directly(args, self._task_vars))

    def _send(self, state: dict[str, Any]) -> dict[str, Any]:
        """Some of the missing pieces, and what the host says then."""
        size, total, done = int(state["piece_size"]), self._source.size, int(state["done"])
        indexes = [index for first, last in state["missing"] for index in range(first, last + 1)]
        began, received, count = time.monotonic(), [], 0
        for slot, index in enumerate(indexes):
            offset = index * size
            length = min(size, total - offset)
            received.append(self._put(slot, offset, length))
            count += length
            self._sent += length
            self._lines.show(self._progress("downloading", done + count))
            # The first piece alone, because it tells what kind of file it is.
            if not index or count + size > BATCH_BYTES or time.monotonic() - began > BATCH_SECONDS:
                break
        self._source.check()
        last = len(received) == len(indexes)
        return self._ask(received, finish=last and total <= QUICK)

    def _put(self, slot: int, offset: int, length: int) -> dict[str, Any]:
        began = time.monotonic()
        with tempfile.NamedTemporaryFile(dir=constants.DEFAULT_LOCAL_TMP) as piece:
            crc = self._source.cut(offset, length, piece.name)
            path = self._inbox.put(piece.name, f"piece-{slot}")
        if self._rate:
            time.sleep(max(0.0, length / self._rate - (time.monotonic() - began)))
        return {"offset": offset, "size": length, "crc": crc, "path": path}

    def _result(self, answer: dict[str, Any]) -> dict[str, Any]:
        invocation = answer.get("invocation", {}).get("module_args", {})
        for name in ("_copy", "_progress"):
            invocation.pop(name, None)
        if self._warnings:
            answer["warnings"] = [*self._warnings, *answer.get("warnings", [])]
        if answer.get("failed") or not self._sent:
            return answer
        more = {
            "downloaded_bytes": self._sent,
            "resumed_bytes": max(0, self._source.size - self._sent),
            "seconds": round(time.monotonic() - self._began, 3),
            "source": self._source.path,
        }
        answer.update(more)
        for file in answer.get("files", []):
            file.update(more)
        self._lines.finish(answer)
        return answer
