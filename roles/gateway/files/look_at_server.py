# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role has to know of a host with a web UI, in one go: files, units, and whether they do what they are for.

Read by python3 from standard input, with one more line that calls main(). Changes nothing. Prints JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

TABLE = ["inet", "sd_gateway"]
WORDS = re.compile(r"ready up (?:0%|100% maxconn:\d+)\n")
TIMEOUT = 10.0
DIGEST = re.compile(r"[0-9a-f]{64}")
# What nobody may get, however it is written.
FORBIDDEN = ("/", "/model_fetch.json", "/..%2f..%2f..%2f..%2fetc%2fpasswd", "/../../../../etc/passwd", "/" + "0" * 64)


def run(*command: str, text: str | None = None) -> str | None:
    """What a command says; None if it fails or is not there."""
    try:
        done = subprocess.run(command, input=text, check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def mark(path: str) -> str:
    """What a file is, to be compared: its mode and the SHA-256 of its content."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o7777
            return f"{mode:04o} {hashlib.sha256(file.read()).hexdigest()}"
    except OSError:
        return ""


def state(unit: str) -> dict[str, str]:
    """Whether a unit runs, and whether it will after the next boot."""
    shown = run("systemctl", "show", "--property=ActiveState,UnitFileState", unit) or ""
    return {name: value for name, _sign, value in (line.partition("=") for line in shown.splitlines())}


# Packages


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


def recorded(path: str) -> list[str]:
    """Packages that came with the role."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8").split()
    return []


# Ports and addresses


def unit_of(pid: str) -> str:
    """The unit that a process belongs to, else its number."""
    with contextlib.suppress(OSError):
        found = re.findall(r"[^/\n]+\.service", Path("/proc", pid, "cgroup").read_text(encoding="ascii"))
        if found:
            return str(found[-1])
    return f"process {pid}"


def strangers(port: int, unit: str) -> list[str]:
    """Who listens on a port and is not the unit that should."""
    shown = run("ss", "-Hltnp", f"sport = :{port}") or ""
    owners = {(unit_of(pid), name) for name, pid in re.findall(r'\("([^"]*)",pid=(\d+)', shown)}
    return sorted(f"{name} ({owner})" for owner, name in owners if owner != unit)


def own_addresses() -> list[str]:
    """The addresses of this host."""
    shown = run("ip", "-json", "address", "show") or "[]"
    links = json.loads(shown)
    return [str(info["local"]) for link in links for info in link.get("addr_info", []) if "local" in info]


# What the parts do


def rules_hold(text: str) -> bool:
    """Whether the table in force is the one that these rules make, which a network namespace of its own tells."""
    now = run("nft", "-s", "list", "table", *TABLE)
    if now is None:
        return False
    made = run("unshare", "--net", "sh", "-c", f"nft -f - && nft -s list table {' '.join(TABLE)}", text=text)
    # Where no namespace can be made, a table of this name has to do.
    return made is None or now == made


def agent_says(address: str, port: int) -> str:
    """The line of the agent check; empty when there is none."""
    received = b""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=TIMEOUT) as connection:
        # As HAProxy does. Who says nothing waits for the answer.
        connection.sendall(b"page\n")
        while len(received) < 100:
            block = connection.recv(100)
            if not block:
                break
            received += block
    return received.decode("ascii", "replace")


def ask_mirror(address: str, port: int, path: str) -> tuple[int, int]:
    """Status and length that the mirror announces; status 0 when it does not answer."""
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, int(answer.headers["Content-Length"] or 0)
    except (OSError, ValueError, http.client.HTTPException):
        return 0, 0
    finally:
        connection.close()


def smallest_model(folder: str) -> tuple[str, int]:
    """A file that the mirror has, and its length; ("", 0) where it has none."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if DIGEST.fullmatch(name):
                    found.append((os.stat(os.path.join(folder, name)).st_size, name))
    return (min(found)[1], min(found)[0]) if found else ("", 0)


def mirror_faults(address: str, port: int, folder: str) -> list[str]:
    """What the mirror does that it should not, in words."""
    where = f"the mirror of models at {address}:{port}"
    name, size = smallest_model(folder)
    if name:
        status, length = ask_mirror(address, port, f"/{name}")
        if not status:
            return [f"{where} does not answer"]
        if (status, length) != (200, size):
            return [f"{where} answers with status {status} and {length} bytes for {folder}/{name}, which has {size}"]
    answers = {path: ask_mirror(address, port, path)[0] for path in FORBIDDEN}
    if not all(answers.values()):
        return [f"{where} does not answer"]
    return [f"{where} answers with status {status} for {path}" for path, status in answers.items() if status < 400]


def faults(name: str, asked: dict[str, Any]) -> list[str]:
    """What a part that is wanted does not do."""
    part = asked["parts"][name]
    now = state(part["unit"])
    if now.get("ActiveState") != "active":
        return [f"{part['unit']} does not run"]
    if not now.get("UnitFileState", "").startswith("enabled"):
        return [f"{part['unit']} does not start at boot"]
    if name == "firewall" and not rules_hold(asked["rules"]):
        return [f"the table {' '.join(TABLE)} in force is not the one of {part['unit']}"]
    if name == "activity" and not WORDS.fullmatch(agent_says(*asked["agent"]) or ""):
        return [f"the agent check at {asked['agent'][0]}:{asked['agent'][1]} says no word that HAProxy knows"]
    return mirror_faults(*asked["mirror"]) if name == "mirror" else []


def look_at(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """One part: the files to be written and to be removed, and what it does not do."""
    part = asked["parts"][name]
    if not part["wanted"]:
        there = [path for path in [*part["files"], *part["unwanted"]] if os.path.lexists(path)]
        return {"wrong": [], "left": there, "faults": []}
    wrong = [path for path, wanted in part["files"].items() if mark(path) != wanted]
    return {
        "wrong": wrong,
        "left": [path for path in part["unwanted"] if os.path.lexists(path)],
        # What is about to be replaced says nothing.
        "faults": ["it is not installed"] if wrong else faults(name, asked),
    }


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """All of it."""
    ports = {"activity": asked["agent"][1], "mirror": asked["mirror"][1]}
    return {
        "parts": {name: look_at(name, asked) for name in asked["parts"]},
        "packages": missing_packages(asked["packages"]) if asked["packages"] else [],
        "recorded": recorded(asked["packages_file"]),
        "addresses": own_addresses(),
        "strangers": {
            name: strangers(port, asked["parts"][name]["unit"]) if asked["parts"][name]["wanted"] else []
            for name, port in ports.items()
        },
    }


def main(text: str) -> None:
    """Look, as the JSON object asks; with `patience`, again for so many seconds until everything is right."""
    asked = json.loads(text)
    end = time.monotonic() + asked.get("patience", 0)
    seen = look(asked)
    while time.monotonic() < end and any(part["faults"] for part in seen["parts"].values()):
        time.sleep(1)
        seen = look(asked)
    print(json.dumps(seen))
