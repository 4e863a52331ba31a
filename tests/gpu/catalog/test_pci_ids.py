"""Every NVIDIA GPU that Debian's pci.ids names has its row in the hardware table."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _gpu_catalog as catalog

RELEASES = ("11", "12", "13")

# pci.ids has no device class. What is not a display or 3D controller is named by its function.
FUNCTION = re.compile(
    r"\b(?:audio|bridge|controll?er|co-?processor|endpoint|ethernet|ide|mci|memory|modem|nvswitch|pmu|root complex"
    r"|sata|smbus|smu|switch|system management|usb)\b",
    re.IGNORECASE,
)

# GPUs by this rule that have no row, and why not.
UNRESOLVED = {
    "10de:01e0": "nForce2 IGP2: the chipset's host bridge; its graphics is 10de:01f0, NV1F",
    "10de:01e8": "nForce2 AGP: the chipset's bridge to the AGP slot",
    "10de:0fa0": "GK11x_FPGA: a chip under development, emulated; it stands for GK110 and for GK210",
    "10de:0fa5": "GK11x: the same",
    "10de:0fa7": "GK11x, Tegra on x86: the same",
    "10de:2c2c": "GB6-256(N22W-ES-A1): an engineering sample without the name of its chip",
    "10de:2d2c": "GB6-128 (N22Y-ES-A1): an engineering sample without the name of its chip",
    "10de:3340": "GB120: a chip of which nothing but this line was found",
    "12d2:0009": "DAC64: the video output chip next to NV1",
}

# In the table and in no pci.ids: Tegras, the first chipset's graphics (found by its id), and a B300 that only the open
# module's sources name.
NOT_ON_PCI = {"GK20A", "GM20B", "GP10B", "GV11B", "GA10B", "GB10B", "GB112", "NV1A"}


def is_gpu(name: str) -> bool:
    return not FUNCTION.search(name)


@pytest.mark.parametrize("release", RELEASES)
def test_every_gpu_has_a_row(release: str, pci_names: Callable[[str], dict[str, str]]) -> None:
    names = pci_names(release)
    gpus = {pci_id: name for pci_id, name in names.items() if is_gpu(name)}
    assert len(gpus) > 1000
    missing = {pci_id: name for pci_id, name in gpus.items() if catalog.row_of_device(pci_id, name) is None}
    assert {pci_id: name for pci_id, name in missing.items() if pci_id not in UNRESOLVED} == {}
    assert [pci_id for pci_id in UNRESOLVED if pci_id in names and pci_id not in missing] == []


def test_no_exception_is_stale(pci_names: Callable[[str], dict[str, str]]) -> None:
    named = {pci_id for release in RELEASES for pci_id in pci_names(release)}
    assert set(UNRESOLVED) - named == set()
    assert set(catalog._DEVICES) - named == set()
    chips = {catalog.chip_of(name) for release in RELEASES for name in pci_names(release).values()}
    assert {chip for row in catalog.TABLE for chip in row.chips} - chips == NOT_ON_PCI


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_else_has_a_row(release: str, pci_names: Callable[[str], dict[str, str]]) -> None:
    others = {pci_id: name for pci_id, name in pci_names(release).items() if not is_gpu(name)}
    assert len(others) > 400
    wrong = {pci_id: name for pci_id, name in others.items() if catalog.row_of_device(pci_id, name) is not None}
    assert wrong == {}


@pytest.mark.parametrize("release", RELEASES)
def test_the_rule_misses_no_gpu(
    release: str, pci_names: Callable[[str], dict[str, str]], debian_package: Callable[[str, str], pathlib.Path]
) -> None:
    """Every device in the lists of nvidia-detect is a GPU."""
    names, checked = pci_names(release), 0
    files = debian_package({"11": "bullseye", "12": "bookworm", "13": "trixie"}[release], "nvidia-detect")
    for path in (files / "usr/share/nvidia").glob("*.ids"):
        for line in path.read_text(encoding="ascii").lower().split():
            name = names.get(f"{line[:4]}:{line[4:]}", "")
            assert is_gpu(name), f"{line} {name}"
            checked += bool(name)
    assert checked > 3000


def test_tu116_and_tu117_have_their_pci_ids_to_themselves(pci_names: Callable[[str], dict[str, str]]) -> None:
    for pci_id, name in pci_names("13").items():
        if is_gpu(name) and pci_id.startswith("10de:"):
            inside = pci_id in catalog._GTX_16_IDS
            assert inside == (catalog.chip_of(name) in ("TU116", "TU117")), f"{pci_id} {name}"


def test_a_gtx_16xx_is_recognised_by_every_way(pci_names: Callable[[str], dict[str, str]]) -> None:
    """Its FP16 is broken whatever source tells of it: the PCI id with pci.ids, or the driver with name or id."""
    checked = 0
    for pci_id, name in pci_names("13").items():
        row = catalog.row_of_device(pci_id, name)
        if row is None or row.compute_capability != "7.5":
            continue
        product = re.search(r"\[(.*)\]", name)
        if product:
            assert catalog.row_of_compute_capability("7.5", product[1]) is row, f"{pci_id} {name}"
            checked += 1
        assert catalog.row_of_compute_capability("7.5", product[1] if product else "", pci_id) is row, (
            f"{pci_id} {name}"
        )
    assert checked > 90
