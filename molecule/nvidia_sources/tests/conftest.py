# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of the scenario, for tests that look at more than one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import testinfra


@pytest.fixture(scope="session")
def on() -> Callable[[str], Any]:
    """Another host of the scenario, as root."""

    def get(name: str) -> Any:
        return testinfra.get_host(
            f"ansible://{name}", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"], sudo=True
        )

    return get
