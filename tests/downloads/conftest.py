"""What the tests of the download modules share: the hubs, and the real module in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hubs as hubs_stand_in
import pytest
from module_runs import Modules


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hubs_stand_in.Hubs]:
    with hubs_stand_in.Hubs(tmp_path_factory.mktemp("hubs")) as running:
        yield running


@pytest.fixture
def hubs(servers: hubs_stand_in.Hubs) -> Iterator[hubs_stand_in.Hubs]:
    """The hubs, as nobody has asked them yet."""
    servers.faults.clear()
    servers.mirror.faults.clear()
    servers.requests.clear()
    yield servers
    servers.faults.clear()


@pytest.fixture
def run_module(tmp_path: Path) -> Modules:
    """run_module("url_download", url=…, dest=…) gives a Run; each test has an index of its own."""
    return Modules(tmp_path)
