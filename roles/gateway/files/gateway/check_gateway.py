# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does the running gateway do what it is for? Asks it as its clients do. Changes nothing.

Read by python3 from standard input, with one more line that calls main(). Prints JSON: faults, and what is only worth
telling.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import re
import socket
import ssl
import time
from pathlib import Path
from typing import Any

TIMEOUT = 10.0
# What a reload and a start may take.
PATIENCE = 20.0
BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


def ask_socket(path: str, command: str) -> str:
    """What HAProxy answers a command; empty while it does not."""
    text = b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(f"{command}\n".encode())
        while block := connection.recv(65536):
            text += block
    return text.decode("utf-8", "replace")


def mark(path: str) -> str:
    """Of the configuration that runs."""
    found = re.search(r"^[Dd]escription: sd-gateway (\w+)$", ask_socket(path, "show info"), re.MULTILINE)
    return found[1] if found else ""


def states(path: str) -> dict[str, tuple[str, str]]:
    """Of each server: its state, and what the last check of its health found."""
    rows = csv.DictReader(io.StringIO(ask_socket(path, "show stat").lstrip("# ")))
    found = {}
    for row in rows:
        if (row.get("pxname") or "").startswith("check_") and row["svname"] != "BACKEND":
            said = " ".join(row[name] for name in ("check_status", "check_code", "last_chk") if row.get(name))
            found[row["svname"]] = (row["status"], said)
    return found


def is_up(state: str) -> bool:
    """UP, and not on its way down."""
    return state.startswith("UP")


def ask(asked: dict[str, Any], secure: bool) -> tuple[int, str, bytes]:
    """Status, Location and certificate of an answer to a stranger; raises OSError or http.client.HTTPException."""
    address, host = asked["address"], "gateway.invalid"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It is compared with the file, byte by byte.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = asked["https_port" if secure else "http_port"]
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    certificate = b""
    connection.connect()
    if secure:
        connection.sock = context.wrap_socket(connection.sock)
        certificate = connection.sock.getpeercert(binary_form=True) or b""
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Location") or "", certificate


def faults_of_answers(asked: dict[str, Any]) -> list[str]:
    """A sentence for each answer that is not what it should be."""
    faults = []
    see = f"see journalctl -u {asked['unit']}."
    try:
        status, _location, certificate = ask(asked, secure=True)
        if status != 401:
            faults.append(f"port {asked['https_port']} answers {status} to somebody without a login and not 401; {see}")
        leaf = BLOCK.search(Path(asked["certificate"]).read_text(encoding="utf-8"))
        if leaf is None or certificate != ssl.PEM_cert_to_DER_cert(leaf[0]):
            faults.append(f"the certificate that is served is not the one in {asked['certificate']}; {see}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        faults.append(f"port {asked['https_port']} does not answer by HTTPS ({error}); {see}")
    try:
        status, location, _certificate = ask(asked, secure=False)
        if status != 308 or not location.startswith("https://gateway.invalid"):
            faults.append(f"port {asked['http_port']} answers {status} and does not send to HTTPS; {see}")
    except (OSError, http.client.HTTPException) as error:
        faults.append(f"port {asked['http_port']} does not answer ({error}); {see}")
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", asked["stats_port"], timeout=TIMEOUT)) as stats:
            stats.request("GET", "/metrics")
            if stats.getresponse().status != 200:
                faults.append(f"127.0.0.1:{asked['stats_port']} has no metrics; {see}")
    except (OSError, http.client.HTTPException) as error:
        faults.append(f"127.0.0.1:{asked['stats_port']} does not answer ({error}); {see}")
    return faults


def main(text: str) -> None:
    """Ask, as the JSON object says."""
    asked = json.loads(text)
    until = time.monotonic() + PATIENCE
    while mark(asked["socket"]) != asked["mark"] and time.monotonic() < until:
        time.sleep(0.1)
    faults, warnings = [], []
    if mark(asked["socket"]) != asked["mark"]:
        faults.append(
            f"{asked['unit']} does not run with the configuration that was written; see journalctl -u {asked['unit']}."
        )
    else:
        faults += faults_of_answers(asked)
        # What has just been started answers before long; a server that is switched off need not.
        until = time.monotonic() + asked["servers_timeout"]
        found = states(asked["socket"])
        while not any(is_up(state) for state, _said in found.values()) and time.monotonic() < until:
            time.sleep(0.5)
            found = states(asked["socket"])
        down = [(name, said) for name, (state, said) in found.items() if not is_up(state)]
        told = ", ".join(f"{name} ({said or 'not asked yet'})" for name, said in down)
        if set(found) != set(asked["servers"]):
            faults.append(f"it has other servers than those that were asked for: {', '.join(found)}; run again.")
        elif len(down) == len(found):
            faults.append(f"no server answers it: {told}; see journalctl -u sd-webui there.")
        elif down:
            warnings.append(f"these servers do not answer it, and get nothing to do until they do: {told}.")
    print(json.dumps({"faults": faults, "warnings": warnings}))
