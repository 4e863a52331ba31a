"""The PCI bus as sysfs shows it, in small trees, with an excerpt of the real pci.ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _pci
from pci_tree import PCI_IDS, add_device, make_tree

GTX_750_TI = "0000:01:00.0"


def test_a_card_without_a_driver(tmp_path: Path) -> None:
    add_device(make_tree(tmp_path), GTX_750_TI, "10de:1380")
    source, others = _pci.probe(str(tmp_path))
    assert source == {
        "source": "pci",
        "problem": None,
        "driver_version": None,
        "gpus": [
            {
                "index": None,
                "pci_address": "0000:01:00.0",
                "pci_id": "10de:1380",
                "name": None,
                "uuid": None,
                "compute_capability": None,
                "vram_mib": None,
                "bound_driver": "none",
            }
        ],
    }
    assert others == []


@pytest.mark.parametrize("driver", ["nvidia", "nouveau", "vfio-pci"])
def test_the_driver_that_has_the_card(tmp_path: Path, driver: str) -> None:
    add_device(make_tree(tmp_path), GTX_750_TI, "10de:1380", driver=driver)
    source, _others = _pci.probe(str(tmp_path))
    assert [gpu["bound_driver"] for gpu in source["gpus"]] == [driver]


def test_the_version_of_the_loaded_driver(tmp_path: Path) -> None:
    make_tree(tmp_path, nvidia="535.261.03")
    assert _pci.probe(str(tmp_path))[0]["driver_version"] == "535.261.03"


def test_every_class_of_display_controller_counts_and_nothing_else(tmp_path: Path) -> None:
    make_tree(tmp_path)
    for slot, class_ in enumerate(("0x030000", "0x030200", "0x038000", "0x040300", "0x0c0330", "0x068000", "0x050000")):
        add_device(tmp_path, f"0000:0{slot}:00.0", "10de:1cbc", class_=class_)
    source, _others = _pci.probe(str(tmp_path))
    assert [gpu["pci_address"] for gpu in source["gpus"]] == ["0000:00:00.0", "0000:01:00.0", "0000:02:00.0"]


def test_cards_of_others_are_apart(tmp_path: Path) -> None:
    make_tree(tmp_path)
    add_device(tmp_path, "0000:00:02.0", "8086:0152")
    add_device(tmp_path, "0000:01:00.0", "10de:1cbc", class_="0x030200")
    add_device(tmp_path, "0000:0a:00.0", "1002:67df")
    source, others = _pci.probe(str(tmp_path))
    assert [gpu["pci_id"] for gpu in source["gpus"]] == ["10de:1cbc"]
    assert [(other["pci_address"], other["pci_id"]) for other in others] == [
        ("0000:00:02.0", "8086:0152"),
        ("0000:0a:00.0", "1002:67df"),
    ]


def test_the_order_is_that_of_the_bus(tmp_path: Path) -> None:
    make_tree(tmp_path)
    for address in ("10000:01:00.0", "0000:81:00.0", "0000:0a:00.0", "0001:01:00.0"):
        add_device(tmp_path, address, "10de:1380")
    source, _others = _pci.probe(str(tmp_path))
    assert [gpu["pci_address"] for gpu in source["gpus"]] == [
        "0000:0a:00.0",
        "0000:81:00.0",
        "0001:01:00.0",
        "10000:01:00.0",
    ]


def test_a_slice_of_a_card_is_no_card(tmp_path: Path) -> None:
    make_tree(tmp_path)
    card = add_device(tmp_path, "0000:01:00.0", "10de:2231", driver="nvidia")
    slice_ = add_device(tmp_path, "0000:01:00.4", "10de:2231")
    (slice_ / "physfn").symlink_to(card)
    source, _others = _pci.probe(str(tmp_path))
    assert [gpu["pci_address"] for gpu in source["gpus"]] == ["0000:01:00.0"]


def test_no_pci_bus(tmp_path: Path) -> None:
    source, others = _pci.probe(str(tmp_path))
    assert source["problem"] == (
        f"There is no {tmp_path}/bus/pci/devices: this host has no PCI bus, or its sysfs is mounted elsewhere."
    )
    assert (source["gpus"], others) == ([], [])


def test_an_empty_bus(tmp_path: Path) -> None:
    source, _others = _pci.probe(str(make_tree(tmp_path)))
    assert (source["gpus"], source["problem"]) == ([], None)


def test_a_bus_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bus/pci").mkdir(parents=True)
    (tmp_path / "bus/pci/devices").write_text("")
    source, _others = _pci.probe(str(tmp_path))
    assert source["problem"] == (
        f"{tmp_path}/bus/pci/devices cannot be read (Not a directory): let this user read it, or run with become."
    )


@pytest.mark.parametrize("name", ["class", "vendor", "device"])
def test_a_device_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, name: str) -> None:
    make_tree(tmp_path)
    add_device(tmp_path, "0000:02:00.0", "10de:1cb2")
    broken = add_device(tmp_path, GTX_750_TI, "10de:1380")
    (broken / name).unlink()
    # Reading the start of its own memory is an input/output error for everyone, root included.
    (broken / name).symlink_to("/proc/self/mem")
    source, _others = _pci.probe(str(tmp_path))
    assert [gpu["pci_id"] for gpu in source["gpus"]] == ["10de:1cb2"]
    assert source["problem"] == (
        f"{GTX_750_TI} in {tmp_path}/bus/pci/devices cannot be read: look there why, or run with become."
    )


def test_a_driver_link_that_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    card = add_device(make_tree(tmp_path), GTX_750_TI, "10de:1380")
    (card / "driver").write_text("")
    source, _others = _pci.probe(str(tmp_path))
    assert [gpu["bound_driver"] for gpu in source["gpus"]] == [None]


# Names


@pytest.fixture
def pci_ids(tmp_path: Path) -> str:
    path = tmp_path / "pci.ids"
    path.write_text(PCI_IDS, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("pci_id", "name"),
    [
        ("10de:1380", "GM107 [GeForce GTX 750 Ti]"),
        ("10de:1cbc", "GP107GLM [Quadro P600 Mobile]"),
        ("10de:2330", "GH100[H100 SXM5 80GB]"),
        ("1002:67df", "Ellesmere [Radeon RX 470/480/570/570X/580/580X/590]"),
        # The last of the last vendor, before the classes of devices.
        ("8086:0152", "Xeon E3-1200 v2/3rd Gen Core processor Graphics Controller"),
    ],
)
def test_names(pci_ids: str, pci_id: str, name: str) -> None:
    assert _pci.read_names([pci_id], pci_ids) == ({pci_id: name}, None)


@pytest.mark.parametrize(
    "pci_id",
    [
        "10de:ffff",
        # The subsystem of a card, a class of devices, and what is text and not a pattern.
        "10de:118b",
        "10de:00",
        "10de:....",
    ],
)
def test_a_card_that_is_not_in_pci_ids_has_no_name(pci_ids: str, pci_id: str) -> None:
    # Debian 11 has a pci.ids of 2021, and the cards of that year are not in it.
    problem = f"{pci_ids} does not know {pci_id}: get a newer one with update-pciids."
    assert _pci.read_names(["10de:1380", pci_id], pci_ids) == ({"10de:1380": "GM107 [GeForce GTX 750 Ti]"}, problem)


def test_the_cards_of_others_need_no_name(pci_ids: str) -> None:
    assert _pci.read_names(["1002:1380", "ffff:1380"], pci_ids) == ({}, None)


def test_no_pci_ids(tmp_path: Path) -> None:
    path = str(tmp_path / "pci.ids")
    assert _pci.read_names(["10de:1380"], path) == (
        None,
        f"There is no {path} to name the chips: install the package pci.ids.",
    )


def test_pci_ids_that_cannot_be_read(tmp_path: Path) -> None:
    assert _pci.read_names(["10de:1380"], str(tmp_path)) == (
        None,
        f"{tmp_path} cannot be read (Is a directory): let this user read it, or set pci_ids_path.",
    )


@pytest.mark.parametrize("content", ["", "<html>not found</html>\n", "8086  Intel Corporation\n\t0152  Graphics\n"])
def test_a_file_that_is_no_pci_ids(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pci.ids"
    path.write_text(content)
    assert _pci.read_names(["10de:1380"], str(path)) == (
        None,
        f"{path} names no NVIDIA chip: install the package pci.ids again.",
    )


def test_the_first_vendor_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "pci.ids"
    path.write_bytes(b"10de  NVIDIA Corporation\n\t1380  GM107 [\xff]\n")
    assert _pci.read_names(["10de:1380"], str(path)) == ({"10de:1380": "GM107 [\N{REPLACEMENT CHARACTER}]"}, None)
