"""One card out of several sources, and what the hardware table adds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _gpu_merge
from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import Gpu, Source

NAMES = {
    "10de:1380": "GM107 [GeForce GTX 750 Ti]",
    "10de:1cb2": "GP107GL [Quadro P600]",
    "10de:21c4": "TU116 [GeForce GTX 1660 SUPER]",
    "10de:1f0a": "TU106 [GeForce GTX 1650]",
    "10de:102d": "GK210GL [Tesla K80]",
    "10de:3fff": "GX999 [GeForce RTX 9090]",
    "10de:3ffe": "Graphics Device",
}
ADDRESS = "0000:01:00.0"


def card(address: str = ADDRESS, **values: Any) -> Gpu:
    gpu: Any = {
        "index": None,
        "pci_address": address,
        "pci_id": None,
        "name": None,
        "uuid": None,
        "compute_capability": None,
        "vram_mib": None,
        "bound_driver": None,
        **values,
    }
    entry: Gpu = gpu
    return entry


def source(name: str, *gpus: Gpu, driver_version: str | None = None) -> Source:
    return {"source": name, "problem": None, "driver_version": driver_version, "gpus": list(gpus)}


def merge_one(*sources: Source, names: dict[str, str] | None = None) -> dict[str, Any]:
    (gpu,) = _gpu_merge.merge(sources, NAMES if names is None else names)
    return gpu


def test_nothing() -> None:
    assert _gpu_merge.merge([], {}) == []
    assert _gpu_merge.merge([source("nvml"), source("pci")], NAMES) == []


def test_a_card_that_only_the_bus_shows() -> None:
    gpu = merge_one(source("pci", card(pci_id="10de:1380", bound_driver="none")))
    assert gpu == {
        "index": 0,
        "name": "GeForce GTX 750 Ti",
        "uuid": None,
        "pci_address": ADDRESS,
        "pci_id": "10de:1380",
        "chip": "GM107",
        "architecture": "Maxwell",
        "compute_capability": "5.0",
        "vram_mib": None,
        "driver_version": None,
        "bound_driver": "none",
        "source": "pci",
        "fp16": {
            "storage": True,
            "arithmetic": False,
            "rate_vs_fp32": None,
            "tensor_cores": False,
            "bf16": False,
            "known_broken": False,
            "reason": gpu["fp16"]["reason"],
        },
        "driver": {"last_branch": 580, "open_module": "unsupported"},
        "torch": {"supported": True, "last_version": "2.14", "last_cuda": "12.9"},
        "from": {
            "index": "pci",
            "name": "pci_ids",
            "pci_id": "pci",
            "chip": "pci_ids",
            "architecture": "table",
            "compute_capability": "table",
            "bound_driver": "pci",
            "fp16": "table",
            "driver": "table",
            "torch": "table",
        },
    }
    assert "FP16" in gpu["fp16"]["reason"]


SEEN = {
    "nvml": card(index=0, name="by nvml", uuid="GPU-n", vram_mib=1999),
    "nvidia_smi": card(index=1, name="by smi", uuid="GPU-s", vram_mib=2000, compute_capability="5.0"),
    "pci": card(pci_id="10de:1380", bound_driver="nvidia"),
}


@pytest.mark.parametrize("order", list(itertools.permutations([0, 1, 2])))
def test_the_first_source_that_knows_a_value_is_believed(order: tuple[int, ...]) -> None:
    names = [list(SEEN)[place] for place in order]
    versions = {"nvml": "1", "nvidia_smi": "2", "pci": "3"}
    gpu = merge_one(*(source(name, SEEN[name], driver_version=versions[name]) for name in names))
    tellers = [name for name in names if name != "pci"]
    assert gpu["source"] == names[0]
    assert (gpu["from"]["driver_version"], gpu["driver_version"]) == (names[0], versions[names[0]])
    for key in ("index", "name", "uuid", "vram_mib"):
        assert gpu["from"][key] == tellers[0]
        assert gpu[key] == dict(SEEN[tellers[0]])[key]
    # Only one of them told these.
    assert (gpu["from"]["compute_capability"], gpu["from"]["pci_id"]) == ("nvidia_smi", "pci")


def test_the_cards_are_matched_by_address_and_in_its_order() -> None:
    gpus = _gpu_merge.merge(
        [
            source(
                "nvml",
                card("0000:81:00.0", index=1, name="b"),
                card("0000:0a:00.0", index=0, name="a"),
                driver_version="535.261.03",
            ),
            source(
                "pci",
                card("0000:0a:00.0", bound_driver="nvidia"),
                card("0000:81:00.0", bound_driver="nvidia"),
                card("10000:01:00.0", bound_driver="vfio-pci"),
            ),
        ],
        {},
    )
    assert [(gpu["pci_address"], gpu["index"], gpu["name"], gpu["source"]) for gpu in gpus] == [
        ("0000:0a:00.0", 0, "a", "nvml"),
        ("0000:81:00.0", 1, "b", "nvml"),
        # The driver does not count it, so it has no number; with one it could be taken for another.
        ("10000:01:00.0", None, None, "pci"),
    ]
    assert [gpu["driver_version"] for gpu in gpus] == ["535.261.03", "535.261.03", None]


def test_without_a_driver_the_cards_are_counted_along_the_bus() -> None:
    gpus = _gpu_merge.merge([source("pci", card("0000:81:00.0"), card("0000:0a:00.0"))], {})
    assert [(gpu["pci_address"], gpu["index"], gpu["from"]["index"]) for gpu in gpus] == [
        ("0000:0a:00.0", 0, "pci"),
        ("0000:81:00.0", 1, "pci"),
    ]


def test_the_version_of_a_driver_is_not_that_of_a_card_of_another_driver() -> None:
    seen = source("pci", card(bound_driver="nouveau"), driver_version="535.261.03")
    assert merge_one(seen)["driver_version"] is None


def test_a_driver_alone_tells_enough() -> None:
    gpu = merge_one(source("nvidia_smi", card(name="NVIDIA GeForce GTX 750 Ti", compute_capability="5.0")), names={})
    assert (gpu["chip"], gpu["architecture"], gpu["fp16"]["storage"]) == (None, "Maxwell", True)
    assert "chip" not in gpu["from"]
    assert gpu["from"]["compute_capability"] == "nvidia_smi"


@pytest.mark.parametrize(
    ("name", "pci_id", "broken"),
    [
        ("NVIDIA GeForce GTX 1660 SUPER", "10de:21c4", True),
        ("NVIDIA GeForce GTX 1660 SUPER", None, True),
        ("NVIDIA T1000", None, True),
        ("NVIDIA GeForce RTX 2070", None, False),
        ("NVIDIA GeForce RTX 2070", "10de:1f07", False),
    ],
)
def test_both_kinds_of_7_5(name: str, pci_id: str | None, broken: bool) -> None:
    seen = source("nvml", card(name=name, pci_id=pci_id, compute_capability="7.5"))
    assert merge_one(seen, names={})["fp16"]["known_broken"] is broken


def test_a_gtx_1650_on_the_chip_of_an_rtx() -> None:
    gpu = merge_one(source("pci", card(pci_id="10de:1f0a", bound_driver="none")))
    assert gpu["fp16"]["known_broken"] is True
    assert gpu["chip"] == "TU106"


def test_a_card_that_pytorch_was_never_built_for() -> None:
    gpu = merge_one(source("pci", card(pci_id="10de:0191")), names={"10de:0191": "G80 [GeForce 8800 GTX]"})
    assert gpu["torch"] == {"supported": False, "last_version": None, "last_cuda": gpu["torch"]["last_cuda"]}


def test_what_the_card_itself_says_counts_more_than_its_name() -> None:
    gpu = merge_one(source("nvml", card(pci_id="10de:102d", compute_capability="6.1")))
    assert (gpu["compute_capability"], gpu["architecture"], gpu["chip"]) == ("6.1", "Pascal", None)


@pytest.mark.parametrize(
    ("pci_id", "words"),
    [
        ("10de:3fff", "unknown chip 10de:3fff (GX999 [GeForce RTX 9090]), not in the table"),
        ("10de:3ffe", "unknown chip 10de:3ffe (Graphics Device), not in the table"),
        ("10de:fffe", "unknown chip 10de:fffe, not in the table"),
        (None, "unknown chip without an id, not in the table"),
    ],
)
def test_an_unknown_chip_is_not_guessed(pci_id: str | None, words: str) -> None:
    gpu = merge_one(source("pci", card(pci_id=pci_id, bound_driver="none")))
    assert gpu["fp16"].pop("reason") == words
    assert set(gpu["fp16"].values()) == {None}
    assert (gpu["architecture"], gpu["compute_capability"]) == (None, None)
    assert gpu["driver"] == {"last_branch": None, "open_module": None}
    assert gpu["torch"] == {"supported": None, "last_version": None, "last_cuda": None}
    assert "table" not in gpu["from"].values()


def test_an_unknown_compute_capability_is_not_guessed() -> None:
    gpu = merge_one(source("nvml", card(name="NVIDIA RTX 9090", compute_capability="99.0")))
    assert (gpu["architecture"], gpu["compute_capability"], gpu["from"]["compute_capability"]) == (None, "99.0", "nvml")
    assert gpu["fp16"]["reason"].startswith("unknown chip")


def test_every_value_says_where_it_comes_from() -> None:
    seen = [source(name, gpu, driver_version="535.261.03") for name, gpu in SEEN.items()]
    gpu = merge_one(*seen)
    told = {key for key, value in gpu.items() if value is not None} - {"from", "source", "pci_address"}
    assert set(gpu["from"]) == told
