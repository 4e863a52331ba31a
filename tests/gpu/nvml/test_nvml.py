"""NVML asked through every pynvml that a Debian host can have, on machines made up for the library's stand-in."""

from __future__ import annotations

import ctypes
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _nvml, _probe

HERE = pathlib.Path(__file__).parent
RELEASES = ("bullseye", "bookworm", "trixie")
KERNEL_LOG = "look for NVRM or Xid lines in the kernel log (dmesg)"
GTX_750_TI = {
    "index": 0,
    "pci_address": "0000:01:00.0",
    "pci_id": "10de:1380",
    "name": "NVIDIA GeForce GTX 750 Ti",
    "uuid": "GPU-0f1b6a5e-7c0d-2b3e-9a44-5d3c1f0a7501",
    "compute_capability": "5.0",
    "vram_mib": 1999,
    "bound_driver": "nvidia",
}
P600 = {
    "index": 0,
    "pci_address": "0000:03:00.0",
    "pci_id": "10de:1cb2",
    "name": "Quadro P600",
    "uuid": "GPU-4c7e2f90-11aa-4be7-8d21-60a1b2c3d4e5",
    "compute_capability": "6.1",
    "vram_mib": 2000,
    "bound_driver": "nvidia",
}
K80 = {
    "index": 0,
    "pci_address": "0000:84:00.0",
    "pci_id": "10de:102d",
    "name": "Tesla K80",
    "uuid": "GPU-a1d0c3b2-0001-4f5e-8a9b-000000000001",
    "compute_capability": "3.7",
    "vram_mib": 11441,
    "bound_driver": "nvidia",
}
GTX_1660_SUPER = {
    "index": 0,
    "pci_address": "0000:0a:00.0",
    "pci_id": "10de:21c4",
    "name": "NVIDIA GeForce GTX 1660 SUPER",
    "uuid": "GPU-9e8d7c6b-5a49-3827-1605-f4e3d2c1b0a9",
    "compute_capability": "7.5",
    "vram_mib": 6144,
    "bound_driver": "nvidia",
}
RTX_3060 = {
    "index": 1,
    "pci_address": "10000:e1:00.0",
    "pci_id": "10de:2504",
    "name": "NVIDIA GeForce RTX 3060",
    "uuid": "GPU-33c0ffee-3060-4060-8060-a060b060c060",
    "compute_capability": "8.6",
    "vram_mib": 12288,
    "bound_driver": "nvidia",
}
SECOND_K80 = {**K80, "index": 1, "pci_address": "0000:85:00.0", "uuid": "GPU-a1d0c3b2-0002-4f5e-8a9b-000000000002"}
NOTHING_TOLD = dict.fromkeys(("name", "uuid", "compute_capability", "vram_mib"))

# What a machine is, and the driver version, problem and cards that must be reported.
MACHINES: dict[str, tuple[str | None, str | None, list[dict[str, Any]]]] = {
    "gtx_750_ti": ("535.261.03", None, [GTX_750_TI]),
    "quadro_p600": ("550.163.01", None, [P600]),
    "tesla_k80": ("470.256.02", None, [K80, SECOND_K80]),
    "gtx_1660_super": ("580.95.05", None, [GTX_1660_SUPER]),
    "two_cards": ("580.95.05", None, [GTX_750_TI, RTX_3060]),
    "no_cards": ("535.261.03", None, []),
    "little_supported": (None, None, [{**GTX_750_TI, **NOTHING_TOLD}]),
    "one_lost": (
        "535.261.03",
        f"NVML does not tell everything (GPU 0: GPU is lost): {KERNEL_LOG}, then switch the machine off and on.",
        [{**P600, "index": 1}],
    ),
    "no_power": (
        "535.261.03",
        f"NVML does not tell everything (GPU 1: Insufficient External Power): {KERNEL_LOG}, then switch the machine "
        "off and on.",
        [GTX_750_TI],
    ),
    "lost_while_asked": (
        "535.261.03",
        f"NVML does not tell everything (GPU 0: GPU is lost): {KERNEL_LOG}, then switch the machine off and on.",
        [],
    ),
    "memory_unknown": (
        "535.261.03",
        f"NVML does not tell everything (memory of GPU 0: Unknown Error): {KERNEL_LOG}, then switch the machine off "
        "and on.",
        [{**GTX_750_TI, "vram_mib": None}],
    ),
    "version_mismatch": (
        None,
        "The loaded NVIDIA kernel module is not of the installed library's version (Driver/library version mismatch): "
        "reboot, or reload it.",
        [],
    ),
    "not_loaded": (
        None,
        "The NVIDIA kernel module is not loaded (Driver Not Loaded): run `modprobe nvidia`, or reboot after an "
        "installation.",
        [],
    ),
    "no_permission": (None, "NVML may not be used by this user (Insufficient Permissions): run with become.", []),
    "uninitialized": (None, f"NVML does not start (Uninitialized): {KERNEL_LOG}, then reboot.", []),
    "start_fails": (None, f"NVML does not start (Unknown Error): {KERNEL_LOG}, then reboot.", []),
    "crash": (None, f"NVML broke off (killed by SIGABRT): {KERNEL_LOG}, or install the driver again.", []),
}


@pytest.fixture(params=["PyPI", *RELEASES])
def pynvml(
    request: pytest.FixtureRequest,
    debian_package: Callable[[str, str], pathlib.Path],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The pynvml that the probe finds: nvidia-ml-py as installed here, or a Debian release's python3-pynvml."""
    if request.param != "PyPI":
        package = debian_package(request.param, "python3-pynvml") / "usr/lib/python3/dist-packages"
        assert (package / "pynvml.py").is_file()
        monkeypatch.setenv("PYTHONPATH", str(package))
    return str(request.param)


def use(monkeypatch: pytest.MonkeyPatch, library: pathlib.Path, machine: str = "gtx_750_ti") -> None:
    """Puts a library in front of the machine's own, and says what it is to show."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("NVML_MACHINE", str(HERE / "machines" / f"{machine}.txt"))


@pytest.mark.parametrize("machine", MACHINES)
def test_machine(machine: str, pynvml: str, stand_in: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, stand_in, machine)
    driver, problem, gpus = MACHINES[machine]
    if pynvml == "bullseye":
        # Version 7.352 has no call for the compute capability: the table knows it.
        gpus = [{**gpu, "compute_capability": None} for gpu in gpus]
    assert _nvml.probe(60) == {"source": "nvml", "problem": problem, "driver_version": driver, "gpus": gpus}


def test_every_machine_is_tested() -> None:
    hanging = {"hang_at_start", "hang_at_card"}
    assert {path.stem for path in (HERE / "machines").iterdir()} == {*MACHINES, *hanging}


@pytest.mark.parametrize("machine", ["hang_at_start", "hang_at_card"])
def test_a_driver_that_hangs_is_left_behind(
    machine: str, stand_in: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, stand_in, machine)
    # However long it takes to disappear.
    monkeypatch.setattr(_probe, "_GRACE", 20)
    started = time.monotonic()
    source = _nvml.probe(1)
    assert time.monotonic() - started < 30
    assert source["problem"] == f"NVML did not answer within 1 s: the driver hangs; {KERNEL_LOG}, then reboot."
    assert source["gpus"] == []


def test_a_library_older_than_pynvml(
    pynvml: str, build: Callable[..., pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, build("-DBEFORE_387"))
    source = _nvml.probe(60)
    if pynvml == "bullseye":
        assert (source["problem"], [gpu["pci_address"] for gpu in source["gpus"]]) == (None, ["0000:01:00.0"])
    else:
        assert source["problem"] == (
            f"The NVIDIA driver is too old for the pynvml of {sys.executable} (Function Not Found): "
            "install a pynvml of the driver's age."
        )


def test_without_the_library(pynvml: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An empty file stands in the way of a library that this machine may have.
    (tmp_path / "libnvidia-ml.so.1").touch()
    use(monkeypatch, tmp_path)
    assert _nvml.probe(60)["problem"] == (
        "NVML's library libnvidia-ml.so.1 is missing (NVML Shared Library Not Found): install the NVIDIA driver."
    )


def test_without_pynvml(tmp_path: pathlib.Path, stand_in: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True, timeout=60)
    use(monkeypatch, stand_in)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    assert _nvml.probe(60)["problem"] == (
        f"NVML cannot be asked, because {tmp_path}/bare/bin/python has no pynvml (No module named 'pynvml'): "
        "install python3-pynvml from Debian's contrib, or nvidia-ml-py."
    )


@pytest.mark.parametrize("release", RELEASES)
def test_debians_own_library(
    release: str, pynvml: str, debian_package: Callable[[str, str], pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, debian_package(release, "libnvidia-ml1") / "usr/lib/x86_64-linux-gnu/nvidia/current")
    # A machine that has a driver loaded has it in another version than this file, or in the same.
    expected = MACHINES["version_mismatch" if pathlib.Path("/sys/module/nvidia").exists() else "not_loaded"][1]
    source = _nvml.probe(60)
    assert (source["problem"], source["gpus"]) == (expected, [])


@pytest.mark.parametrize("release", RELEASES)
def test_the_stand_in_is_like_debians_library(
    release: str, stand_in: pathlib.Path, debian_package: Callable[[str, str], pathlib.Path]
) -> None:
    folder = debian_package(release, "libnvidia-ml1") / "usr/lib/x86_64-linux-gnu/nvidia/current"
    ours, real = (ctypes.CDLL(str(path / "libnvidia-ml.so.1")) for path in (stand_in, folder))
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", "--format=posix", stand_in / "libnvidia-ml.so.1"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    exported = [line.split()[0] for line in symbols.stdout.splitlines() if line.startswith("nvml")]
    assert len(exported) == 13
    assert [name for name in exported if not hasattr(real, name)] == []
    told = []
    for library in (ours, real):
        library.nvmlErrorString.restype = ctypes.c_char_p
        told.append([library.nvmlErrorString(code) for code in (0, 1, 2, 3, 4, 7, 8, 9, 13, 15, 16, 18, 999)])
        # Before the start every call is refused.
        told[-1] += [library.nvmlDeviceGetName(None, None, 0), library.nvmlDeviceGetCount_v2(None)]
    assert told[0] == told[1]
