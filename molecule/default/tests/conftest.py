# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a person opens the page: the address that site.yml's last line names, with the login of the inventory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

# Of molecule.yml.
LOGIN = "user:asuka-langley"


@pytest.fixture(scope="session")
def address() -> str:
    """Of the host, on the test bed's network."""
    hosts = yaml.safe_load(Path(os.environ["MOLECULE_INSTANCE_CONFIG"]).read_text(encoding="utf-8"))
    return str(hosts[0]["address"])


@pytest.fixture(scope="session")
def page_urls(address: str) -> list[str]:
    """With the login first, in place of the dialog, then without: a page at an address with a password asks nothing."""
    return [f"https://{LOGIN}@{address}/", f"https://{address}/"]
