# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role has fetched on this host, and what has to be known before it fetches more.

Read by python3 from standard input, with one more line that calls main(). Prints JSON. Two runs of the role at a time
wait for each other here, and the record is replaced as a whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import hashlib
import json
import os
import pwd
import re
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

SCHEMA = 1
DIGEST = re.compile(r"[0-9a-f]{64}")

Record = dict[str, Any]


def read(path: str) -> Record:
    """The record; a missing or damaged one is an empty one: then nothing counts as ours, and nothing is pruned."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        record = json.load(file)
        if isinstance(record, dict) and record.get("schema") == SCHEMA:
            return {"packages": [], "stores": {}, **record}
    return {"schema": SCHEMA, "packages": [], "stores": {}}


@contextlib.contextmanager
def changing(path: str) -> Iterator[Record]:
    """The record, for changes that are written when the block has ended well."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    with open(f"{path}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = read(path)
        before = json.dumps(record, sort_keys=True)
        yield record
        if json.dumps(record, sort_keys=True) == before:
            return
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, delete=False) as file:
            json.dump(record, file, indent=2, sort_keys=True)
            file.write("\n")
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(file.name, path)


def identity(path: str) -> list[int] | None:
    """Size and time of the last change; None where there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def as_recorded(path: str, entry: Record) -> bool:
    return identity(path) == [entry.get("size"), entry.get("mtime_ns")]


def present(files: dict[str, Record], keys: list[str]) -> dict[str, list[str]]:
    """The requests whose files are all as they were when they were fetched, with those files."""
    found: dict[str, list[str]] = {key: [] for key in keys}
    broken = set()
    for path, entry in files.items():
        key = entry.get("request", "")
        if key not in found:
            continue
        found[key].append(path)
        # What lies beside a model may be edited.
        if not (entry.get("beside") or as_recorded(path, entry)):
            broken.add(key)
    return {key: paths for key, paths in found.items() if paths and key not in broken}


def drifted(files: dict[str, Record], asked: Record, uid: int, gid: int) -> list[str]:
    """The requests that brought a file which has another owner, group or mode by now."""
    found = set()
    for path, entry in files.items():
        with contextlib.suppress(OSError):
            status = os.stat(path)
            has = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
            if not entry.get("beside") and has != (uid, gid, int(asked["mode"], 8)):
                found.add(entry.get("request", ""))
    return sorted(found)


def number(lookup: Any, name: str, field: str) -> int:
    """The number of a user or group; -1 where there is none of that name."""
    try:
        return int(getattr(lookup(name), field))
    except KeyError:
        return -1


def missing_packages(names: list[str]) -> list[str]:
    """Those that are not installed."""
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *names],
        check=False,
        capture_output=True,
        text=True,
    )
    installed = {line.split()[0] for line in shown.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def served(engine_file: str) -> str:
    """The checkpoint that the web UI serves; empty where there is none."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(engine_file, encoding="utf-8") as file:
        return str(json.load(file).get("checkpoint") or "")
    return ""


def sha256_of(path: str) -> str:
    """Of a small file; empty where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def unit_states(question: str, units: list[str]) -> list[str]:
    """What systemctl answers, a word for each unit."""
    answer = subprocess.run(["systemctl", question, *units], check=False, capture_output=True, text=True)
    return answer.stdout.split()


def watch_is_right(wanted: Record) -> bool:
    """Whether the watch is there as it is wanted, and runs; or is not there, if it is not wanted."""
    if not wanted["present"]:
        return not any(os.path.lexists(path) for path in wanted["files"])
    return (
        all(sha256_of(path) == digest for path, digest in wanted["files"].items())
        and unit_states("is-active", wanted["units"]) == ["active"] * len(wanted["units"])
        and unit_states("is-enabled", wanted["units"]) == ["enabled"] * len(wanted["units"])
    )


def in_folders(path: str, folders: list[str]) -> bool:
    return any(path.startswith(f"{folder.rstrip('/')}/") for folder in folders)


def known_files(index: str) -> list[tuple[str, str]]:
    """Complete files whose SHA-256 the index knows, and which are as they were then."""
    if not os.path.exists(index):
        return []
    found = []
    with contextlib.suppress(sqlite3.Error):
        database = sqlite3.connect(f"file:{quote(index)}?mode=ro", uri=True, timeout=30)
        with contextlib.closing(database):
            rows = database.execute("SELECT sha256, path, device, inode, size, mtime_ns FROM files ORDER BY path")
            for sha256, path, *seen in rows:
                with contextlib.suppress(OSError):
                    now = os.stat(path)
                    same = [now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns] == seen
                    if same and stat.S_ISREG(now.st_mode) and DIGEST.fullmatch(sha256):
                        found.append((sha256, path))
    return found


def links_in(folder: str) -> dict[str, str]:
    """What lies in the folder, and where it leads; "" for what is no link."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            try:
                found[name] = os.readlink(os.path.join(folder, name))
            except OSError:
                found[name] = ""
    return found


def links_wanted(asked: Record) -> dict[str, str]:
    """The links that there should be: for models of these folders, and those of another store that still hold."""
    if not asked["wanted"]:
        return {}
    there = links_in(asked["folder"])
    wanted: dict[str, str] = {}
    for sha256, path in known_files(asked["index"]):
        holds = there.get(sha256) == path
        if (in_folders(path, asked["folders"]) and sha256 not in wanted) or holds:
            # One that is right already stays, where several files have the same content.
            wanted[sha256] = path
    return wanted


def share_is_right(asked: Record) -> bool:
    """Whether the links are there that should be, and no other."""
    is_there = os.path.isdir(asked["folder"]) or not asked["wanted"]
    return is_there and links_in(asked["folder"]) == links_wanted(asked)


def share(asked: Record) -> Record:
    """Make the links to models by their SHA-256, and remove those that lead nowhere or to something else."""
    folder, wanted = asked["folder"], links_wanted(asked)
    changed = []
    if asked["wanted"] and not os.path.isdir(folder):
        os.makedirs(folder, mode=0o755)
        os.chmod(folder, 0o755)
        changed.append(folder)
    for name, target in links_in(folder).items():
        if wanted.get(name) != target:
            os.unlink(os.path.join(folder, name))
            changed.append(name)
    there = links_in(folder)
    for name, path in wanted.items():
        if name not in there:
            os.symlink(path, os.path.join(folder, name))
            changed.append(name)
    if not asked["wanted"]:
        # Of role gateway too, whose mirror serves it: only what is empty goes.
        with contextlib.suppress(OSError):
            os.rmdir(folder)
            changed.append(folder)
    return {"changed": sorted(set(changed)), "shared": len(wanted)}


def look(asked: Record) -> Record:
    """What the host has; changes nothing."""
    files = read(asked["manifest"])["stores"].get(asked["store"], {})
    uid = number(pwd.getpwnam, asked["owner"], "pw_uid")
    gid = number(grp.getgrnam, asked["group"], "gr_gid")
    return {
        "present": present(files, asked["keys"]),
        "drifted": drifted(files, asked, uid, gid),
        "folders": [folder for folder in asked["folders"] if not os.path.isdir(folder)],
        "uid": uid,
        "gid": gid,
        "packages": missing_packages(asked["packages"]) if asked["packages"] else [],
        "scanner": os.path.exists(asked["scanner"]),
        "watch": watch_is_right(asked["watch"]) if asked["watch"] else True,
        "shared": share_is_right(asked["share"]) if asked["share"] else True,
    }


def record_files(asked: Record) -> Record:
    """What is in place now. `ours` is what the role has fetched, and not what it found there."""
    with changing(asked["manifest"]) as record:
        files = record["stores"].setdefault(asked["store"], {})
        for entry in asked["files"]:
            path = entry.pop("path")
            seen = identity(path)
            if seen is not None:
                ours = bool(entry.pop("ours") or files.get(path, {}).get("ours"))
                files[path] = {**entry, "ours": ours, "size": seen[0], "mtime_ns": seen[1]}
        # A file that was there already and is asked for in other words is not fetched again, but is wanted.
        for path, key in asked["taken_over"].items():
            if path in files:
                files[path]["request"] = key
    return {}


def prunable(asked: Record) -> Record:
    """What was fetched and nobody asks for any more, and why some of it stays."""
    files: dict[str, Record] = read(asked["manifest"])["stores"].get(asked["store"], {})
    stays, kept = served(asked["engine"]), []
    old = {
        path: entry
        for path, entry in files.items()
        if entry.get("ours") and entry.get("request") not in asked["keys"] and path not in asked["keep"]
    }
    requests_that_stay = set()
    for path, entry in old.items():
        if path == stays:
            kept.append(f"{path} is the checkpoint that the web UI serves")
            requests_that_stay.add(entry.get("request"))
        elif not entry.get("beside") and os.path.exists(path) and not as_recorded(path, entry):
            kept.append(f"{path} was changed by somebody since it was fetched")
            requests_that_stay.add(entry.get("request"))
    remove = [path for path, entry in old.items() if entry.get("request") not in requests_that_stay]
    return {
        "remove": sorted(path for path in remove if os.path.lexists(path)),
        "gone": sorted(path for path in remove if not os.path.lexists(path)),
        "kept": sorted(kept),
    }


def prune(asked: Record) -> Record:
    """Remove what is still as it was when that was decided, and forget what is gone."""
    removed = []
    with changing(asked["manifest"]) as record:
        files = record["stores"].get(asked["store"], {})
        for path in asked["paths"]:
            entry = files.get(path, {})
            if entry.get("ours") and os.path.lexists(path) and (entry.get("beside") or as_recorded(path, entry)):
                os.unlink(path)
                removed.append(path)
            if not os.path.lexists(path):
                files.pop(path, None)
        if not files:
            record["stores"].pop(asked["store"], None)
    return {"removed": removed}


def record_packages(asked: Record) -> Record:
    """Packages that came with the role."""
    with changing(asked["manifest"]) as record:
        record["packages"] = sorted({*record["packages"], *asked["packages"]})
    return {}


def came(asked: Record) -> Record:
    """What reset has to take away."""
    return {"packages": read(asked["manifest"])["packages"]}


STEPS = {
    "came": came,
    "look": look,
    "record": record_files,
    "prunable": prunable,
    "prune": prune,
    "packages": record_packages,
    "share": share,
}


def main(text: str) -> None:
    """One step, by what the JSON object asks for."""
    asked = json.loads(text)
    print(json.dumps(STEPS[asked["step"]](asked)))
