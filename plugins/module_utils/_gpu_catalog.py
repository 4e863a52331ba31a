# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one hardware table: what each NVIDIA chip can do and what still supports it. Private to this collection.

Sources, named in short in the rows:
  ids       id lists of Debian's nvidia-detect 470.256.02, 535.261.03 and 550.163.01 (made from NVIDIA's READMEs)
  guide     CUDA C programming guide, throughput of native arithmetic instructions, results per clock and multiprocessor
  cc        developer.nvidia.com/cuda-gpus and /cuda-legacy-gpus
  branches  NVIDIA data center drivers, supported drivers and CUDA toolkit versions (615); Unix driver release posts
  matrix    NVIDIA data center drivers, CUDA toolkit, driver and architecture matrix
  wheels    pytorch/builder manywheel/build_cuda.sh (release branches), pytorch RELEASE.md, notice of PyTorch 2.15
  open      NVIDIA/open-gpu-kernel-modules README (515 to 595)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Fp16:
    """Half precision. Storing and computing are different things: storing is what makes a model fit."""

    storage: bool
    arithmetic: bool
    # Multiplications and additions a clock against FP32, outside tensor cores; None: no arithmetic, or no figure read.
    rate_vs_fp32: float | None
    tensor_cores: bool
    bf16: bool
    # The hardware computes, but Stable Diffusion's result is black or NaN.
    known_broken: bool
    reason: str


@dataclass(frozen=True)
class Row:
    """One family of chips that are alike in everything that is decided here."""

    family: str
    architecture: str
    # None before CUDA, and for the CPU.
    compute_capability: str | None
    # Codenames without the endings for mobile, workstation and revision: GP107GLM is GP107.
    chips: tuple[str, ...]
    fp16: Fp16
    # Last driver branch; None: the newest still supports it. 0: no branch for PCs ever did.
    last_branch: int | None
    # Of NVIDIA's open kernel module: unsupported, supported or required.
    open_module: str
    # Last PyTorch release whose official wheels carry its kernels, and last CUDA toolkit that compiles for it.
    # Both None where there is no end yet, and before CUDA; only PyTorch None: it was never built for it.
    last_torch: str | None
    last_cuda: str | None
    # First and last xformers release read with its kernels, None as last: no end yet. None: none known.
    xformers: tuple[str, str | None] | None
    # When the support of the last branch ended or ends, as year-month.
    end_of_life: str | None
    source: str
    # First driver branch that knows the family; 0: older than every branch that matters here.
    first_branch: int = 0


@dataclass(frozen=True)
class Branch:
    """A driver branch: the newest CUDA whose programs it runs, and the oldest cards."""

    branch: int
    newest_cuda: str
    oldest_capability: str
    source: str


@dataclass(frozen=True)
class DebianDriver:
    """A driver in Debian itself; the flavour is the stem of its package names (nvidia-tesla-470-driver)."""

    branch: int
    flavour: str


def _fp16(
    reason: str,
    storage: bool = True,
    rate: float | None = None,
    arithmetic: bool = True,
    tensor_cores: bool = False,
    bf16: bool = False,
    known_broken: bool = False,
) -> Fp16:
    return Fp16(storage, arithmetic, rate, tensor_cores, bf16, known_broken, reason)


_NO_CUDA = _fp16("The card is older than CUDA and computes no general programs.", storage=False, arithmetic=False)
_CUDA_1 = _fp16("CUDA of its time has no FP16, and PyTorch was never built for it.", storage=False, arithmetic=False)
_STORES_ONLY = "Keeps FP16 in memory and converts it to FP32 to compute: half the memory, at the speed of FP32."


def _before_cuda(family: str, architecture: str, chips: tuple[str, ...], branch: int, source: str) -> Row:
    return Row(
        family=family,
        architecture=architecture,
        compute_capability=None,
        chips=chips,
        fp16=_NO_CUDA,
        last_branch=branch,
        open_module="unsupported",
        last_torch=None,
        last_cuda=None,
        xformers=None,
        # The announcement of 2014 promised 304 fixes until the end of 2017 and the older two nothing more.
        end_of_life="2017-12" if branch == 304 else None,
        source=source,
    )


def _cuda_1(capability: str, chips: tuple[str, ...]) -> Row:
    return Row(
        family=f"tesla_{capability.replace('.', '_')}",
        architecture="Tesla",
        compute_capability=capability,
        chips=chips,
        fp16=_CUDA_1,
        last_branch=340,
        open_module="unsupported",
        last_torch=None,
        last_cuda="6.5",
        xformers=None,
        end_of_life="2019-12",
        source="ids; NVIDIA's announcement of 2014 for 340; the last CUDA by many accounts",
    )


_FERMI = Row(
    family="fermi_2_0",
    architecture="Fermi",
    compute_capability="2.0",
    chips=("GF100", "GF110"),
    fp16=_fp16(f"{_STORES_ONLY} PyTorch was never built for it.", arithmetic=False),
    last_branch=390,
    open_module="unsupported",
    last_torch=None,
    last_cuda="8.0",
    xformers=None,
    end_of_life="2022-12",
    source="ids; matrix; NVIDIA's legacy plan of 2019 as reported by linuxtalk.de",
)

_KEPLER = Row(
    family="kepler_3_0",
    architecture="Kepler",
    compute_capability="3.0",
    chips=("GK104", "GK106", "GK107"),
    fp16=_fp16(_STORES_ONLY, arithmetic=False),
    last_branch=470,
    open_module="unsupported",
    # pytorch/builder d3be5aa9 (2018-02-07) "remove 3.0, 5.2 archs": 0.3.1 was the first without.
    last_torch="0.3.0",
    last_cuda="10.2",
    xformers=None,
    end_of_life="2024-09",
    source="ids; guide (N/A); matrix; wheels; NVIDIA's support plan of 2021 as reported by technonu.com",
)

_MAXWELL = Row(
    family="maxwell_1",
    architecture="Maxwell",
    compute_capability="5.0",
    chips=("GM107", "GM108"),
    fp16=_fp16(_STORES_ONLY, arithmetic=False),
    last_branch=580,
    open_module="unsupported",
    last_torch="2.14",
    # CUDA 13.0 dropped everything below 7.5.
    last_cuda="12.9",
    # cpp_lib.json of the wheels: 5.0+PTX in 0.0.20 and 0.0.23.post1, 6.0 the oldest from 0.0.28.post3 on.
    xformers=("0.0.20", "0.0.23.post1"),
    end_of_life="2028-06",
    source="ids; guide (N/A); cc; branches; wheels",
    first_branch=340,
)

_PASCAL = replace(
    _MAXWELL,
    family="pascal_6_1",
    architecture="Pascal",
    compute_capability="6.1",
    chips=("GP102", "GP104", "GP106", "GP107", "GP108"),
    fp16=_fp16(
        "Computes FP16 at 1/64 of its FP32 speed, and yet Stable Diffusion is faster with it: memory decides.",
        rate=1 / 64,
    ),
    # cpp_lib.json: 6.0+PTX in 0.0.28.post3, 0.0.29.post3 and 0.0.30, 7.5 the oldest from 0.0.31.post1 on.
    xformers=("0.0.20", "0.0.30"),
    source="ids; guide (2 of 128); cc; branches; wheels",
    # The driver of CUDA 8.0, the first to compile for 6.x.
    first_branch=367,
)

_TURING = Row(
    family="turing",
    architecture="Turing",
    compute_capability="7.5",
    chips=("TU102", "TU104", "TU106"),
    fp16=_fp16("Computes FP16 at twice its FP32 speed, and in tensor cores.", rate=2.0, tensor_cores=True),
    last_branch=None,
    open_module="supported",
    last_torch=None,
    last_cuda=None,
    xformers=("0.0.20", None),
    end_of_life=None,
    source="ids; guide (128 of 64); cc; open; wheels",
    # The driver of CUDA 10.0, the first to compile for 7.5.
    first_branch=410,
)

_AMPERE = replace(
    _TURING,
    family="ampere_8_6",
    architecture="Ampere",
    compute_capability="8.6",
    chips=("GA102", "GA103", "GA104", "GA106", "GA107"),
    # NVIDIA forum, 302018: FP16x2 is issued to the same two FP32 pipes.
    fp16=_fp16(
        "Computes FP16 as fast as FP32, and much faster in tensor cores.", rate=1.0, tensor_cores=True, bf16=True
    ),
    source="ids; NVIDIA forum 302018; cc; open; wheels",
    # CUDA 11.1, the first to compile for 8.6.
    first_branch=455,
)

_ADA = replace(
    _AMPERE,
    family="ada",
    architecture="Ada",
    compute_capability="8.9",
    chips=("AD102", "AD103", "AD104", "AD106", "AD107"),
    # No table of throughput was read for 8.9 and newer.
    fp16=_fp16("Computes FP16 and BF16, much faster in tensor cores.", tensor_cores=True, bf16=True),
    source="ids; cc; open (GeForce from 525); wheels (by 8.6 code)",
    # 520 brings CUDA 11.8, the first to compile for 8.9; the consumer cards are listed from 525 on.
    first_branch=525,
)

_BLACKWELL = replace(
    _ADA,
    family="blackwell_12_0",
    architecture="Blackwell",
    compute_capability="12.0",
    chips=("GB202", "GB203", "GB205", "GB206", "GB207"),
    open_module="required",
    # Which of its wheels carry kernels for Blackwell was not read.
    xformers=None,
    source="cc; open (from 570; NixOS wiki on the proprietary module); wheels (CUDA 12.8 and newer)",
    first_branch=570,
)

CPU = Row(
    family="cpu",
    architecture="CPU",
    compute_capability=None,
    chips=(),
    fp16=_fp16("Keeps FP16 in memory and computes in FP32.", arithmetic=False),
    last_branch=None,
    open_module="unsupported",
    last_torch=None,
    last_cuda=None,
    xformers=None,
    end_of_life=None,
    source="AUTOMATIC1111's wiki (--no-half --precision full); stable-diffusion.cpp runs a model in f16",
)

TABLE: tuple[Row, ...] = (
    _before_cuda("nv1", "NV1 and Riva 128", ("NV1", "NV3"), 0, "pci.ids; in none of ids"),
    _before_cuda("riva", "Riva TNT and first GeForce", ("NV4", "NV5", "NV0A", "NV10", "NV15"), 71, "ids"),
    _before_cuda(
        "celsius",
        "GeForce 2 MX to GeForce 4",
        ("NV11", "NV17", "NV18", "NV19", "NV1A", "NV1F", "NV20", "NV25", "NV28", "NV2A"),
        96,
        "ids; NV2A is the Xbox's and in none",
    ),
    # NV48 is a GeForce 6, but its ids are in no list of 304.
    _before_cuda(
        "rankine",
        "GeForce FX",
        ("NV30", "NV31", "NV34", "NV35", "NV36", "NV37", "NV38", "NV39", "NV48"),
        173,
        "ids",
    ),
    _before_cuda(
        "curie",
        "GeForce 6 and 7",
        (
            *("NV40", "NV41", "NV42", "NV43", "NV44", "NV45", "G70", "G71", "G72", "G73"),
            *("C51", "C61", "C67", "C68", "C73"),
        ),
        304,
        "ids",
    ),
    # 1.0 and 1.1 by NVIDIA forum 3730; the minor versions of 1.2, 1.3 and 2.1 were not read at NVIDIA, nothing hangs
    # on them.
    _cuda_1("1.0", ("G80",)),
    _cuda_1("1.1", ("G84", "G86", "G92", "G94", "G96", "G98", "C77", "C78", "C79", "MCP79", "MCP7A")),
    _cuda_1("1.2", ("GT215", "GT216", "GT218", "MCP89")),
    _cuda_1("1.3", ("GT200",)),
    _FERMI,
    replace(
        _FERMI,
        family="fermi_2_1",
        compute_capability="2.1",
        chips=("GF104", "GF106", "GF108", "GF114", "GF116", "GF117", "GF119"),
    ),
    # GRID K1, K2 and K340 are in no list after 340; newer modules say "supported through the NVIDIA 367.xx Legacy
    # drivers", and LibreELEC dropped them with 375.
    replace(
        _KEPLER,
        family="kepler_grid",
        chips=(),
        last_branch=367,
        last_cuda="8.0",
        end_of_life=None,
        source="ids (340 the last); LibreELEC/LibreELEC.tv#1486; reports of the module's message",
    ),
    _KEPLER,
    # Tegra K1: no PCI card, its driver is NVIDIA's Jetson Linux.
    replace(
        _KEPLER,
        family="kepler_3_2",
        compute_capability="3.2",
        chips=("GK20A",),
        last_branch=0,
        last_torch=None,
        end_of_life=None,
    ),
    replace(
        _KEPLER,
        family="kepler_3_5",
        compute_capability="3.5",
        chips=("GK110", "GK180", "GK208"),
        # pytorch/builder 2aac90bd (2019-10-29) "moved 3.5 to 3.7": 1.3.0 (2019-10-10) was the last before it.
        last_torch="1.3.0",
        last_cuda="11.8",
    ),
    replace(
        _KEPLER,
        family="kepler_3_7",
        compute_capability="3.7",
        chips=("GK210",),
        # Only in the builds for CUDA 11.8, whose last are those of 2.7.
        last_torch="2.7.1",
        last_cuda="11.8",
    ),
    _MAXWELL,
    # In no list of 340; 346 is the driver of CUDA 7.0.
    replace(
        _MAXWELL, family="maxwell_2", compute_capability="5.2", chips=("GM200", "GM204", "GM206"), first_branch=346
    ),
    # Tegra X1 (Jetson Nano): no PCI card, its driver is NVIDIA's Jetson Linux.
    replace(
        _MAXWELL,
        family="maxwell_tegra",
        compute_capability="5.3",
        chips=("GM20B",),
        fp16=_fp16("Computes FP16 at twice its FP32 speed.", rate=2.0),
        last_branch=0,
        last_torch=None,
        end_of_life=None,
        xformers=None,
        first_branch=0,
        source="guide (256 of 128); cc",
    ),
    replace(
        _PASCAL,
        family="pascal_6_0",
        compute_capability="6.0",
        chips=("GP100",),
        fp16=_fp16("Computes FP16 at twice its FP32 speed.", rate=2.0),
        source="ids; guide (128 of 64); cc; branches; wheels",
    ),
    _PASCAL,
    # Tegra X2: no PCI card, its driver is NVIDIA's Jetson Linux.
    replace(
        _PASCAL,
        family="pascal_tegra",
        compute_capability="6.2",
        chips=("GP10B",),
        fp16=_fp16("Computes FP16 at twice its FP32 speed.", rate=2.0),
        last_branch=0,
        last_torch=None,
        end_of_life=None,
        xformers=None,
        first_branch=0,
        source="guide (256 of 128); cc",
    ),
    replace(
        _PASCAL,
        family="volta",
        architecture="Volta",
        compute_capability="7.0",
        chips=("GV100",),
        fp16=_fp16("Computes FP16 at twice its FP32 speed, and in tensor cores.", rate=2.0, tensor_cores=True),
        source="ids; guide (128 of 64); cc; branches; wheels",
        # The driver of CUDA 9.0, the first to compile for 7.0.
        first_branch=384,
    ),
    # Xavier: no PCI card, its driver is NVIDIA's Jetson Linux.
    replace(
        _PASCAL,
        family="volta_tegra",
        architecture="Volta",
        compute_capability="7.2",
        chips=("GV11B",),
        fp16=_fp16("Computes FP16 at twice its FP32 speed, and in tensor cores.", rate=2.0, tensor_cores=True),
        last_branch=0,
        last_torch=None,
        end_of_life=None,
        xformers=None,
        first_branch=0,
        source="guide (128 of 64 for 7.x); cc",
    ),
    replace(
        _TURING,
        family="turing_16xx",
        chips=("TU116", "TU117"),
        fp16=_fp16(
            "Computes FP16 at twice its FP32 speed, but Stable Diffusion's pictures turn black (pytorch#58123):"
            " it needs FP32, or upcast sampling and an FP32 VAE.",
            rate=2.0,
            known_broken=True,
        ),
        source="ids; guide (128 of 64); pytorch#58123; cc; open; wheels",
        # TU116 and TU117 are in the list of 418, the first of them after it began.
        first_branch=418,
    ),
    _TURING,
    replace(
        _AMPERE,
        family="ampere_8_0",
        compute_capability="8.0",
        chips=("GA100",),
        fp16=_fp16(
            "Computes FP16 at four times its FP32 speed, and faster in tensor cores.",
            rate=4.0,
            tensor_cores=True,
            bf16=True,
        ),
        source="ids; A100 whitepaper table 1 (by NVIDIA forum 218102); cc; open; wheels",
        # CUDA 11.0, the first to compile for 8.0.
        first_branch=450,
    ),
    _AMPERE,
    # Orin: no PCI card, its driver is NVIDIA's Jetson Linux.
    replace(
        _AMPERE,
        family="ampere_tegra",
        compute_capability="8.7",
        chips=("GA10B",),
        fp16=_fp16("Computes FP16 and BF16, much faster in tensor cores.", tensor_cores=True, bf16=True),
        last_branch=0,
        xformers=None,
        source="cc",
        first_branch=0,
    ),
    _ADA,
    replace(
        _ADA,
        family="hopper",
        architecture="Hopper",
        compute_capability="9.0",
        chips=("GH100",),
        # Which of its wheels carry kernels for 9.0 was not read.
        xformers=None,
        source="ids; cc; open (from 520); wheels",
        first_branch=520,
    ),
    replace(
        _BLACKWELL,
        family="blackwell_10_0",
        compute_capability="10.0",
        chips=("GB100", "GB102"),
        source="cc (B200); open (B200 is 10de:2901, from 570); wheels (CUDA 12.8 and newer)",
    ),
    replace(
        _BLACKWELL,
        family="blackwell_10_3",
        compute_capability="10.3",
        chips=("GB110", "GB112"),
        # By 10.0 code.
        source="cc (B300); open (B300 and GB300, from 580); wheels (CUDA 12.8 and newer)",
        first_branch=580,
    ),
    # Thor: its driver is NVIDIA's Jetson Linux.
    replace(
        _BLACKWELL,
        family="blackwell_11_0",
        compute_capability="11.0",
        chips=("GB10B",),
        last_branch=0,
        source="cc (Jetson T5000); wheels (CUDA 13, aarch64 only)",
        first_branch=0,
    ),
    _BLACKWELL,
    replace(
        _BLACKWELL,
        family="blackwell_12_1",
        compute_capability="12.1",
        chips=("GB20B",),
        source="cc (GB10); open (GB10 is 10de:2e12, from 580)",
        first_branch=580,
    ),
    CPU,
)

_FAMILIES = {row.family: row for row in TABLE}
_CHIPS = {chip: row for row in TABLE for chip in row.chips}

# Devices that their name misleads about, or that are not as the rest of their chip.
_DEVICES = {
    # GRID K1, K340 and K2.
    "10de:0ff2": "kepler_grid",
    "10de:0fef": "kepler_grid",
    "10de:11bf": "kepler_grid",
    # "nForce 220/420 NV1A [GeForce2 MX]"
    "10de:01a0": "celsius",
    # "GN20-P0-R-K2" and "GN21-X11" in the pci.ids of Debian 12; "GA107BM" and "AD103M" in that of Debian 13.
    "10de:25ac": "ampere_8_6",
    "10de:25ec": "ampere_8_6",
    "10de:2717": "ada",
    "10de:2757": "ada",
    # NVIDIA's own vendor id before 10de, with names instead of codenames: Riva128, Riva128ZX, TNT, TNT2 and others.
    "12d2:0018": "nv1",
    "12d2:0019": "nv1",
    "12d2:0020": "riva",
    "12d2:0028": "riva",
    "12d2:0029": "riva",
    "12d2:002c": "riva",
    "12d2:00a0": "riva",
}

# Codename, perhaps with further ones, perhaps a product in brackets, and nothing more: what follows otherwise is the
# function of another device of the chip ("High Definition Audio Controller", "USB 3.1 Host Controller").
_GPU_NAME = re.compile(
    r"(?P<chip>(?:NV|MCP|G[A-Z]?|TU|AD|C)[0-9]+[0-9A-Za-z]*)(?: ?/ ?[A-Z][0-9A-Z-]+)*(?: C17| Engineering Sample)?"
    r"\s*(?:\[(?P<product>.*)\])?"
)
# Revisions, workstation (GL) and mobile (M) versions of a chip.
_VARIANT = re.compile(r"(?:[ABCb]|PV|G)?(?:GL)?M?")
# On the same chip's codename, but a switch, not a GPU.
_NOT_A_GPU = re.compile(r"NVSwitch")

# Names of cards with TU116 or TU117, for when neither codename nor PCI id is known; that more than the GTX are broken:
# easydiffusion/easydiffusion#803.
_GTX_16_NAME = re.compile(r"\b(?:GTX 16\d\d|MX[45]50|T(?:400|500|550|600|1000|1200|2000)|CMP 30HX)\b")
# TU117 and TU116 have these PCI device ids to themselves.
_GTX_16_IDS = {f"10de:{device:04x}" for ids in (range(0x1F80, 0x2000), range(0x2180, 0x2200)) for device in ids}


def chip_of(pci_name: str) -> str | None:
    """The chip in a device's name from pci.ids, without its variant; None where the device is not a GPU."""
    match = _GPU_NAME.fullmatch(pci_name.strip())
    if match is None or _NOT_A_GPU.search(match.group("product") or ""):
        return None
    codename = match.group("chip")
    for end in range(len(codename), 2, -1):
        if codename[:end] in _CHIPS and _VARIANT.fullmatch(codename[end:]):
            return codename[:end]
    # Not in the table: the caller says so by this name.
    return re.sub(r"(?:GL)?M?$", "", codename) if codename[-1] in "LM" else codename


def row_of_chip(chip: str) -> Row | None:
    """The row of a codename, with or without its variant."""
    return _CHIPS.get(chip_of(chip) or "")


def _is_gtx_16(name: str, pci_id: str) -> bool:
    return pci_id.lower() in _GTX_16_IDS or bool(_GTX_16_NAME.search(name))


def row_of_compute_capability(capability: str, name: str = "", pci_id: str = "") -> Row | None:
    """The row by what the driver reports. 7.5 alone does not tell a GTX 16xx from an RTX: it takes a name or PCI id."""
    exception = _FAMILIES.get(_DEVICES.get(pci_id.lower(), ""))
    if exception is not None and exception.compute_capability == capability:
        return exception
    if capability == "7.5":
        known = name or pci_id
        return _FAMILIES["turing_16xx" if _is_gtx_16(name, pci_id) else "turing"] if known else None
    return next((row for row in TABLE if row.compute_capability == capability and row.chips), None)


def row_of_device(pci_id: str, pci_name: str) -> Row | None:
    """The row of a PCI device ("10de:1380", "GM107 [GeForce GTX 750 Ti]"); None: not in the table, or not a GPU."""
    if pci_id.lower() in _DEVICES:
        return _FAMILIES[_DEVICES[pci_id.lower()]]
    row = row_of_chip(pci_name)
    # GTX 1650 and 1660 were also made of bigger chips with their tensor cores off; PyTorch goes by the name as well.
    if row is not None and row.family == "turing" and _GTX_16_NAME.search(pci_name):
        return _FAMILIES["turing_16xx"]
    return row


NEWEST_BRANCH = 615

_TOOLKIT = "CUDA release notes, table of toolkit driver versions"

BRANCHES: dict[int, Branch] = {
    branch.branch: branch
    for branch in (
        Branch(340, "6.5", "1.0", "ids; CUDA 6.5 release notes"),
        Branch(390, "9.1", "2.0", f"ids; {_TOOLKIT} (390.46)"),
        Branch(418, "10.1", "3.0", f"ids; {_TOOLKIT} (418.39)"),
        Branch(450, "11.0", "3.0", f"ids; {_TOOLKIT} (450.36.06)"),
        Branch(455, "11.1", "3.0", f"{_TOOLKIT} (455.23.04)"),
        Branch(460, "11.2", "3.0", "ids; NVIDIA CUDA and drivers support, 2021"),
        Branch(470, "11.4", "3.0", f"ids; matrix; {_TOOLKIT}"),
        Branch(510, "11.6", "5.0", f"{_TOOLKIT} (510.47.03)"),
        Branch(515, "11.7", "5.0", f"{_TOOLKIT} (515.43.04)"),
        Branch(520, "11.8", "5.0", f"{_TOOLKIT} (520.61.05)"),
        Branch(525, "12.0", "5.0", f"{_TOOLKIT} (525.60.13)"),
        Branch(530, "12.1", "5.0", f"{_TOOLKIT} (530.30.02)"),
        Branch(535, "12.2", "5.0", f"ids; {_TOOLKIT} (535.54.03)"),
        Branch(545, "12.3", "5.0", f"{_TOOLKIT} (545.23.06)"),
        Branch(550, "12.4", "5.0", f"ids; {_TOOLKIT} (550.54.14)"),
        Branch(555, "12.5", "5.0", f"{_TOOLKIT} (555.42.02)"),
        Branch(560, "12.6", "5.0", f"{_TOOLKIT} (560.28.03)"),
        # No toolkit came with it.
        Branch(565, "12.6", "5.0", "at least what 560 runs"),
        Branch(570, "12.8", "5.0", f"{_TOOLKIT} (570.26)"),
        Branch(575, "12.9", "5.0", f"{_TOOLKIT} (575.51.03)"),
        Branch(580, "13.0", "5.0", f"branches; {_TOOLKIT} (580.65.06)"),
        Branch(590, "13.1", "7.5", f"{_TOOLKIT} (590.44.01)"),
        Branch(595, "13.2", "7.5", f"branches; {_TOOLKIT} (595.45.04)"),
        Branch(610, "13.3", "7.5", f"branches; {_TOOLKIT} (610.43.02)"),
        # 13.4 comes without a driver; 615.71.09 was packaged with 13.4.1 (AOSC-Dev/aosc-os-abbs#17616).
        Branch(615, "13.4", "7.5", "branches; AOSC-Dev/aosc-os-abbs#17616"),
    )
}

# Debian's package indices of 2026-11, newest first. Left out: packages that only depend on the next newer flavour
# (nvidia-tesla-450 and -460 of 11, nvidia-tesla of 12).
DEBIAN_DRIVERS: dict[str, tuple[DebianDriver, ...]] = {
    "11": (
        # The index of bullseye-security still names 535.309.01, but the packages are gone (404): apt chooses them over
        # these, and fails, wherever contrib and non-free of bullseye-security are among its sources.
        DebianDriver(470, "nvidia"),
        DebianDriver(470, "nvidia-tesla-470"),
        DebianDriver(418, "nvidia-tesla-418"),
        DebianDriver(390, "nvidia-legacy-390xx"),
    ),
    # 535.309.01 in bookworm-security, 535.261.03 in the release itself.
    "12": (
        DebianDriver(535, "nvidia"),
        DebianDriver(535, "nvidia-tesla-535"),
        DebianDriver(470, "nvidia-tesla-470"),
    ),
    "13": (DebianDriver(550, "nvidia"), DebianDriver(535, "nvidia-tesla-535")),
}

# What others report of NVIDIA's repository, newest first; only NVIDIA knows what it holds today.
NVIDIA_REPO_BRANCHES: dict[str, tuple[int, ...]] = {
    # CUDA 12.6 is the last for Debian 11 (GoogleCloudPlatform/ops-agent#2023), and 560 its driver. The pinning packages
    # came later.
    "11": (560,),
    # elFarto/nvidia-vaapi-driver#312 (545 to 560), devleonardoamaral/debian-nvidia-installer#2 (580), public scripts.
    "12": (590, 580, 565, 560, 555, 550, 545),
    # Several public setup scripts for Debian 13, with nvidia-driver-pinning-580, -590 and -610.
    "13": (610, 590, 580),
}

# NVIDIA's CUDA compatibility page, minor version compatibility.
CUDA_MINIMUM_DRIVER: dict[int, int] = {11: 450, 12: 525, 13: 580}

_TO_CUDA_11_7 = ("3.7", "5.0", "6.0", "7.0", "7.5", "8.0", "8.6")
_CUDA_11_8 = (*_TO_CUDA_11_7, "9.0")
_TO_CUDA_12_6 = ("5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0")
_CUDA_12_8 = ("7.0", "7.5", "8.0", "8.6", "9.0", "10.0", "12.0")
_FROM_7_5 = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")

# PyTorch's official wheels for x86-64: release, CUDA, what it is compiled for.
TORCH_BUILDS: dict[str, dict[str, tuple[str, ...]]] = {
    # pytorch/builder, manywheel/build_cuda.sh of the branches release/1.12 to release/2.5.
    "1.12.1": {"cu113": _TO_CUDA_11_7, "cu116": _TO_CUDA_11_7},
    "1.13.1": {"cu116": _TO_CUDA_11_7, "cu117": _TO_CUDA_11_7},
    "2.0.1": {"cu117": _TO_CUDA_11_7, "cu118": _CUDA_11_8},
    # The cu121 wheel on PyPI was read itself.
    "2.1.2": {"cu118": _CUDA_11_8, "cu121": _TO_CUDA_12_6},
    "2.2.2": {"cu118": _CUDA_11_8, "cu121": _TO_CUDA_12_6},
    "2.3.1": {"cu118": _CUDA_11_8, "cu121": _TO_CUDA_12_6},
    "2.4.1": {"cu118": _CUDA_11_8, "cu121": _TO_CUDA_12_6, "cu124": _TO_CUDA_12_6},
    "2.5.1": {"cu118": _CUDA_11_8, "cu121": _TO_CUDA_12_6, "cu124": _TO_CUDA_12_6},
    # pytorch's CUDA upgrade runbook of early 2025 and the release matrix in RELEASE.md; cu126 of 2.7.1 was read itself.
    "2.6.0": {"cu118": _CUDA_11_8, "cu124": _TO_CUDA_12_6, "cu126": _TO_CUDA_12_6},
    "2.7.1": {"cu118": _CUDA_11_8, "cu126": _TO_CUDA_12_6, "cu128": _FROM_7_5},
    # pytorch's .ci/manywheel/build_cuda.sh; cu128 of 2.8.0 was read itself.
    "2.8.0": {"cu126": _TO_CUDA_12_6, "cu128": _CUDA_12_8, "cu129": _CUDA_12_8},
    # RELEASE.md, PyTorch CUDA support matrix; 2.14 is the last with CUDA 12 (pytorch#190385).
    "2.14.0": {"cu126": _TO_CUDA_12_6, "cu130": _FROM_7_5, "cu132": _FROM_7_5},
}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def carries(archs: tuple[str, ...], capability: str) -> bool:
    """Compiled code runs on the same major version with the same or a newer minor one: 6.0 code runs on 6.1."""
    if not capability:
        return False
    major, minor = _version(capability)
    return any(_version(arch)[0] == major and _version(arch)[1] <= minor for arch in archs)
