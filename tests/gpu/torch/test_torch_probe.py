"""Every way in which PyTorch and a card can fail each other, with a stand-in for PyTorch in a real interpreter."""

from __future__ import annotations

import copy
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _probe, _torch_probe

KERNEL_LOG = "look for NVRM or Xid lines in the kernel log (dmesg)"
CU121 = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
CU128 = "sm_70 sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120"
GTX_750_TI: dict[str, Any] = {
    "uuid": "GPU-0f1b6a5e-7c0d-2b3e-9a44-5d3c1f0a7501",
    "properties": {"name": "NVIDIA GeForce GTX 750 Ti", "major": 5, "minor": 0, "total_memory": 2096955392},
    "seconds": {"float32": 0.004, "float16": 0.002},
    "error": 0.0004,
    "nan": [],
    "benchmark_helps": False,
}
GTX_1660_SUPER: dict[str, Any] = {
    **GTX_750_TI,
    "uuid": "GPU-9e8d7c6b-5a49-3827-1605-f4e3d2c1b0a9",
    "properties": {"name": "NVIDIA GeForce GTX 1660 SUPER", "major": 7, "minor": 5, "total_memory": 6442450944},
    "nan": ["convolution"],
    "benchmark_helps": True,
}
WORKING: dict[str, Any] = {
    "version": "2.1.2+cu121",
    "cuda": "12.1",
    "arch_list": CU121,
    "cards": [GTX_750_TI],
    "events": {},
}
# As the module has it.
GPU: dict[str, Any] = {
    "index": 0,
    "uuid": GTX_750_TI["uuid"],
    "name": "NVIDIA GeForce GTX 750 Ti",
    "compute_capability": "5.0",
}
NO_KERNEL = (
    "CUDA error: no kernel image is available for execution on the device\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1."
)
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from "
    "http://www.nvidia.com/Download/index.aspx"
)
UNKNOWN_ERROR = (
    "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
    "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
)
MISMATCH = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? Error 804: forward compatibility was attempted on non supported HW"
)
NO_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacty of 1.95 GiB of which 3.00 MiB is free. "
    "Process 1234 has 1.80 GiB memory in use."
)

# What goes wrong where, and the sentence that must come of it.
FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "no driver": (
        {"init": NO_DRIVER},
        "torch 2.1.2+cu121 finds no NVIDIA driver: install one, or reboot after its installation.",
    ),
    "driver too old": (
        {"init": TOO_OLD},
        "The NVIDIA driver is too old for torch 2.1.2+cu121, as it runs CUDA 11.4 at most: install driver 525 or "
        "newer, or a build for CUDA 11.",
    ),
    "no nvidia-uvm": (
        {"init": UNKNOWN_ERROR},
        f"torch 2.1.2+cu121 cannot start CUDA ({UNKNOWN_ERROR.rstrip('.')}): check that /dev/nvidia-uvm exists, which "
        "`nvidia-modprobe -u -c 0` makes.",
    ),
    "libraries of another version": (
        {"init": MISMATCH},
        f"torch 2.1.2+cu121 cannot start CUDA ({MISMATCH}): the loaded NVIDIA kernel module is not of the libraries' "
        "version; reboot.",
    ),
    "no kernel image": (
        {"kernel": NO_KERNEL},
        "torch 2.1.2+cu121 has no kernels for NVIDIA GeForce GTX 750 Ti: install a build that has them.",
    ),
    "no memory": (
        {"memory": NO_MEMORY},
        "The memory of NVIDIA GeForce GTX 750 Ti is full (CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a "
        "total capacty of 1.95 GiB of which 3.00 MiB is free. Process 1234 has 1.80 GiB memory in use): stop what uses "
        "it, such as the web UI, and ask again.",
    ),
    "another error": (
        {"convolution": "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"},
        f"torch 2.1.2+cu121 failed in the FP16 convolution (cuDNN error: CUDNN_STATUS_EXECUTION_FAILED): {KERNEL_LOG}.",
    ),
    "crash": (
        {"synchronize": int(signal.SIGSEGV)},
        f"PyTorch crashed in the timing of the matmul (SIGSEGV): {KERNEL_LOG}.",
    ),
    "old processor": (
        {"import": int(signal.SIGILL)},
        "PyTorch crashed in the import (SIGILL): this processor lacks instructions of the build; install an older one.",
    ),
    "killed": (
        {"memory": int(signal.SIGKILL)},
        "PyTorch was killed in the FP16 matmul (SIGKILL): if the kernel log (dmesg) tells of memory, add memory or "
        "swap.",
    ),
    "end": (
        {"init": "exit"},
        "PyTorch ended in the start of CUDA with exit status 3 (libcudart: giving up): install it again.",
    ),
}


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter like the web UI's: a virtual environment in which torch is installed."""
    folder = tmp_path_factory.mktemp("torch")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "stand_in.pth").write_text(f"{pathlib.Path(__file__).parent / 'stand_in'}\n", encoding="utf-8")
    return str(folder / "bin/python")


@pytest.fixture
def ask(python: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Probes a machine."""

    def probe(gpu: dict[str, Any] | None = GPU, timeout: float = 60, **changes: Any) -> dict[str, Any]:
        (tmp_path / "machine.json").write_text(json.dumps({**WORKING, **changes}), encoding="utf-8")
        monkeypatch.setenv("TORCH_MACHINE", str(tmp_path / "machine.json"))
        # Whoever runs the module may have these.
        monkeypatch.setenv("PYTHONPATH", "/nowhere")
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
        return _torch_probe.probe(python, gpu, timeout)

    return probe


def test_a_card_that_works(ask: Callable[..., dict[str, Any]], python: str) -> None:
    found = ask()
    speedup = found.pop("fp16_speedup")
    assert found == {
        "python": python,
        "ran": True,
        "torch_version": "2.1.2+cu121",
        "cuda": "12.1",
        "arch_list": CU121.split(),
        "device_name": "NVIDIA GeForce GTX 750 Ti",
        "compute_capability": "5.0",
        "vram_mib": 1999,
        "supported": True,
        "fp16_matmul": {"ran": True, "finite": True, "max_error": pytest.approx(0.0004)},
        "fp16_convolution": {"ran": True, "finite": True, "max_error": pytest.approx(0.0004)},
        "problem": None,
    }
    # The stand-in takes half as long in FP16.
    assert speedup == 2


def test_the_chosen_one_of_two_cards(ask: Callable[..., dict[str, Any]]) -> None:
    cards = [GTX_750_TI, {**GTX_1660_SUPER, "nan": []}]
    assert ask({**GPU, "uuid": GTX_1660_SUPER["uuid"]}, cards=cards)["device_name"] == "NVIDIA GeForce GTX 1660 SUPER"
    assert ask({**GPU, "uuid": None, "index": 1}, cards=cards)["device_name"] == "NVIDIA GeForce GTX 1660 SUPER"
    assert ask(None, cards=cards)["device_name"] == "NVIDIA GeForce GTX 750 Ti"


@pytest.mark.parametrize("failure", FAILURES)
def test_failure(failure: str, ask: Callable[..., dict[str, Any]]) -> None:
    events, sentence = FAILURES[failure]
    found = ask(events=events)
    assert found["problem"] == sentence
    assert found["fp16_speedup"] is None


def test_a_wheel_without_kernels_for_the_card(ask: Callable[..., dict[str, Any]]) -> None:
    build = {"version": "2.8.0+cu128", "cuda": "12.8", "arch_list": CU128}
    sentence = (
        "torch 2.8.0+cu128 has no kernels for NVIDIA GeForce GTX 750 Ti, which needs sm_50 (it has "
        f"{CU128.replace(' ', ', ')}): install a build that has them."
    )
    # As on the real card, whose first kernel fails; and before there is a driver.
    for event in ({"kernel": NO_KERNEL}, {"init": NO_DRIVER}):
        found = ask(**build, events=event)
        assert (found["supported"], found["problem"]) == (False, sentence)


def test_a_card_that_is_not_visible(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask({**GPU, "uuid": "GPU-of-another-machine"})
    assert found["problem"] == ("torch 2.1.2+cu121 sees no card: check with `nvidia-smi` that the driver sees it.")
    assert (found["ran"], found["supported"], found["device_name"]) == (True, True, None)


def test_a_build_for_the_cpu(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask(version="2.1.2+cpu", cuda=None, arch_list=None)
    assert found["problem"] == (
        "torch 2.1.2+cpu is built without CUDA: install a CUDA build to use NVIDIA GeForce GTX 750 Ti."
    )
    assert (found["ran"], found["cuda"], found["supported"]) == (True, None, None)


def test_a_card_that_computes_nan_in_fp16(ask: Callable[..., dict[str, Any]]) -> None:
    gpu = {**GPU, "uuid": GTX_1660_SUPER["uuid"]}
    found = ask(gpu, cards=[GTX_1660_SUPER])
    assert found["fp16_convolution"] == {
        "ran": True,
        "finite": False,
        "max_error": None,
        "finite_with_cudnn_benchmark": True,
    }
    assert found["problem"] == (
        "The FP16 convolution on NVIDIA GeForce GTX 1660 SUPER gives infinite values or NaN, as known of the GTX 16xx, "
        "but not in cuDNN's benchmark mode: use an engine that switches it on, or FP32."
    )
    hopeless = {**GTX_1660_SUPER, "benchmark_helps": False}
    sentence = "on NVIDIA GeForce GTX 1660 SUPER gives infinite values or NaN: let the engine compute in FP32."
    assert ask(gpu, cards=[hopeless])["problem"] == f"The FP16 convolution {sentence}"
    assert ask(gpu, cards=[{**hopeless, "nan": ["matmul"]}])["problem"] == f"The FP16 matrix product {sentence}"


def test_a_card_that_computes_wrongly_in_fp16(ask: Callable[..., dict[str, Any]]) -> None:
    card = copy.deepcopy(GTX_750_TI)
    card["error"] = 0.3
    assert ask(cards=[card])["problem"] == (
        "The FP16 matrix product on NVIDIA GeForce GTX 750 Ti is off by 30% of the largest value: "
        "let the engine compute in FP32."
    )


@pytest.mark.parametrize(
    ("where", "step"),
    [("import", "the import"), ("init", "the start of CUDA"), ("convolution", "the FP16 convolution")],
)
def test_a_hang(
    where: str, step: str, ask: Callable[..., dict[str, Any]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The time is over as soon as it hangs, whatever the machine needs until then.
    hangs = tmp_path / "machine.json.hangs"
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000 * hangs.exists(), sleep=time.sleep)
    monkeypatch.setattr(_probe, "time", clock)
    monkeypatch.setattr(_probe, "_GRACE", 30)
    started = time.monotonic()
    found = ask(timeout=60, events={where: "hang"})
    assert time.monotonic() - started < 30
    assert found["problem"] == f"PyTorch did not answer within 60 s, in {step}: give it more time, or {KERNEL_LOG}."
    # What was found before is kept.
    assert found["fp16_matmul"]["ran"] is (where == "convolution")


def test_a_torch_that_is_broken(ask: Callable[..., dict[str, Any]], python: str) -> None:
    found = ask(events={"import": "libcudart.so.12: cannot open shared object file: No such file or directory"})
    assert found["problem"] == (
        f"The PyTorch of {python} cannot be imported (libcudart.so.12: cannot open shared object file: No such file or "
        "directory): install it again."
    )
    assert found["ran"] is False


def test_without_torch(tmp_path: pathlib.Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True, timeout=60)
    python = f"{tmp_path}/bin/python"
    found = _torch_probe.probe(python, GPU, 60)
    assert found["problem"] == f"{python} has no PyTorch: install the web UI's packages, or correct the path."
    assert found["ran"] is False


def test_without_an_interpreter(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text").touch()
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path / "text", "Permission denied")):
        assert _torch_probe.probe(str(path), GPU, 60)["problem"] == (
            f"The interpreter {path} does not start ({reason}): install the web UI, or correct the path."
        )
