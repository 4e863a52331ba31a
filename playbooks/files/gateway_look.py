# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person has to know to open the gateway: where it is, and which fingerprint a browser shows."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import sys
from pathlib import Path


def fingerprint(pem: str) -> str:
    """SHA-256 of the first certificate, as browsers write it; empty where there is none."""
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", pem, re.DOTALL)
    if not found:
        return ""
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest().upper()
    return ":".join(re.findall("..", digest))


def main(folder: Path) -> None:
    """Print gateway.json with the fingerprint in it; an empty object where there is no gateway."""
    try:
        gateway = json.loads((folder / "gateway.json").read_text(encoding="utf-8"))
        gateway["fingerprint"] = fingerprint((folder / "certificate.pem").read_text(encoding="ascii", errors="replace"))
    except OSError:
        gateway = {}
    print(json.dumps(gateway))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
