"""The whole module: made-up machines, the real pynvml on NVML's stand-in, and the pci.ids of each Debian release."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pci_tree import add_device, make_tree

ROOT = Path(__file__).resolve().parents[3]
COLLECTIONS = ROOT / "playbooks/collections"
NVML = ROOT / "tests/gpu/nvml"
MODULE = "ansible_collections.secondhand.diffusion.plugins.modules.gpu_fp16_info"

# The machine as NVML tells it, its cards as the bus shows them, and chip, capability and decision.
CARDS = [
    ("gtx_750_ti", [("0000:01:00.0", "10de:1380")], ["GM107"], ["5.0"], ("gpu", "gpu_lowvram", 0)),
    ("quadro_p600", [("0000:03:00.0", "10de:1cb2")], ["GP107"], ["6.1"], ("gpu", "gpu_lowvram", 0)),
    (
        "tesla_k80",
        [("0000:84:00.0", "10de:102d"), ("0000:85:00.0", "10de:102d")],
        ["GK210", "GK210"],
        ["3.7", "3.7"],
        ("cpu", "cpu", None),
    ),
    ("gtx_1660_super", [("0000:0a:00.0", "10de:21c4")], ["TU116"], ["7.5"], ("gpu", "gpu_medvram", 0)),
    (
        "two_cards",
        [("0000:01:00.0", "10de:1380"), ("10000:e1:00.0", "10de:2504")],
        ["GM107", "GA106"],
        ["5.0", "8.6"],
        ("gpu", "gpu_full", 1),
    ),
]
CASES = [
    pytest.param(release, *machine, id=f"{release}-{machine[0]}")
    for release in ("bullseye", "bookworm", "trixie")
    for machine in CARDS
    # The RTX 3060 is newer than the pci.ids of Debian 11: see below.
    if (release, machine[0]) != ("bullseye", "two_cards")
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    command: list[str | Path] = ["gcc", "-std=gnu11", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1"]
    command.append(NVML / "nvml.c")
    subprocess.run(command, check=True, timeout=60)
    return folder


def machine_of(library: Path, name: str, cards: list[tuple[str, str]], sysfs: Path) -> dict[str, str]:
    """Puts the cards on the bus, and gives the environment in which NVML tells of them."""
    make_tree(sysfs, nvidia="1.2.3")
    for address, pci_id in cards:
        add_device(sysfs, address, pci_id, driver="nvidia")
    return {"LD_LIBRARY_PATH": str(library), "NVML_MACHINE": str(NVML / "machines" / f"{name}.txt")}


def run(options: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-B", "-m", MODULE],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {**options, "_ansible_remote_tmp": "/tmp"}}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(COLLECTIONS), *sys.path]), **environment},
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(("release", "name", "cards", "chips", "capabilities", "decision"), CASES)
def test_library_and_bus_are_the_same_cards(
    debian_package: Callable[[str, str], Path],
    library: Path,
    tmp_path: Path,
    release: str,
    name: str,
    cards: list[tuple[str, str]],
    chips: list[str],
    capabilities: list[str],
    decision: tuple[str, str, int | None],
) -> None:
    environment = machine_of(library, name, cards, tmp_path)
    pci_ids = debian_package(release, "pci.ids") / "usr/share/misc/pci.ids"
    options: dict[str, Any] = {"sysfs_path": str(tmp_path), "pci_ids_path": str(pci_ids), "debian_release": "12"}
    answer = run({**options, "sources": ["nvml", "pci"]}, environment)
    assert [source["problem"] for source in answer["sources"]] == [None, None]
    assert [gpu["pci_address"] for gpu in answer["gpus"]] == [address for address, _pci_id in cards]
    assert [gpu["chip"] for gpu in answer["gpus"]] == chips
    assert [gpu["compute_capability"] for gpu in answer["gpus"]] == capabilities
    assert [gpu["index"] for gpu in answer["gpus"]] == list(range(len(cards)))
    for gpu in answer["gpus"]:
        told = {key: gpu["from"][key] for key in ("vram_mib", "compute_capability", "driver_version", "chip")}
        assert told == {
            "vram_mib": "nvml",
            "compute_capability": "nvml",
            "driver_version": "nvml",
            "chip": "pci_ids",
        }
    assert (answer["device"], answer["profile"], answer["gpu_index"]) == decision
    # Before the driver runs, the bus alone leads to the same rows.
    cold = run({**options, "sources": ["pci"]}, environment)
    assert [gpu["compute_capability"] for gpu in cold["gpus"]] == capabilities
    assert [gpu["fp16"] for gpu in cold["gpus"]] == [gpu["fp16"] for gpu in answer["gpus"]]
    assert cold["device"] == decision[0]


def test_a_card_that_is_newer_than_pci_ids(
    debian_package: Callable[[str, str], Path], library: Path, tmp_path: Path
) -> None:
    environment = machine_of(
        library, "two_cards", [("0000:01:00.0", "10de:1380"), ("10000:e1:00.0", "10de:2504")], tmp_path
    )
    pci_ids = debian_package("bullseye", "pci.ids") / "usr/share/misc/pci.ids"
    options: dict[str, Any] = {"sysfs_path": str(tmp_path), "pci_ids_path": str(pci_ids), "debian_release": "11"}
    cold = run({**options, "sources": ["pci"]}, environment)
    assert cold["gpu_index"] == 0
    assert f"{pci_ids} does not know 10de:2504: get a newer one with update-pciids." in cold["reasons"]
    # With its driver it says itself what it can do.
    answer = run({**options, "sources": ["nvml", "pci"]}, environment)
    assert answer["gpu_index"] == 1
    assert (answer["gpus"][1]["chip"], answer["gpus"][1]["architecture"]) == (None, "Ampere")
    assert not any("update-pciids" in reason for reason in answer["reasons"])


def test_as_ansible_packs_it(debian_package: Callable[[str, str], Path], library: Path, tmp_path: Path) -> None:
    """From an archive, in which the scripts for the other processes must be found as well."""
    environment = machine_of(library, "gtx_750_ti", [("0000:01:00.0", "10de:1380")], tmp_path)
    pci_ids = debian_package("bookworm", "pci.ids") / "usr/share/misc/pci.ids"
    options = {"sysfs_path": str(tmp_path), "pci_ids_path": str(pci_ids), "probe_python": sys.executable}
    done = subprocess.run(
        ["ansible", "localhost", "-m", "secondhand.diffusion.gpu_fp16_info", "-a", json.dumps(options)],
        env={
            **os.environ,
            **environment,
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
            "ANSIBLE_NOCOLOR": "1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    result, _arrow, text = done.stdout.partition(" => ")
    assert result == "localhost | SUCCESS"
    answer = json.loads(text)
    (gpu,) = answer["gpus"]
    assert (gpu["source"], gpu["chip"], gpu["vram_mib"], answer["changed"]) == ("nvml", "GM107", 1999, False)
    # The interpreter of the tests has no PyTorch, and its own process says so.
    assert "has no PyTorch" in answer["torch_probe"]["problem"]
