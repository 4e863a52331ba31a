# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role has to know of a gateway's host, in one go. Changes nothing.

Read by python3 from standard input, with one more line that calls main(). Prints JSON.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

HAPROXY = "/usr/sbin/haproxy"
WILDCARDS = ("*", "0.0.0.0", "[::]")
BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)
# OpenSSL's X509_V_FLAG_PARTIAL_CHAIN, which Python names since 3.10: believe in one certificate, whoever signed it.
PARTIAL_CHAIN = 0x80000


def read(path: str) -> str:
    """A small text file; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def run(*command: str) -> str:
    """What a command says; empty where it fails or is not there."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


# Packages and units


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


def haproxy_version() -> str:
    """The first two numbers of it; empty where there is none."""
    found = re.search(r"version (\d+\.\d+)", run(HAPROXY, "-v"))
    return found[1] if found else ""


def shown(unit: str) -> dict[str, str]:
    """Properties of a unit."""
    text = run("systemctl", "show", "--property=ActiveState,MainPID,NeedDaemonReload", unit)
    return {name: value for name, _sign, value in (line.partition("=") for line in text.splitlines())}


def is_replaced(pid: str) -> bool:
    """Is the program of a process no longer what is on the disk?"""
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith(" (deleted)")
    except OSError:
        return False


def running_mark(path: str) -> str:
    """By which mark the running HAProxy tells its configuration."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(b"show info\n")
        text = b""
        while block := connection.recv(65536):
            text += block
        found = re.search(r"^[Dd]escription: sd-gateway (\w+)$", text.decode("utf-8", "replace"), re.MULTILINE)
        return found[1] if found else ""
    return ""


# Ports and addresses


def listeners(port: int) -> list[tuple[str, str]]:
    """Address and process id of whatever listens on a TCP port."""
    found = []
    for line in run("ss", "-Hltnp", f"sport = :{port}").splitlines():
        address = line.split()[3].rpartition(":")[0].partition("%")[0]
        found += [(address, pid) for pid in re.findall(r"pid=(\d+)", line) or ["0"]]
    return found


def taken(address: str, port: int, unit: str) -> list[dict[str, Any]]:
    """Who else listens where the gateway wants to."""
    wanted = f"[{address}]" if ":" in address else address
    strangers: dict[str, dict[str, Any]] = {}
    for place, pid in listeners(port):
        overlaps = not wanted or wanted in WILDCARDS or place in WILDCARDS or place == wanted
        words = run("ps", "-o", "unit=,comm=", "-p", pid).split() or ["-", "a process that cannot be seen"]
        if overlaps and words[0] != unit:
            strangers[words[-1]] = {"port": port, "pid": pid, "unit": words[0], "command": words[-1]}
    return list(strangers.values())


def addresses() -> dict[str, list[str]]:
    """This host's own: those that last, and those that a router or the host itself changes now and then."""
    found: dict[str, list[str]] = {"all": ["127.0.0.1", "::1"], "lasting": [], "passing": []}
    for line in run("ip", "-o", "address", "show", "scope", "global").splitlines():
        words = line.split()
        address = words[3].partition("/")[0]
        passes = words[2] == "inet6" and bool({"temporary", "dynamic", "mngtmpaddr", "deprecated"} & set(words))
        found["all"].append(address)
        found["passing" if passes else "lasting"].append(address)
    return found


# Certificates


def presented(chain: str, key: str) -> dict[str, Any]:
    """What a certificate says of itself, as a client sees it; raises ssl.SSLError or OSError.

    A handshake in memory: it proves as well that the key belongs to it, and that today is a day that it is for.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # For a key that wants a passphrase; without it OpenSSL would ask for one.
    server.load_cert_chain(chain, key, password=lambda: "")
    leaf = BLOCK.search(read(chain))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags = ssl.VerifyFlags(client.verify_flags | PARTIAL_CHAIN)
    client.load_verify_locations(cadata=leaf[0] if leaf else "")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up)
    theirs = server.wrap_bio(up, down, server_side=True)
    waiting = [ours, theirs]
    while ours in waiting:
        for side in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)
    return dict(ours.getpeercert() or {})


def normal(name: str) -> str:
    """Addresses have several spellings."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def described(path: str) -> dict[str, Any]:
    """Whose certificate is in a file, for which names, and for how many days still."""
    try:
        told = presented(path, path)
    except (OSError, ssl.SSLError):
        return {"organization": "", "names": [], "days": -1}
    subject = {name: value for part in told.get("subject", ()) for name, value in part}
    names = [normal(value) for kind, value in told.get("subjectAltName", ())]
    seconds = ssl.cert_time_to_seconds(told["notAfter"]) - time.time()
    return {"organization": subject.get("organizationName", ""), "names": names, "days": int(seconds // 86400)}


def problem(chain: str, key: str) -> str:
    """Why a certificate cannot be used, and what to do about it; empty if it can."""
    for path in dict.fromkeys([chain, key]):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            reason = (error.strerror or "").lower()
            return f"{path} cannot be read on this host ({reason}); put it there or correct its path."
    if not BLOCK.search(read(chain)):
        return f"there is no certificate in {chain}; give a PEM file with the certificate and its chain."
    if "PRIVATE KEY-----" not in read(key):
        return f"there is no private key in {key}; name the right file in gateway_certificate_key_file."
    try:
        presented(chain, key)
    except ssl.SSLCertVerificationError as error:
        return f"{chain} is not valid ({error.verify_message}); renew it or leave gateway_certificate_file empty."
    except (OSError, ssl.SSLError) as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            return f"the key in {key} is not the one of {chain}; name the two that belong together."
        if "ENCRYPTED" in read(key):
            return (
                f"the key in {key} has a passphrase, which nobody could type at a start; take it away (openssl pkey)."
            )
        return f"{chain} with {key} is refused ({error}); give a certificate in PEM with its key."
    return ""


def load(path: str) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    with contextlib.suppress(ValueError):
        data = json.loads(read(path))
        if isinstance(data, dict):
            return data
    return {}


def main(text: str) -> None:
    """Look, as the JSON object asks."""
    asked = json.loads(text)
    unit = shown(asked["unit"])
    own = addresses()
    certificate = described(asked["certificate"])
    names = list(dict.fromkeys(normal(name) for name in asked["names"] + own["lasting"]))
    places = [(asked["address"], port) for port in asked["ports"]] + [("127.0.0.1", asked["stats_port"])]
    result = {
        "missing": missing_packages(asked["packages"]),
        "version": haproxy_version(),
        "active": unit.get("ActiveState") in ("active", "reloading"),
        "stale": unit.get("NeedDaemonReload") == "yes",
        "replaced": is_replaced(unit.get("MainPID", "0")),
        "mark": running_mark(asked["socket"]),
        "taken": [
            stranger for address, port in dict.fromkeys(places) for stranger in taken(address, port, asked["unit"])
        ],
        "addresses": own,
        "ipv6": bool(read("/proc/net/if_inet6").strip()),
        "certificate": {**certificate, "missing": [name for name in names if name not in certificate["names"]]},
        "names": names,
        "own_problem": problem(asked["own_certificate"], asked["own_key"]) if asked["own_certificate"] else "",
        "contract": load(asked["contract"]),
    }
    print(json.dumps(result))
