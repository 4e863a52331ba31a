# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the gateway that a test looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet import client

LOGIN = "keeper:correct-horse: bättery"


@pytest.fixture
def us(host: Any, tmp_path: Path) -> client.Client:
    cafile = tmp_path / "gateway.pem"
    cafile.write_text(host.check_output("openssl x509 -in /etc/sd-gateway/certificate.pem"), encoding="ascii")
    return client.Client(f"https://{host.check_output('hostname -I').split()[0]}", LOGIN, str(cafile))
