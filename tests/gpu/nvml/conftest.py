"""NVML's stand-in, compiled."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pathlib.Path]:
    """Compiles the stand-in; gives the folder that holds it."""

    def compiled(*options: str) -> pathlib.Path:
        folder = tmp_path_factory.mktemp("nvml")
        command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *options]
        subprocess.run([*command, "-o", folder / "libnvidia-ml.so.1", HERE / "nvml.c"], check=True, timeout=60)
        return folder

    return compiled


@pytest.fixture(scope="session")
def stand_in(build: Callable[..., pathlib.Path]) -> pathlib.Path:
    """The stand-in of a library of today."""
    return build()
