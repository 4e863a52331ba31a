# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet, and what its tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet.members import Fleet, Hub


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    # A socket's path may not be long.
    yield Fleet(tmp_path_factory.mktemp("f"))


@pytest.fixture(scope="session")
def hub(fleet: Fleet) -> Hub:
    return Hub(fleet)
