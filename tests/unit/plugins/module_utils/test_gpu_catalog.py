"""The hardware table agrees with itself, and its look-ups find the right row."""

from __future__ import annotations

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _gpu_catalog as catalog

CHIPS = {
    "GM107 [GeForce GTX 750 Ti]": ("GM107", "maxwell_1"),
    "GM108M [GeForce 940M]": ("GM108", "maxwell_1"),
    "GP107GLM [Quadro P600 Mobile]": ("GP107", "pascal_6_1"),
    "GK208BM [GeForce 920M]": ("GK208", "kepler_3_5"),
    "GK110BGL [Tesla K40m]": ("GK110", "kepler_3_5"),
    "GK210GL [Tesla K80]": ("GK210", "kepler_3_7"),
    "GK20A": ("GK20A", "kepler_3_2"),
    "TU117M": ("TU117", "turing_16xx"),
    "TU106 [GeForce RTX 2060 Rev. A]": ("TU106", "turing"),
    "GA102GL [RTX A6000]": ("GA102", "ampere_8_6"),
    "GA107BM / GN20-P0-R-K2 [GeForce RTX 3050 6GB Laptop GPU]": ("GA107", "ampere_8_6"),
    "AD104GLM [RTX 3500 Ada Generation Laptop GPU]": ("AD104", "ada"),
    # The space is missing in pci.ids.
    "GH100[H100 SXM5 80GB]": ("GH100", "hopper"),
    "GB202GL [RTX PRO 6000 Blackwell Workstation Edition]": ("GB202", "blackwell_12_0"),
    "GB20B": ("GB20B", "blackwell_12_1"),
    "GV100 Engineering Sample": ("GV100", "volta"),
    "GT218M [GeForce 310M]": ("GT218", "tesla_1_2"),
    "GT200b [GeForce GTX 275]": ("GT200", "tesla_1_3"),
    "G96CM [GeForce 9650M GT]": ("G96", "tesla_1_1"),
    "C79 [GeForce 9400M]": ("C79", "tesla_1_1"),
    "C51PV [GeForce 6150]": ("C51", "curie"),
    "NV44A [GeForce 6200]": ("NV44", "curie"),
    "G72M [Quadro NVS 110M/GeForce Go 7300]": ("G72", "curie"),
    "G70/G71 [GeForce 7800 GS AGP]": ("G70", "curie"),
    "NV1F C17 [GeForce4 MX IGP]": ("NV1F", "celsius"),
    "NV1 [STG2000X-B Series]": ("NV1", "nv1"),
}

# GPUs of no row, by the name under which their user is told so.
UNKNOWN = {"GR102 [GeForce RTX 9090]": "GR102", "GR102GLM": "GR102", "GB120": "GB120", "MCP61": "MCP61"}

NOT_GPUS = (
    "GP107GL High Definition Audio Controller",
    "GM107 High Definition Audio Controller [GeForce 940MX]",
    "TU104 USB Type-C UCSI Controller",
    "GH100 [H100 NVSwitch]",
    "MCP78S [GeForce 8200] SMBus",
    "NF200 PCIe 2.0 switch",
    "nForce2 ISA Bridge",
    "GeForce GTX 750 Ti",
    "",
)


@pytest.mark.parametrize("name", CHIPS)
def test_a_gpu_is_found_by_its_name_in_pci_ids(name: str) -> None:
    chip, family = CHIPS[name]
    assert catalog.chip_of(name) == chip
    row = catalog.row_of_device("10de:ffff", name)
    assert row is not None and row.family == family
    assert catalog.row_of_chip(chip) is row and catalog.row_of_chip(name.split("[")[0].split("/")[0].strip()) is row


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_chip_has_a_name_and_no_row(name: str) -> None:
    assert catalog.chip_of(name) == UNKNOWN[name]
    assert catalog.row_of_device("10de:ffff", name) is None


@pytest.mark.parametrize("name", NOT_GPUS)
def test_what_is_no_gpu_has_neither(name: str) -> None:
    assert catalog.chip_of(name) is None
    assert catalog.row_of_device("10de:ffff", name) is None


@pytest.mark.parametrize(
    ("pci_id", "name", "family"),
    [
        ("10de:0ff2", "GK107GL [GRID K1]", "kepler_grid"),
        ("10DE:0FF2", "GK107GL [GRID K1]", "kepler_grid"),
        ("10de:2717", "GN21-X11 [GeForce RTX 4090 Laptop GPU]", "ada"),
        ("10de:01a0", "nForce 220/420 NV1A [GeForce2 MX]", "celsius"),
        ("12d2:0020", "TNT", "riva"),
        # Made of a bigger chip, tensor cores off.
        ("10de:1f0a", "TU106 [GeForce GTX 1650]", "turing_16xx"),
    ],
)
def test_an_exception_goes_before_the_chip(pci_id: str, name: str, family: str) -> None:
    row = catalog.row_of_device(pci_id, name)
    assert row is not None and row.family == family


@pytest.mark.parametrize(
    ("capability", "name", "pci_id", "family"),
    [
        ("5.0", "", "", "maxwell_1"),
        ("6.1", "Quadro P600", "10de:1cb2", "pascal_6_1"),
        ("3.0", "GRID K2", "10de:11bf", "kepler_grid"),
        ("3.0", "GeForce GTX 670", "10de:1189", "kepler_3_0"),
        ("7.5", "NVIDIA GeForce GTX 1660 SUPER", "", "turing_16xx"),
        ("7.5", "NVIDIA GeForce GTX 1650 with Max-Q Design", "", "turing_16xx"),
        ("7.5", "NVIDIA T400 4GB", "", "turing_16xx"),
        ("7.5", "Quadro T1000", "", "turing_16xx"),
        ("7.5", "NVIDIA GeForce MX450", "", "turing_16xx"),
        ("7.5", "Graphics Device", "10de:1f91", "turing_16xx"),
        ("7.5", "Tesla T4", "", "turing"),
        ("7.5", "Quadro RTX 4000", "10de:1eb1", "turing"),
        ("7.5", "NVIDIA GeForce RTX 2060", "", "turing"),
        # What is not known is not guessed.
        ("7.5", "", "", None),
        ("7.7", "NVIDIA GeForce RTX 9090", "", None),
        ("", "", "", None),
    ],
)
def test_the_driver_tells_the_row(capability: str, name: str, pci_id: str, family: str | None) -> None:
    row = catalog.row_of_compute_capability(capability, name, pci_id)
    assert (row.family if row else None) == family


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (("6.0",), "6.1", True),
        (("6.1",), "6.0", False),
        (("5.0", "7.0"), "6.1", False),
        (("5.0",), "5.2", True),
        (("8.0", "8.6"), "8.9", True),
        (("10.0",), "10.3", True),
        (("10.0",), "12.0", False),
        ((), "5.0", False),
    ],
)
def test_code_runs_on_its_own_major_version_from_its_minor_on(
    archs: tuple[str, ...], capability: str, runs: bool
) -> None:
    assert catalog.carries(archs, capability) is runs


def test_no_family_and_no_chip_is_there_twice() -> None:
    families = [row.family for row in catalog.TABLE]
    chips = [chip for row in catalog.TABLE for chip in row.chips]
    assert len(families) == len(set(families)) and len(chips) == len(set(chips))


def test_rows_go_from_old_to_new_and_the_cpu_is_last() -> None:
    capabilities = [catalog._version(row.compute_capability or "0.0") for row in catalog.TABLE[:-1]]
    assert capabilities == sorted(capabilities)
    assert catalog.TABLE[-1] is catalog.CPU


@pytest.mark.parametrize("row", catalog.TABLE, ids=lambda row: row.family)
def test_a_row_does_not_contradict_itself(row: catalog.Row) -> None:
    assert row.source and row.fp16.reason
    assert row.open_module in ("unsupported", "supported", "required")
    assert (row.open_module == "unsupported") == (catalog._version(row.compute_capability or "0.0") < (7, 5))
    assert row.fp16.arithmetic or row.fp16.rate_vs_fp32 is None
    assert not row.fp16.tensor_cores or row.fp16.arithmetic
    assert not row.fp16.bf16 or catalog._version(row.compute_capability or "0.0") >= (8, 0)
    # The end of a driver that there is.
    assert row.end_of_life is None or row.last_branch
    assert row.last_branch is None or row.first_branch <= row.last_branch


@pytest.mark.parametrize(
    ("capability", "storage", "arithmetic", "rate"),
    [
        ("5.0", True, False, None),
        ("5.2", True, False, None),
        ("5.3", True, True, 2),
        ("6.0", True, True, 2),
        ("6.1", True, True, 1 / 64),
        ("6.2", True, True, 2),
        ("7.0", True, True, 2),
    ],
)
def test_fp16_as_in_the_programming_guide(capability: str, storage: bool, arithmetic: bool, rate: float | None) -> None:
    row = catalog.row_of_compute_capability(capability)
    assert row is not None
    assert (row.fp16.storage, row.fp16.arithmetic, row.fp16.rate_vs_fp32) == (storage, arithmetic, rate)


def test_only_the_gtx_16xx_computes_wrongly() -> None:
    assert [row.family for row in catalog.TABLE if row.fp16.known_broken] == ["turing_16xx"]


def test_a_branch_drops_exactly_what_the_rows_say() -> None:
    for row in catalog.TABLE:
        # Left out: the GRID cards, which were dropped before the rest of their generation.
        if row.compute_capability and row.last_branch != 0 and row.chips:
            capability = catalog._version(row.compute_capability)
            for branch in catalog.BRANCHES.values():
                old = row.last_branch is not None and branch.branch > row.last_branch
                assert old == (capability < catalog._version(branch.oldest_capability)), f"{row.family} {branch}"


def test_branches_know_ever_newer_cuda() -> None:
    branches = list(catalog.BRANCHES.values())
    assert [branch.branch for branch in branches] == sorted(catalog.BRANCHES)
    versions = [catalog._version(branch.newest_cuda) for branch in branches]
    assert versions == sorted(versions)
    assert branches[-1].branch == catalog.NEWEST_BRANCH
    for major, minimum in catalog.CUDA_MINIMUM_DRIVER.items():
        first = next(branch.branch for branch in branches if catalog._version(branch.newest_cuda)[0] >= major)
        assert first == minimum


@pytest.mark.parametrize("release", ["11", "12", "13"])
def test_every_offered_driver_is_a_known_branch_and_the_newest_comes_first(release: str) -> None:
    for offered in (
        [driver.branch for driver in catalog.DEBIAN_DRIVERS[release]],
        list(catalog.NVIDIA_REPO_BRANCHES[release]),
    ):
        assert offered and offered == sorted(offered, reverse=True)
        assert set(offered) <= set(catalog.BRANCHES)


def test_the_last_pytorch_of_a_row_is_the_last_with_its_kernels() -> None:
    newest = max(catalog.TORCH_BUILDS, key=catalog._version)
    for row in catalog.TABLE:
        if row.compute_capability is None or row.last_branch == 0:
            continue
        carrying = {
            torch
            for torch, builds in catalog.TORCH_BUILDS.items()
            if any(catalog.carries(archs, row.compute_capability) for archs in builds.values())
        }
        if row.last_torch is None:
            # Never, where CUDA too has ended; still, where it has not.
            assert (newest in carrying) == (row.last_cuda is None), row.family
            assert bool(carrying) == (row.last_cuda is None), row.family
        else:
            end = catalog._version(row.last_torch)
            assert all(catalog._version(torch)[:2] <= end for torch in carrying), row.family
            # Two rows end before the first release in the table.
            assert carrying or end < (1, 12), row.family


def test_a_build_names_its_cuda_and_its_kernels_in_order() -> None:
    for builds in catalog.TORCH_BUILDS.values():
        for tag, archs in builds.items():
            assert tag.startswith("cu") and int(tag[2:-1]) in catalog.CUDA_MINIMUM_DRIVER
            assert list(archs) == sorted(archs, key=catalog._version)
