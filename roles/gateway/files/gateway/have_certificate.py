# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the gateway's certificate: the one that was given, or one that this host signs itself.

Read by python3 from standard input, with one more line that calls main(). Prints "changed" if it was another.
"""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import json
import os
import subprocess
import tempfile
from pathlib import Path

# Apple's systems take no certificate that is valid for longer.
DAYS = 820
CONFIG = """\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
O = {organization}
CN = {name}
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
subjectAltName = {names}
"""


def alternative(name: str) -> str:
    """A name or an address as OpenSSL's settings write it."""
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def self_signed(organization: str, names: list[str]) -> str:
    """A new certificate for these names and addresses, and its key."""
    # What begins a certificate's name may have 64 characters.
    first = next((name for name in names if alternative(name).startswith("DNS:")), names[0])[:64]
    settings = CONFIG.format(organization=organization, name=first, names=",".join(map(alternative, names)))
    with tempfile.TemporaryDirectory() as folder:
        config, key, certificate = (Path(folder, name) for name in ("config", "key", "certificate"))
        config.write_text(settings, encoding="utf-8")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        files = ["-config", str(config), "-keyout", str(key), "-out", str(certificate)]
        done = subprocess.run(
            ["openssl", "req", "-x509", "-sha256", "-nodes", "-days", str(DAYS), *curve, *files],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"error: openssl cannot make a certificate for {', '.join(names)}: {done.stderr.strip()}")
        return certificate.read_text(encoding="ascii") + key.read_text(encoding="ascii")


def given(chain: str, key: str) -> str:
    """The files that were given, as one."""
    paths = dict.fromkeys([chain, key])
    return "".join(Path(path).read_text(encoding="utf-8").rstrip("\n") + "\n" for path in paths)


def have(path: str, text: str, group: str) -> bool:
    """Have a file with this content, for HAProxy to read; was it another?"""
    gid = grp.getgrnam(group).gr_gid
    with contextlib.suppress(FileNotFoundError):
        state = os.stat(path)
        is_ours = (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (0, gid, 0o640)
        if is_ours and Path(path).read_text(encoding="utf-8", errors="replace") == text:
            return False
    part = f"{path}.part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchown(file.fileno(), 0, gid)
        os.fchmod(file.fileno(), 0o640)
    os.replace(part, path)
    return True


def main(text: str) -> None:
    """Have it, as the JSON object asks."""
    asked = json.loads(text)
    if asked["own_certificate"]:
        content = given(asked["own_certificate"], asked["own_key"])
    else:
        content = self_signed(asked["organization"], asked["names"])
    if have(asked["path"], content, asked["group"]):
        print("changed")
