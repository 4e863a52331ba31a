# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Both hosts begin at once, because each takes its time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import testinfra

BEGUN = {"sd-long-start": "slow_start", "sd-long-job": "long_job"}


def tell(name: str) -> dict[str, Any]:
    """What the host says about what it was given to do (tests/servers/chaos)."""
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    host = testinfra.get_host(f"ansible://{name}?ansible_inventory={inventory}", sudo=True)
    found: dict[str, Any] = json.loads(host.check_output(f"cd /opt && python3 -B -m chaos {BEGUN[name]}"))
    return found


@pytest.fixture(scope="session")
def told() -> Iterator[Callable[[str], dict[str, Any]]]:
    """What a host has said in the end."""
    with ThreadPoolExecutor(len(BEGUN)) as pool:
        begun = {name: pool.submit(tell, name) for name in BEGUN}

        def wait(name: str) -> dict[str, Any]:
            found = begun[name].result(3000)
            print(json.dumps(found, indent=1))
            return found

        yield wait
