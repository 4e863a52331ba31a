# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one decision: what was found on a host, plus what its owner wants, to what shall be installed and run there.

Pure functions: nothing here looks at a host. Every other part of the collection carries the plan out and never decides
again.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.secondhand.diffusion.plugins.module_utils import _gpu_catalog as catalog
from ansible_collections.secondhand.diffusion.plugins.module_utils._pci import FOR_VIRTUAL_MACHINES
from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import normal_address

# The layout of the plan, for whoever reads it as a fact.
SCHEMA = 1

# MiB. A 2 GB card shows a little less than 2048: the firmware keeps its part (a GTX 750 Ti: 1999).
MINIMUM_VRAM_MIB = 1900
# The oldest generation of which people report that Stable Diffusion runs in 2 GB: Maxwell 1, the GTX 750 Ti.
OLDEST_CAPABILITY = (5, 0)
# MiB below which a profile moves more of the model out of the card. gpu_lowvram costs two to four times the speed of
# gpu_medvram (vladmandic's benchmark data, GTX 960 and GTX 1050), so it is for the 2 GB and 3 GB cards only.
MEDVRAM_MIB = 3584
FULL_MIB = 7168
# A card with broken FP16 arithmetic computes in FP32 and needs room for activations and weights of twice the size.
BROKEN_FP16_MEDVRAM_MIB = 5120
BROKEN_FP16_FULL_MIB = 10240

PROFILES = ("cpu", "gpu_lowvram", "gpu_medvram", "gpu_full")
# What an engine with no wish of its own gets: the release that still has kernels for everything from Maxwell 1 to
# Hopper, in builds for CUDA 11 and 12.
DEFAULT_TORCH = "2.1.2"
# The release of xformers that was built for a release of PyTorch (from its wheels' metadata).
XFORMERS_FOR_TORCH = {
    "2.0.1": "0.0.20",
    "2.1.2": "0.0.23.post1",
    "2.3.1": "0.0.27",
    "2.5.1": "0.0.28.post3",
    "2.6.0": "0.0.29.post3",
    "2.7.0": "0.0.30",
    "2.7.1": "0.0.31.post1",
}

Gpu = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """A driver that a source offers."""

    branch: int
    # Debian's package stem, None elsewhere.
    flavour: str | None = None
    # The exact version where it is known: an installer file holds one.
    version: str | None = None


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: "0.0.23.post1" -> (0, 0, 23, 1)."""
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split("."))


def listed(values: list[str]) -> str:
    """For a sentence: "a", "a or b", "a, b or c"."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def title(gpu: Gpu) -> str:
    """How a sentence names a card."""
    return f"{gpu['name'] or gpu['pci_id'] or 'the card'} at {gpu['pci_address']}"


def row_of(gpu: Gpu) -> catalog.Row | None:
    """The card's row of the hardware table; None when neither its chip nor its compute capability is in it."""
    row = catalog.row_of_device(gpu["pci_id"] or "", f"{gpu['chip'] or ''} [{gpu['name'] or ''}]")
    if row is None and gpu["compute_capability"]:
        row = catalog.row_of_compute_capability(gpu["compute_capability"], gpu["name"] or "", gpu["pci_id"] or "")
    return row


def capability_of(row: catalog.Row) -> tuple[int, ...]:
    """(5, 0), or () for a card from before CUDA."""
    return numbers(row.compute_capability) if row.compute_capability else ()


def is_ready(gpu: Gpu) -> bool:
    """Does the card answer through its driver at this moment? One that fell off the bus tells no memory."""
    answers = gpu["source"] in ("nvml", "nvidia_smi") and gpu["vram_mib"] is not None
    return answers and gpu["bound_driver"] in ("nvidia", None)


def impossible(gpu: Gpu) -> str:
    """Why no setting lets this card be used, or ''."""
    if gpu["bound_driver"] in FOR_VIRTUAL_MACHINES:
        return f"{title(gpu)} is bound to {gpu['bound_driver']}: it is reserved for a virtual machine."
    row = row_of(gpu)
    if row is None:
        return f"{title(gpu)} cannot be judged: {gpu['fp16']['reason']}."
    if row.last_branch == 0:
        return f"{title(gpu)} ({row.architecture}) has no driver for PCs."
    if row.compute_capability is None or (row.last_torch is None and row.last_cuda is not None):
        return f"{title(gpu)} ({row.architecture}) is too old: PyTorch was never built for it."
    return ""


def unwise(gpu: Gpu) -> str:
    """Why this card is not used unless somebody insists, or ''."""
    row = row_of(gpu)
    if row is None:
        return ""
    if capability_of(row) < OLDEST_CAPABILITY:
        return (
            f"{title(gpu)} is of the {row.architecture} generation, older than Maxwell 1 (GTX 745, 750, 750 Ti), the "
            "first on which half precision lets Stable Diffusion fit and run."
        )
    if gpu["vram_mib"] is not None and gpu["vram_mib"] < MINIMUM_VRAM_MIB:
        return f"{title(gpu)} has {gpu['vram_mib']} MiB of memory, less than the 2 GB that Stable Diffusion needs."
    return ""


def is_named(gpu: Gpu, wish: str) -> bool:
    """Is this the card that somebody asked for, by index, UUID or PCI address?"""
    with contextlib.suppress(ValueError):
        if normal_address(wish) == gpu["pci_address"]:
            return True
    return wish.lower() in {str(value).lower() for value in (gpu["index"], gpu["uuid"]) if value is not None}


def rank(gpu: Gpu) -> tuple[Any, ...]:
    """For sorting the best card to the front.

    What is advised, then what the memory allows, then sound FP16, then the newest, then the most memory: a few MiB more
    of an older card are worth nothing.
    """
    row = row_of(gpu)
    capability = capability_of(row) if row else ()
    fits = 0 if gpu["vram_mib"] is None else PROFILES.index(profile_for(gpu)[0])
    broken = row is not None and row.fp16.known_broken
    newest = tuple(-part for part in capability)
    return (bool(unwise(gpu)), -fits, broken, newest, -(gpu["vram_mib"] or 0), gpu["pci_address"])


def profile_for(gpu: Gpu) -> tuple[str, str]:
    """The profile for a card's memory, and why."""
    row, vram = row_of(gpu), gpu["vram_mib"]
    if vram is None:
        return "gpu_lowvram", "How much memory it has is known once its driver runs, so gpu_lowvram for now."
    broken = row is not None and row.fp16.known_broken
    medvram, full = (BROKEN_FP16_MEDVRAM_MIB, BROKEN_FP16_FULL_MIB) if broken else (MEDVRAM_MIB, FULL_MIB)
    profile = "gpu_lowvram" if vram < medvram else "gpu_medvram" if vram < full else "gpu_full"
    why = f"It has {vram} MiB of memory, so {profile}."
    if broken:
        why += " FP16 arithmetic of this chip gives wrong results, so it computes in FP32 and needs more room."
    return profile, why


def cpu_decision(reasons: list[str]) -> dict[str, Any]:
    """No card is used."""
    return {"device": "cpu", "profile": "cpu", "gpu_index": None, "gpu": None, "reasons": reasons, "problems": []}


def decide(gpus: list[Gpu], overrides: dict[str, Any]) -> dict[str, Any]:
    """Card or CPU, and with which profile.

    ``gpus`` are the NVIDIA cards as the module returns them. The answer also holds ``gpu``, the chosen entry of
    ``gpus``, and ``problems``: wishes that cannot be granted.
    """
    wish, insisted = overrides.get("gpu") or "", overrides.get("device") == "gpu"
    if overrides.get("device") == "cpu":
        return cpu_decision(["The CPU was asked for."])
    candidates = [gpu for gpu in gpus if not wish or is_named(gpu, wish)]
    if wish and not candidates:
        answer = cpu_decision([])
        known = ", ".join(f"{gpu['pci_address']} ({gpu['name'] or gpu['pci_id']})" for gpu in gpus) or "none"
        answer["problems"] = [
            f"there is no NVIDIA card {wish} (there is: {known}); name one of these, or leave it empty."
        ]
        return answer
    if not candidates:
        answer = cpu_decision(["There is no NVIDIA card, so the CPU."])
        if insisted:
            answer["problems"] = ["a GPU was asked for, but there is no NVIDIA card; ask for the CPU, or put one in."]
        return answer
    against = {gpu["pci_address"]: impossible(gpu) or ("" if insisted else unwise(gpu)) for gpu in candidates}
    usable = sorted((gpu for gpu in candidates if not against[gpu["pci_address"]]), key=rank)
    reasons = [reason for reason in against.values() if reason]
    if not usable:
        answer = cpu_decision([*reasons, "So the CPU."])
        if insisted:
            answer["problems"] = [f"a GPU was asked for, but it cannot be used: {reasons[0]}"]
        return answer
    gpu = usable[0]
    profile, why = profile_for(gpu)
    used = [f"{title(gpu)} is used{' as asked' if wish or insisted else ''}."]
    if insisted and unwise(gpu):
        used.append(f"Against advice: {unwise(gpu)}")
    if len(usable) > 1:
        measured = all(card["vram_mib"] is not None for card in usable)
        used.append(
            f"Of several cards {'the one that fits best' if measured else 'the newest'} was taken"
            f"{'' if measured else ', until the memory of all is known'}; name another to use that one."
        )
    used.append(why)
    if gpu["bound_driver"] == "nouveau":
        used.append("Its driver is nouveau, which cannot compute: it makes way for NVIDIA's.")
    return {
        "device": "gpu",
        "profile": profile,
        "gpu_index": gpu["index"],
        "gpu": gpu,
        # What speaks against the others comes last.
        "reasons": used + reasons,
        "problems": [],
    }


def offered(source: str, release: str, overrides: dict[str, Any]) -> list[Choice]:
    """The drivers that a source has for a Debian release, newest first."""
    if source == "debian":
        return [Choice(driver.branch, driver.flavour) for driver in catalog.DEBIAN_DRIVERS.get(release, ())]
    if source == "nvidia_repo":
        return [Choice(branch) for branch in catalog.NVIDIA_REPO_BRANCHES.get(release, ())]
    version = overrides.get("driver_version") or ""
    branch = re.match(r"(\d+)(\.\d+)*$", version)
    return [Choice(int(branch[1]), version=version)] if branch else []


def runs_card(branch: int, row: catalog.Row) -> bool:
    """Does this driver branch know the card: not yet too old for it, and no longer too new?"""
    return row.first_branch <= branch and (row.last_branch is None or branch <= row.last_branch)


def span(row: catalog.Row) -> str:
    """In words: the driver branches that know a card."""
    if row.last_branch is None:
        return f"{row.first_branch} or newer"
    return f"{row.first_branch} to {row.last_branch}" if row.first_branch else f"{row.last_branch} or older"


def branches_of(choices: list[Choice]) -> str:
    """For a sentence: the branches of drivers, each once."""
    return listed(list(dict.fromkeys(str(choice.branch) for choice in choices))) if choices else "none"


def alternatives(row: catalog.Row, release: str) -> list[str]:
    """The nearest possible choices of a driver for a card, as settings."""
    found = []
    for source in ("debian", "nvidia_repo"):
        branches = [choice.branch for choice in offered(source, release, {}) if runs_card(choice.branch, row)]
        if branches:
            found.append(f"{source} with branch {branches[0]}")
    return [*found, f"runfile with a driver of branch {span(row)}"]


def plan_driver(
    gpu: Gpu, row: catalog.Row, release: str, overrides: dict[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """The driver for a card, as (driver, problems, reasons)."""
    source = overrides.get("driver_source") or "debian"
    wish = str(overrides.get("driver_branch") or "auto")
    choices = offered(source, release, overrides)
    fitting = [choice for choice in choices if runs_card(choice.branch, row)]
    nearest = f"the nearest possible choice is {listed(alternatives(row, release))}."
    where = {"debian": f"Debian {release}", "nvidia_repo": f"NVIDIA's repository for Debian {release}"}.get(source, "")
    problems: list[str] = []
    chosen = None
    if source == "runfile" and overrides.get("driver_version") and not choices:
        version = overrides["driver_version"]
        problems.append(f"the installer's version {version} is not one such as 535.183.01; keep NVIDIA's file name.")
    elif source == "runfile" and not choices:
        problems.append("the source runfile needs a driver installer; name its file or URL.")
    elif source != "runfile" and release not in catalog.DEBIAN_DRIVERS:
        problems.append("this is not Debian 11, 12 or 13, for which alone drivers are planned; install one of these.")
    elif source == "runfile" and wish not in ("auto", str(choices[0].branch)):
        problems.append(f"branch {wish} was asked for and the installer holds {choices[0].version}; ask for auto.")
    elif wish != "auto":
        chosen = next((choice for choice in choices if str(choice.branch) == wish), None)
        if not wish.isdigit():
            problems.append(f"driver branch {wish} is not a number such as 535 and not auto.")
        elif not runs_card(int(wish), row):
            problems.append(
                f"driver branch {wish} does not know {title(gpu)} ({row.architecture}: branches {span(row)}); {nearest}"
            )
        elif chosen is None:
            problems.append(f"{where} has no driver branch {wish} (it has {branches_of(choices)}); {nearest}")
    elif fitting:
        chosen = fitting[0]
    else:
        mismatch = f"{title(gpu)} ({row.architecture}: branches {span(row)}); {nearest}"
        if source == "runfile":
            problems.append(f"the installer's {choices[0].version} does not know {mismatch}")
        else:
            problems.append(f"{where} (branch {branches_of(choices)}) has no driver for {mismatch}")

    wanted_module = overrides.get("kernel_module") or "auto"
    module = ("open" if row.open_module == "required" else "proprietary") if wanted_module == "auto" else wanted_module
    if module == "open" and row.open_module == "unsupported":
        problems.append(
            f"the open kernel module does not know {title(gpu)}: it begins with Turing (GTX 16xx, RTX 20xx); "
            "choose the proprietary one."
        )
    if module == "proprietary" and row.open_module == "required":
        problems.append(f"{title(gpu)} works with the open kernel module only; choose it.")

    driver = {
        "wanted": True,
        "source": source,
        "branch": chosen.branch if chosen else None,
        "version": chosen.version if chosen else None,
        "flavour": chosen.flavour if chosen else None,
        "kernel_module": module,
        "cuda": catalog.BRANCHES[chosen.branch].newest_cuda if chosen and chosen.branch in catalog.BRANCHES else None,
    }
    reasons = []
    if chosen and not problems:
        ends = f"; branch {row.last_branch} is the last that knows it" if row.last_branch else ""
        reasons.append(f"Driver {chosen.version or chosen.branch} from {where or 'the installer'}{ends}.")
    return driver, problems, reasons


def cuda_numbers(tag: str) -> tuple[int, int]:
    """ "cu121" -> (12, 1)."""
    return int(tag[2:-1]), int(tag[-1])


def too_old(driver_version: str | None, cuda: str) -> bool:
    """Is this driver too old to run a build of PyTorch for this CUDA ("cu121")?"""
    if driver_version is None or cuda == "cpu":
        return False
    return numbers(driver_version)[0] < catalog.CUDA_MINIMUM_DRIVER[cuda_numbers(cuda)[0]]


def plan_torch(
    version: str, gpu: Gpu, row: catalog.Row, branch: int | None
) -> tuple[dict[str, Any] | None, list[str], list[str]]:
    """The build of a PyTorch release that a card and its driver can run, as (torch, problems, reasons)."""
    capability = row.compute_capability or ""
    builds = catalog.TORCH_BUILDS.get(version)
    if builds is None:
        return None, [f"PyTorch {version} is not in the table; use {listed(sorted(catalog.TORCH_BUILDS))}."], []
    with_kernels = sorted(
        (tag for tag, archs in builds.items() if tag != "cpu" and catalog.carries(archs, capability)),
        key=cuda_numbers,
        reverse=True,
    )
    if not with_kernels:
        return (
            None,
            [
                f"no build of PyTorch {version} has kernels for {title(gpu)} (compute capability "
                f"{capability}); use an engine with another PyTorch, or ask for the CPU."
            ],
            [],
        )
    needs = {tag: catalog.CUDA_MINIMUM_DRIVER[cuda_numbers(tag)[0]] for tag in with_kernels}
    running = [tag for tag in with_kernels if branch is None or branch >= needs[tag]]
    if not running:
        lowest = min(needs.values())
        return (
            None,
            [
                f"driver {branch} cannot run any build of PyTorch {version} that has kernels for {title(gpu)}: they "
                f"need branch {lowest} or newer; choose such a driver from another source."
            ],
            [],
        )
    tag = running[0]
    reasons = [f"PyTorch {version}+{tag} has kernels for compute capability {capability}."]
    if tag != with_kernels[0]:
        reasons.append(
            f"Not {version}+{with_kernels[0]}, as that needs driver {needs[with_kernels[0]]} or newer and this is "
            f"{branch}."
        )
    xformers = XFORMERS_FOR_TORCH.get(version)
    if xformers and not (
        row.xformers
        and numbers(row.xformers[0]) <= numbers(xformers)
        and (row.xformers[1] is None or numbers(xformers) <= numbers(row.xformers[1]))
    ):
        xformers = None
    return {"version": version, "cuda": tag, "xformers": xformers}, [], reasons


def torch_for(row: catalog.Row | None, engine: dict[str, Any]) -> str | None:
    """The PyTorch release to plan: the engine's, or the newest known that the card can run; None where none is used."""
    if engine:
        return engine.get("torch") or None
    capability = row.compute_capability if row else None
    known = sorted(catalog.TORCH_BUILDS, key=numbers, reverse=True)
    for version in [DEFAULT_TORCH, *known]:
        archs = [archs for tag, archs in catalog.TORCH_BUILDS.get(version, {}).items() if tag != "cpu"]
        if capability is None or any(catalog.carries(each, capability) for each in archs):
            return version
    return DEFAULT_TORCH


def fit_profile(wanted: str, engine: dict[str, Any]) -> tuple[str, str]:
    """The profile that the engine has: the wanted one, else the next one that needs less of the card; and why."""
    supported = engine.get("profiles") or list(PROFILES)
    if wanted in supported:
        return wanted, ""
    for profile in reversed(PROFILES[: PROFILES.index(wanted)]):
        if profile in supported:
            return profile, f"The engine {engine.get('name') or ''} has no profile {wanted}, so {profile}."
    return wanted, ""


def make_plan(
    gpus: list[Gpu], debian_release: str, engine: dict[str, Any] | None, overrides: dict[str, Any]
) -> dict[str, Any]:
    """The plan: what the roles install and run (the keys are documented at the module gpu_fp16_info)."""
    engine = engine or {}
    decision = decide(gpus, overrides)
    gpu, problems, reasons = decision["gpu"], list(decision["problems"]), list(decision["reasons"])
    driver: dict[str, Any] = dict.fromkeys(
        ("source", "branch", "version", "flavour", "kernel_module", "cuda"), None
    ) | {"wanted": False}
    torch: dict[str, Any] | None = None
    row = row_of(gpu) if gpu else None
    release = torch_for(row, engine)
    # decide() takes no card that has no row.
    if gpu and row:
        driver, found, why = plan_driver(gpu, row, debian_release, overrides)
        problems += found
        reasons += why
        # With a driver that was refused, a second complaint about what it cannot run helps nobody.
        if release:
            torch, found, why = plan_torch(release, gpu, row, None if problems else driver["branch"])
            problems += found
            reasons += why
    elif release:
        torch = {"version": release, "cuda": "cpu", "xformers": None}

    profile = decision["profile"]
    wish = overrides.get("profile") or "auto"
    if wish != "auto":
        if wish != "cpu" and not gpu:
            problems.append(f"the profile {wish} was asked for and no card can be used; ask for auto or cpu.")
        else:
            profile = wish
            reasons.append(f"The profile {wish} was asked for.")
    profile, why_profile = fit_profile(profile, engine)
    reasons += [why_profile] if why_profile else []
    ready = gpu is None or is_ready(gpu)
    if gpu and ready and torch and too_old(gpu["driver_version"], torch["cuda"]):
        ready = False
        reasons.append(f"The driver that is loaded, {gpu['driver_version']}, is too old for {torch['cuda']}.")
    profile_now = profile if ready else fit_profile("cpu", engine)[0]
    if not ready:
        reasons.append("The planned driver does not run yet: until it does, the profile cpu.")
    return {
        "schema": SCHEMA,
        "device": decision["device"],
        "gpu_index": decision["gpu_index"],
        "pci_address": gpu["pci_address"] if gpu else None,
        "gpu_name": gpu["name"] if gpu else None,
        "gpu_memory_mib": gpu["vram_mib"] if gpu else None,
        "broken_fp16": row is not None and row.fp16.known_broken,
        "profile": profile,
        "ready": ready,
        "profile_now": profile_now,
        "driver": driver,
        "torch": torch,
        "minimum_memory_mib": engine.get("minimum_memory_mib"),
        "problems": problems,
        # Those of them that concern the choice of the card, and not its driver.
        "device_problems": decision["problems"],
        "reasons": reasons,
    }
