"""The module as Ansible ships it to a host: packed, so that the probes' texts have to be found in an archive."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def run(build: Callable[..., pathlib.Path]) -> Callable[..., dict[str, Any]]:
    """Runs the module on a machine that NVML's stand-in shows."""

    def module(machine: str, **options: Any) -> dict[str, Any]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "ansible", "adhoc", "localhost", "--connection", "local"),
                *("--extra-vars", json.dumps({"ansible_python_interpreter": sys.executable})),
                *("--module-name", "secondhand.diffusion.gpu_fp16_info", "--args", json.dumps(options), "--one-line"),
            ],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(build()),
                "NVML_MACHINE": str(HERE / "machines" / f"{machine}.txt"),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert " | SUCCESS => " in done.stdout, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.partition(" => ")[2])
        return answer

    return module


def test_nvml(run: Callable[..., dict[str, Any]]) -> None:
    found = run("gtx_750_ti", sources=["nvml"])
    assert found["sources"] == [{"source": "nvml", "problem": None}]
    told = {key: found["gpus"][0][key] for key in ("name", "pci_address", "vram_mib", "source", "driver_version")}
    assert told == {
        "name": "NVIDIA GeForce GTX 750 Ti",
        "pci_address": "0000:01:00.0",
        "vram_mib": 1999,
        "source": "nvml",
        "driver_version": "535.261.03",
    }
    assert found["device"] == "gpu"


def test_a_driver_that_hangs(run: Callable[..., dict[str, Any]]) -> None:
    found = run("hang_at_start", sources=["nvml"], timeout=1)
    assert found["sources"][0]["problem"].startswith("NVML did not answer within 1 s: the driver hangs;")
    assert (found["gpus"], found["device"]) == ([], "cpu")


def test_pytorch(run: Callable[..., dict[str, Any]]) -> None:
    # This interpreter has no PyTorch.
    found = run("gtx_750_ti", sources=["nvml"], probe_python=sys.executable)
    assert found["torch_probe"]["problem"] == (
        f"{sys.executable} has no PyTorch: install the web UI's packages, or correct the path."
    )
