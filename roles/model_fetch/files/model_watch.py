# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell the running web UI about models that came or went since it was last told, whoever brought them.

Started by secondhand-model-watch.path and .timer, and by the role after it has fetched something. What the web UI is
and how to ask it stands in /etc/sd-webui/engine.json. Prints what it did, for the journal or for Ansible.

Paths can be moved with MODEL_WATCH_ROOT, which the tests use.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import http.client
import json
import os
import pwd
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("MODEL_WATCH_ROOT", "/"))
ENGINE_FILE = ROOT / "etc/sd-webui/engine.json"
STATE_FILE = ROOT / "var/lib/secondhand-diffusion/model_watch.json"
MODELS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
# What sftp programs, syncthing, browsers and this collection call a file that is not whole yet. Those that begin with a
# dot (rsync's among them) are left out anyway.
UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download", ".aria2", ".link")
# The format's own limit.
LONGEST_HEADER = 100_000_000
# A file that was changed less than these seconds ago may still be growing.
QUIET = 5.0
# Between two looks at a web UI that makes a picture.
BUSY_PAUSE = 2.0
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

Models = dict[str, list[int]]
Engine = dict[str, Any]


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """The login goes to this host's server and to nobody else."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Take the redirect for the answer."""


# No proxy: the server is on this very host.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)


# The models


def is_whole(path: str, size: int) -> bool:
    """Is all of it there? A safetensors file says at its beginning where it ends; of others nothing is known."""
    if not path.endswith(".safetensors"):
        return size > 0
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, LONGEST_HEADER):
                return False
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(8 + length + max(ends, default=0) <= size)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError):
        return False


def found_models(folder: str) -> dict[str, os.stat_result]:
    """The model files below a folder, by their path in it."""
    found = {}
    # People put links to other disks into such a folder; one that leads back up would never end.
    seen = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        with contextlib.suppress(OSError):
            place = os.stat(where)
            if (place.st_dev, place.st_ino) in seen:
                folders[:] = []
                continue
            seen.add((place.st_dev, place.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith((".", "~")) or name.endswith(UNFINISHED) or not name.endswith(MODELS):
                continue
            with contextlib.suppress(OSError):
                path = os.path.join(where, name)
                found[os.path.relpath(path, folder)] = os.stat(path)
    return found


def finished_models(folder: str, known: Models, quiet: float) -> tuple[Models, float]:
    """Those that are whole, and for how many seconds others have to be left alone until that can be told."""
    whole: Models = {}
    wait = 0.0
    now = time.time()
    for name, status in found_models(folder).items():
        mark = [status.st_size, status.st_mtime_ns, status.st_ino]
        # Not the time of the last change of its content, which rsync and scp -p set to what it was elsewhere.
        age = now - status.st_ctime
        if known.get(name) == mark:
            whole[name] = mark
        elif 0 <= age < quiet:
            wait = max(wait, quiet - age)
        elif is_whole(os.path.join(folder, name), status.st_size):
            whole[name] = mark
    return whole, wait


def settled_models(folder: str, known: Models, quiet: float) -> Models:
    """The same, once what has just come is known to be whole; a file that goes on growing is left for the next time."""
    whole, wait = finished_models(folder, known, quiet)
    if wait > 0:
        time.sleep(wait + 0.1)
        whole, _wait = finished_models(folder, known, quiet)
    return whole


def cannot_be_read(paths: list[str], user: str) -> list[str]:
    """Those of the files that the web UI's user may not read."""
    account = pwd.getpwnam(user)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.initgroups(user, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            with os.fdopen(write_end, "w", encoding="utf-8") as answer:
                json.dump([path for path in paths if not os.access(path, os.R_OK)], answer)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return [str(path) for path in json.loads(text or "[]")]


# The web UI


def unit_value(engine: Engine, name: str) -> str:
    shown = subprocess.run(
        ["systemctl", "show", f"--property={name}", "--value", str(engine["unit"])],
        check=False,
        capture_output=True,
        text=True,
    )
    return shown.stdout.strip()


def listeners(port: int) -> set[int]:
    """The users whose programs listen on a TCP port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        # A host without IPv6 has no second one.
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                # Local address, state (0A: listens) and owner.
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(int(fields[7]))
    return found


def login(engine: Engine) -> str | None:
    """The header for the login, if there is one, and if it is the service that listens and nobody who waits for it."""
    if not engine.get("auth_file"):
        return None
    try:
        owner = os.stat(f"/proc/{int(unit_value(engine, 'MainPID'))}").st_uid
        text = Path(str(engine["auth_file"])).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError):
        return None
    if listeners(int(engine["port"])) != {owner}:
        return None
    return "Basic " + base64.b64encode(text.encode()).decode("ascii")


def ask(engine: Engine, method: str, path: str, timeout: float) -> tuple[int, bytes]:
    """Status and body; status 0 when nobody answers."""
    address = str(engine["address"])
    address = WILDCARDS.get(address, address)
    host = f"[{address}]" if ":" in address else address
    headers = {"Content-Type": "application/json"} if method == "POST" else {}
    known = login(engine)
    if known is not None:
        headers["Authorization"] = known
    request = urllib.request.Request(
        f"http://{host}:{engine['port']}{path}", data=b"" if method == "POST" else None, headers=headers, method=method
    )
    try:
        with OPENER.open(request, timeout=timeout) as answer:
            return int(answer.status), bytes(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, ValueError, http.client.HTTPException):
        return 0, b""


def is_busy(engine: Engine) -> bool:
    """Does it make a picture? An engine that does not say so counts as idle: it only waits longer with its answer."""
    path = engine.get("progress_path")
    if not path:
        return False
    _status, body = ask(engine, "GET", str(path), 5)
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(body)
        state = answer.get("state")
        return bool(state.get("job_count") or state.get("job") or answer.get("current_task"))
    return False


def requests_for(engine: Engine, types: set[str]) -> list[dict[str, Any]]:
    """What the engine is to be sent; a request that names no types is for all of them."""
    return [
        request
        for request in engine.get("refresh_requests") or []
        if not request.get("types") or types & set(request["types"])
    ]


def send(engine: Engine, types: set[str]) -> str:
    """Empty when the web UI knows all of it, else the sentence that says why not."""
    for request in requests_for(engine, types):
        status, _body = ask(engine, str(request["method"]), str(request["path"]), 120)
        if status == 0:
            return "the web UI does not answer; it will be told later, or finds them when it starts."
        # 404: an older version, or an extension that is not there.
        if status != 404 and not 200 <= status < 300:
            return f"the web UI answered {request['path']} with status {status}; press the refresh button in its page."
    return ""


# What was told before


def load() -> Models | None:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(STATE_FILE.read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return known
    return None


def save(models: Models) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=STATE_FILE.parent, delete=False) as file:
        json.dump(models, file)
        os.fchmod(file.fileno(), 0o644)
    os.replace(file.name, STATE_FILE)


def listed(names: list[str]) -> str:
    """For a sentence that nobody scrolls through."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def differences(known: Models, now: Models) -> tuple[list[str], list[str]]:
    """What came, or is another file under the same name, and what is gone."""
    return sorted(name for name in now if known.get(name) != now[name]), sorted(set(known) - set(now))


def warn_of_unreadable(folder: str, names: list[str], user: str) -> None:
    """A file that the web UI cannot read is in no list of it, and nothing says why."""
    with contextlib.suppress(KeyError, OSError):
        for path in cannot_be_read([os.path.join(folder, name) for name in names], user or "root"):
            say(f'user {user} cannot read {path}, so the web UI cannot load it; run: chmod a+r "{path}"', warning=True)


def say(sentence: str, warning: bool = False) -> None:
    """In the journal with a level, so that the unit's own coming and going can be left out of it."""
    level = ("<4>" if warning else "<5>") if os.environ.get("JOURNAL_STREAM") else ""
    print(f"{level}{sentence}", flush=True)


def tell(engine: Engine, patience: float, quiet: float) -> None:
    """Compare, wait for a picture that is being made, and tell."""
    folder = str(engine["models_dir"])
    known = load()
    now = settled_models(folder, known or {}, quiet)
    new, gone = differences(known or {}, now)
    if known == now or (known is None and not now):
        return
    if unit_value(engine, "ActiveState") in ("inactive", "failed"):
        save(now)
        return
    deadline = time.monotonic() + patience
    while is_busy(engine):
        if time.monotonic() >= deadline:
            say("the web UI makes a picture; it will be told about its models later.")
            return
        time.sleep(BUSY_PAUSE)
    types = {name.split("/")[0] for name in [*new, *gone]}
    problem = send(engine, types)
    if problem:
        say(f"{listed(new or gone)}: {problem}", warning=True)
        return
    save(now)
    how = "told the web UI" if requests_for(engine, types) else "the web UI finds them by itself or after a restart"
    told = [f"new: {listed(new)}"] * bool(new) + [f"gone: {listed(gone)}"] * bool(gone)
    say(f"{how} ({'; '.join(told)}).")
    warn_of_unreadable(folder, new, unit_value(engine, "User"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Tell the web UI which models came or went.")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for a picture that is being made")
    parser.add_argument(
        "--quiet", type=float, default=QUIET, help="seconds without a change until a file counts as whole"
    )
    arguments = parser.parse_args()
    try:
        engine = json.loads(ENGINE_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # No web UI of this collection: nobody to tell.
        return 0
    STATE_FILE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(f"{STATE_FILE}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # More often than not, more than one file comes or goes at a time.
        time.sleep(min(1.0, arguments.quiet))
        tell(engine, arguments.patience, arguments.quiet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
