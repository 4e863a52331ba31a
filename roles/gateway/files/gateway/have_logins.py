# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have everything secret of the gateway, made and kept on its host: users, the key of the sessions, the servers' login.

Read by python3 from standard input, with one more line that calls main(). Prints JSON, which holds the passwords that
were generated.
"""

from __future__ import annotations

import base64
import contextlib
import grp
import json
import os
import secrets
import string
import subprocess
from pathlib import Path
from typing import Any

# Salt and password come by standard input, so that they are on no command line. Perl is part of every Debian, and its
# crypt is the C library's, as HAProxy's is.
CRYPT = 'local $/; my ($salt, $password) = split /\\n/, <STDIN>, 2; print crypt($password, $salt) // ""'
GENERATED_ROUNDS = 1000
SALT = string.ascii_letters + string.digits


def read(path: str) -> str:
    """A small text file; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def crypt(password: str, salt: str) -> str:
    """The C library's hash of a password."""
    done = subprocess.run(["perl", "-e", CRYPT], input=f"{salt}\n{password}".encode(), check=True, capture_output=True)
    hashed = done.stdout.decode("ascii")
    if not hashed.startswith("$5$"):
        raise SystemExit("error: this host's C library cannot hash passwords with SHA-256.")
    return hashed


def new_hash(password: str, rounds: int) -> str:
    """With a salt of its own."""
    salt = "".join(secrets.choice(SALT) for _number in range(16))
    return crypt(password, f"$5$rounds={rounds}${salt}$")


def hash_of(password: str, rounds: int, known: str) -> str:
    """The hash that there is, if it is the password's and as slow as wanted, or a new one."""
    wanted = f"$5$rounds={rounds}$"
    same = known.startswith(wanted) and secrets.compare_digest(crypt(password, known), known)
    return known if same else new_hash(password, rounds)


def users(wanted: list[dict[str, Any]], known: dict[str, str], rounds: int) -> tuple[dict[str, str], dict[str, str]]:
    """The hash of each user, and the passwords that had to be generated."""
    hashes, generated = {}, {}
    for user in wanted:
        name, password = str(user["name"]), str(user.get("password") or "")
        if password:
            hashes[name] = hash_of(password, rounds, known.get(name, ""))
        elif name in known:
            hashes[name] = known[name]
        else:
            generated[name] = secrets.token_urlsafe(16)
            hashes[name] = new_hash(generated[name], GENERATED_ROUNDS)
    return hashes, generated


def known_users(text: str) -> dict[str, str]:
    """From the lines name:hash."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: hashed for name, _colon, hashed in pairs if name and hashed}


def have(path: str, text: str, group: str, mode: int, check: bool) -> bool:
    """Have a file with this content, owner and mode; was it another?"""
    with contextlib.suppress(FileNotFoundError):
        state = os.stat(path)
        gid = grp.getgrnam(group).gr_gid if not check else state.st_gid
        is_ours = (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (0, gid, mode) or check
        if is_ours and read(path) == text:
            return False
    if not check:
        Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        part = f"{path}.part"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            os.fchown(file.fileno(), 0, grp.getgrnam(group).gr_gid)
            os.fchmod(file.fileno(), mode)
        os.replace(part, path)
    return True


def main(text: str) -> None:
    """Have all of it, as the JSON object asks."""
    asked = json.loads(text)
    check = bool(asked["check"])
    hashes, generated = users(asked["users"], known_users(read(asked["users_file"])), asked["rounds"])
    key = read(asked["session_key"]).strip() or base64.b64encode(secrets.token_bytes(32)).decode("ascii")
    lines = [f"session-key {key}"]
    login = read(asked["login_file"]).rstrip("\r\n") if asked["login_file"] else ""
    if login:
        lines.append("servers-login " + base64.b64encode(login.encode()).decode("ascii"))
    config = ["# Written with " + asked["users_file"] + "; the rest is in haproxy.cfg.", "userlist sd_users"]
    config += [f"    user {name} password {hashed}" for name, hashed in hashes.items()]
    files = [
        (asked["session_key"], f"{key}\n", "root", 0o600),
        (asked["secrets"], "".join(f"{line}\n" for line in lines), asked["group"], 0o640),
        (asked["users_config"], "".join(f"{line}\n" for line in config), asked["group"], 0o640),
        # Last: who is in there has been told the password.
        (asked["users_file"], "".join(f"{name}:{hashed}\n" for name, hashed in hashes.items()), asked["group"], 0o640),
    ]
    changed = [have(path, content, group, mode, check) for path, content, group, mode in files]
    print(json.dumps({"changed": any(changed), "generated": {} if check else generated}))
