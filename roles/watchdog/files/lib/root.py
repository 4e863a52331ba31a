# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root part: what the supervisor may not do itself, in a process of its own that lives for a moment.

Started by sd-watchdog-root.path when a request is there, and by sd-watchdog-root.timer where there is a card.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from typing import Any

from sd_watchdog import book as books
from sd_watchdog import paths, requests, store, untrusted
from sd_watchdog.config import Config, ConfigError, Engine, load_config, load_engine, load_object
from sd_watchdog.proc import Proc

# Where role sd_webui says what it tries out: its port may be another one.
CANDIDATE = paths.BASE / "run/sd-webui-candidate/engine.json"


def say(sentence: str, warning: bool = False) -> None:
    """In the journal, with a level."""
    level = ("<4>" if warning else "<5>") if os.environ.get("JOURNAL_STREAM") else ""
    print(f"{level}{untrusted.clean(sentence, 600)}", flush=True)


def ports(engine: Engine) -> list[int]:
    """The web UI's port, and that of a release which proves itself in a switch."""
    found = [engine.port]
    try:
        candidate: Any = load_object(CANDIDATE).get("port")
    except ConfigError:
        return found
    return [*found, candidate] if untrusted.is_whole(candidate) else found


def serve(data: dict[str, Any], config: Config, book: dict[str, Any], proc: Proc) -> None:
    """Carry the request out and answer it."""
    # Not needed by the look at the kernel log, which is what most runs are for.
    from sd_watchdog import actions

    try:
        number = requests.identity(data)
    except requests.RequestError as error:
        say(f"refused: {error}", warning=True)
        return
    action = ""
    try:
        engine = load_engine(config)
        request = requests.parse(data, engine.profiles, ports(engine))
        action = f"{request.action} {request.profile}".strip()
        answer = actions.Actions(config, engine, proc, book).carry_out(request)
    except (requests.RequestError, ConfigError) as error:
        answer = actions.Answer(False, str(error))
    said = untrusted.clean(answer.said, 600)
    say(f"{action or 'refused'}: {said}", warning=not answer.ok)
    try:
        store.write(paths.ANSWER, {"id": number, "ok": answer.ok, "said": said, "data": answer.data})
    except OSError as error:
        say(f"{paths.ANSWER} cannot be written ({error.strerror}).", warning=True)


def unit(config: Config) -> str:
    """The web UI's unit."""
    try:
        return load_engine(config).unit
    except ConfigError:
        return "sd-webui.service"


def work(proc: Proc) -> int:
    """One request, if there is one, and one look at the kernel log, if there is a card."""
    try:
        # In any case: what cannot be carried out must not start this program again and again.
        data = requests.take(paths.REQUEST)
    except untrusted.Refused as error:
        data = None
        say(f"what lay there as {paths.REQUEST} is no request: {error}", warning=True)
    try:
        config = load_config()
    except ConfigError as error:
        say(str(error), warning=True)
        return 1
    book = books.load()
    if data is not None:
        serve(data, config, book, proc)
    if config.gpu:
        from sd_watchdog import card_log

        problem = card_log.look(config, unit(config), proc, book)
        if problem:
            say(problem, warning=True)
    return 0


def main() -> int:
    """Do it, and nothing else at the same time."""
    os.umask(0o022)
    for folder in (paths.ROOT_RUN, paths.ROOT_STATE):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    made_up = (paths.BASE / "proc/uptime").exists()
    # For root's eyes only: whoever can open a lock can hold it.
    with open(os.open(paths.ROOT_RUN / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another one is at work, which has to end first", warning=True)
            return 0
        return work(Proc(paths.BASE if made_up else Path("/")))


if __name__ == "__main__":
    sys.exit(main())
