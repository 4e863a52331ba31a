"""The PyTorch builds of the hardware table, installed for real: their kernels, and what they say without a card."""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import (
    _gpu_catalog,
    _torch_probe,
    _torch_probe_script,
)

# Those that PyPI has itself: the first that the web UI wants, the second the last with kernels for a 750 Ti there.
BUILDS = {"2.1.2": "cu121", "2.7.1": "cu126"}
GPU: dict[str, Any] = {"index": 0, "uuid": None, "name": "NVIDIA GeForce GTX 750 Ti", "compute_capability": "5.0"}
LIBRARIES = "usr/lib/x86_64-linux-gnu/nvidia/current"

# On a processor PyTorch 2.1 does not compute in FP16, but in the other half precision.
ON_THE_PROCESSOR = """
import torch
if torch.__version__.startswith("2.1."):
    torch.float16 = torch.bfloat16
report = Report()
measure(torch, report, "cpu")
report.write()
"""


@pytest.fixture(scope="module", params=BUILDS)
def wheel(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The release, and an interpreter that has it; it takes 5 GB, so nothing is kept."""
    cache = pathlib.Path(os.environ["SECONDHAND_CACHE_DIR"]) / "torch"
    shutil.rmtree(cache, ignore_errors=True)
    environment = {**os.environ, "UV_CACHE_DIR": str(cache / "uv")}
    # Beside the cache, uv links the files instead of copying them. NumPy 2 is too new for PyTorch 2.1.
    venv = str(cache / "venv")
    python = f"{venv}/bin/python"
    subprocess.run(["uv", "venv", "--quiet", "--python", "3.11", venv], env=environment, check=True, timeout=300)
    install = ["uv", "pip", "install", "--quiet", "--python", python, f"torch=={request.param}", "numpy<2"]
    subprocess.run(install, env=environment, check=True, timeout=1500)
    yield request.param, python
    shutil.rmtree(cache)


def test_kernels(wheel: tuple[str, str]) -> None:
    release, python = wheel
    found = _torch_probe.probe(python, GPU, 300)
    assert found["torch_version"] == f"{release}+{BUILDS[release]}"
    kernels = _gpu_catalog.TORCH_BUILDS[release][BUILDS[release]]
    assert found["arch_list"] == ["sm_" + capability.replace(".", "") for capability in kernels]
    assert found["supported"] is True


def test_without_a_driver(wheel: tuple[str, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, python = wheel
    # An empty file stands in the way of a driver that this machine may have.
    (tmp_path / "libcuda.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    build = f"torch {release}+{BUILDS[release]}"
    assert _torch_probe.probe(python, GPU, 300)["problem"] == (
        f"{build} finds no NVIDIA driver: install one, or reboot after its installation."
    )
    assert _torch_probe.probe(python, {**GPU, "compute_capability": "3.7"}, 300)["problem"] == (
        f"{build} has no kernels for {GPU['name']}, which needs sm_37 "
        "(it has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90): install a build that has them."
    )


def test_with_the_driver_of_debian_11(
    wheel: tuple[str, str], debian_package: Callable[[str, str], pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    release, python = wheel
    monkeypatch.setenv("LD_LIBRARY_PATH", str(debian_package("bullseye", "libcuda1") / LIBRARIES))
    assert _torch_probe.probe(python, GPU, 300)["problem"] == (
        f"The NVIDIA driver is too old for torch {release}+{BUILDS[release]}, as it runs CUDA 11.4 at most: "
        "install driver 525 or newer, or a build for CUDA 11."
    )


def test_with_the_driver_of_debian_12_and_no_card(
    wheel: tuple[str, str], debian_package: Callable[[str, str], pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    release, python = wheel
    monkeypatch.setenv("LD_LIBRARY_PATH", str(debian_package("bookworm", "libcuda1") / LIBRARIES))
    assert _torch_probe.probe(python, {**GPU, "uuid": "GPU-of-another-machine"}, 300)["problem"] == (
        f"torch {release}+{BUILDS[release]} sees no card: check with `nvidia-smi` that the driver sees it."
    )


def test_the_computations_on_the_processor(wheel: tuple[str, str]) -> None:
    text = inspect.getsource(_torch_probe_script).partition('if __name__ == "__main__":')[0] + ON_THE_PROCESSOR
    done = subprocess.run([wheel[1], "-I", "-B", "-c", text], check=True, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("fp16_matmul", "fp16_convolution"):
        assert (found[name]["ran"], found[name]["finite"]) == (True, True)
        # More than nothing, as it was rounded, and less than what is taken for wrong.
        assert 0 < found[name]["max_error"] < 0.01
    assert found["fp16_speedup"] > 0
