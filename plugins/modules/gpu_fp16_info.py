# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_fp16_info
short_description: Tell what a host's graphics cards can do in FP16, and what to install for them
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Looks at the NVIDIA cards of the managed host, with or without a driver, and returns what each can do in half
    precision (FP16), which drivers and PyTorch builds still support it, and what else of the host matters for Stable
    Diffusion.
  - Decides from that whether a card or the CPU is used, and with which profile, and says why.
  - Returns a plan that joins Debian release, driver, CUDA and PyTorch. The roles of this collection carry it out.
  - Needs no root and no driver. A card that is not in the table is reported as unknown, never guessed.
attributes:
  check_mode:
    description: Can run in check mode and return what it would return otherwise.
    support: full
  diff_mode:
    description: Returns what has changed, or would change in check mode, with diff mode on.
    support: none
    details:
      - It never changes anything.
  idempotent:
    description: When run twice in a row with the same options, the second run reports no change.
    support: full
options:
  sources:
    description:
      - Where to look. What several sources tell is merged by PCI address, and for each value the first source of this
        list that knows it is believed, in whatever order O(sources) names them.
      - V(nvml) asks the driver's library through C(pynvml), in a process of its own.
      - V(nvidia_smi) runs C(nvidia-smi). It is not run when V(nvml) hung, because it would hang as well.
      - V(pci) reads the PCI bus in sysfs, which needs no driver, but cannot tell how much memory a card has.
    type: list
    elements: str
    choices:
      - nvml
      - nvidia_smi
      - pci
    default:
      - nvml
      - nvidia_smi
      - pci
  sysfs_path:
    description:
      - Where sysfs is mounted.
    type: path
    default: /sys
  pci_ids_path:
    description:
      - The file with the names of the PCI ids, which tell the chip of a card.
      - The default, also used when this is empty, is the first of C(/usr/share/misc/pci.ids) and
        C(/usr/share/hwdata/pci.ids) that exists.
    type: path
  timeout:
    description:
      - How many seconds to wait for V(nvml), and for V(nvidia_smi). A driver in trouble can hang for ever, so what is
        late is killed and not waited for.
    type: float
    default: 10
  probe_python:
    description:
      - A Python interpreter with PyTorch, such as the web UI's. It computes on the chosen card and returns
        RV(torch_probe). This proves that driver, PyTorch and card fit each other.
    type: path
  probe_timeout:
    description:
      - How many seconds to wait for O(probe_python). PyTorch takes long to load from a slow disk.
    type: float
    default: 120
  debian_release:
    description:
      - The Debian release to plan for, such as V(12). The default, also used when this is empty, is the host's own.
    type: str
  engine:
    description:
      - The engine to plan for. Without it, the plan is for a PyTorch release that suits the card.
    type: dict
    suboptions:
      name:
        description: The engine's name.
        type: str
        required: true
      torch:
        description: The PyTorch release that the engine wants, such as V(2.1.2). Empty for an engine without PyTorch.
        type: str
      profiles:
        description: The profiles that the engine has. Empty for all.
        type: list
        elements: str
        choices:
          - cpu
          - gpu_lowvram
          - gpu_medvram
          - gpu_full
      minimum_memory_mib:
        description: How much memory the host must have, in MiB.
        type: int
  overrides:
    description:
      - What the owner of the host wants instead of what suits the card. A wish that cannot be granted is in
        RV(plan.problems) with the reason and the nearest possible choice.
    type: dict
    default: {}
    suboptions:
      device:
        description:
          - V(cpu) leaves the cards alone. V(gpu) also uses a card that is too old or too small to be advised.
        type: str
        choices:
          - auto
          - cpu
          - gpu
        default: auto
      gpu:
        description:
          - The card to use, by index, UUID or PCI address. Empty for the best one. Quote an address in YAML, which
            takes V(01:00.0) for a number.
        type: str
        default: ''
      driver_source:
        description: Where the driver comes from.
        type: str
        choices:
          - debian
          - nvidia_repo
          - runfile
        default: debian
      driver_branch:
        description: The driver branch, such as V(535). V(auto) is the newest that the source has for the card.
        type: str
        default: auto
      driver_version:
        description: The version of the driver in the runfile, such as V(530.30.02).
        type: str
        default: ''
      kernel_module:
        description: The flavour of the kernel module. V(auto) is the one that suits the card.
        type: str
        choices:
          - auto
          - proprietary
          - open
        default: auto
      profile:
        description: The profile. V(auto) is the one that suits the card's memory.
        type: str
        choices:
          - auto
          - cpu
          - gpu_lowvram
          - gpu_medvram
          - gpu_full
        default: auto
requirements:
  - C(pynvml) for the source V(nvml) (Debian's python3-pynvml, or nvidia-ml-py)
  - the package pci.ids, to tell a card's chip before its driver runs
notes:
  - A question to NVML or to C(nvidia-smi) makes an installed driver load its kernel module, as every use of the card
    does.
seealso:
  - module: secondhand.diffusion.sd_benchmark
"""

EXAMPLES = r"""
- name: Look at the graphics cards
  secondhand.diffusion.gpu_fp16_info:
  register: look

- name: Say what was decided and why
  ansible.builtin.debug:
    msg: "{{ [look.device, look.profile] + look.reasons }}"

- name: Look without touching the driver
  secondhand.diffusion.gpu_fp16_info:
    sources:
      - pci

- name: Plan for an engine that wants PyTorch 2.1.2, with a driver from NVIDIA's installer
  secondhand.diffusion.gpu_fp16_info:
    engine:
      name: automatic1111
      torch: 2.1.2
    overrides:
      driver_source: runfile
      driver_version: 530.30.02
  register: look

- name: Compute on the card with the web UI's PyTorch
  secondhand.diffusion.gpu_fp16_info:
    probe_python: /opt/sd-webui/current/venv/bin/python
  register: proof
  failed_when: proof.device == 'gpu' and proof.torch_probe.problem is not none
"""

RETURN = r"""
gpus:
  description: The NVIDIA cards, by PCI address.
  returned: always
  type: list
  elements: dict
  contains:
    index:
      description:
        - The driver's number of the card. Where no driver answers, its place on the bus, which is what the driver will
          count. Null for a card that the driver does not see beside one that it sees.
      type: int
      sample: 0
    name:
      description: The name of the card.
      type: str
      sample: NVIDIA GeForce GTX 750 Ti
    uuid:
      description: The driver's UUID of the card. Null where no driver answers.
      type: str
      sample: GPU-6ee8e0d0-5a5c-4c0e-a7c0-6a7b0e0c9f11
    pci_address:
      description: The PCI address, with a domain of four digits.
      type: str
      sample: "0000:01:00.0"
    pci_id:
      description: Vendor and device id.
      type: str
      sample: 10de:1380
    chip:
      description: The codename of the chip. Null where pci.ids does not tell it.
      type: str
      sample: GM107
    architecture:
      description: The generation of the chip. Null for a chip that is not in the table.
      type: str
      sample: Maxwell
    compute_capability:
      description: The CUDA compute capability. Null before CUDA, and for a chip that is not in the table.
      type: str
      sample: "5.0"
    vram_mib:
      description: Memory of the card in MiB. Null where no driver answers.
      type: int
      sample: 1999
    driver_version:
      description: Version of the NVIDIA driver that is loaded and has this card.
      type: str
      sample: 535.261.03
    bound_driver:
      description:
        - The kernel driver that has the card, such as V(nvidia), V(nouveau) or V(vfio-pci). V(none) without one. Null
          where that cannot be seen.
      type: str
      sample: nvidia
    source:
      description: The most trusted source that saw the card. The card answers unless this is V(pci).
      type: str
      sample: nvml
    fp16:
      description:
        - What the card can do in half precision. All values but RV(gpus[].fp16.reason) are null for an unknown chip.
      type: dict
      contains:
        storage:
          description: Whether it stores FP16, so that a model takes half the memory.
          type: bool
        arithmetic:
          description: Whether it computes in FP16.
          type: bool
        rate_vs_fp32:
          description: How fast FP16 arithmetic is against FP32, without tensor cores. Null without FP16 arithmetic.
          type: float
        tensor_cores:
          description: Whether it has tensor cores.
          type: bool
        bf16:
          description: Whether it computes in bfloat16.
          type: bool
        known_broken:
          description: Whether FP16 arithmetic is known to give black pictures on this chip.
          type: bool
        reason:
          description: The same in a sentence, or why it is not known.
          type: str
    driver:
      description: Which NVIDIA drivers support the card.
      type: dict
      contains:
        last_branch:
          description:
            - The last driver branch. Null while the newest one supports it, and for an unknown chip. V(0) for a chip
              that is not made for PCs, so that no driver for them ever did.
          type: int
          sample: 580
        open_module:
          description: Whether NVIDIA's open kernel module is V(unsupported), V(supported) or V(required).
          type: str
          sample: unsupported
    torch:
      description: Which official PyTorch builds have kernels for the card.
      type: dict
      contains:
        supported:
          description: Whether any had. Null for an unknown chip.
          type: bool
        last_version:
          description: The last PyTorch release. Null while the newest one has them, and where none ever had.
          type: str
        last_cuda:
          description: The last CUDA release that can build for the card. Null while the newest one can, or none ever.
          type: str
          sample: "12.9"
    from:
      description:
        - Where each value comes from. One of V(nvml), V(nvidia_smi), V(pci), V(pci_ids) (the file with the names) and
          V(table) (the hardware table of this collection).
      type: dict
      sample:
        vram_mib: nvml
        bound_driver: pci
        fp16: table
other_gpus:
  description: Cards of other vendors, which are not used.
  returned: always
  type: list
  elements: dict
  sample:
    - pci_address: "0000:00:02.0"
      pci_id: 8086:0152
      name: Xeon E3-1200 v2/3rd Gen Core processor Graphics Controller
host:
  description: What else matters. A value that the kernel does not tell is null.
  returned: always
  type: dict
  contains:
    memory_mib:
      description: Memory in MiB.
      type: int
      sample: 7843
    swap_mib:
      description: Swap in MiB.
      type: int
      sample: 975
    cpu_model:
      description: Name of the processor.
      type: str
      sample: Intel(R) Core(TM) i5-2300 CPU @ 2.80GHz
    cores:
      description: How many logical processors may be used.
      type: int
      sample: 4
    flags:
      description: Whether the processor has the instructions C(avx), C(avx2), C(avx512f), C(f16c) and C(sha_ni).
      type: dict
      sample:
        avx: true
        avx2: false
        avx512f: false
        f16c: false
        sha_ni: false
debian_release:
  description: The Debian release that was planned for. Empty where it is none.
  returned: always
  type: str
  sample: "12"
device:
  description: V(gpu) or V(cpu).
  returned: always
  type: str
  sample: gpu
profile:
  description: The profile that suits the device. One of V(cpu), V(gpu_lowvram), V(gpu_medvram) and V(gpu_full).
  returned: always
  type: str
  sample: gpu_lowvram
gpu_index:
  description: RV(gpus[].index) of the chosen card. Null on the CPU.
  returned: always
  type: int
  sample: 0
reasons:
  description:
    - Why, in sentences. What disturbed the look is among them, and cards that are not used.
  returned: always
  type: list
  elements: str
  sample:
    - NVIDIA GeForce GTX 750 Ti at 0000:01:00.0 is used.
    - It has 1999 MiB of memory, so gpu_lowvram.
sources:
  description: What was asked.
  returned: always
  type: list
  elements: dict
  contains:
    source:
      description: V(nvml), V(nvidia_smi) or V(pci).
      type: str
      sample: nvidia_smi
    problem:
      description: Why it does not tell all that it could, and what to do about it. Null when it does.
      type: str
      sample: "There is no nvidia-smi on this host: it comes with NVIDIA's driver."
plan:
  description: What to install and to run.
  returned: always
  type: dict
  contains:
    schema:
      description: The version of this layout.
      type: int
      sample: 1
    device:
      description: V(gpu) or V(cpu).
      type: str
      sample: gpu
    gpu_index:
      description: RV(gpus[].index) of the chosen card. Null on the CPU.
      type: int
      sample: 0
    pci_address:
      description: The PCI address of the chosen card. Null on the CPU.
      type: str
      sample: "0000:01:00.0"
    gpu_name:
      description: The name of the chosen card. Null on the CPU.
      type: str
      sample: NVIDIA GeForce GTX 750 Ti
    gpu_memory_mib:
      description: The memory of the chosen card in MiB. Null on the CPU, and as long as no driver tells it.
      type: int
      sample: 1999
    broken_fp16:
      description: Whether the chosen card computes black pictures in half precision (the GeForce GTX 16 series).
      type: bool
    profile:
      description: The profile to run once the driver runs, among those that the engine has.
      type: str
      sample: gpu_lowvram
    ready:
      description: Whether the device can be used right now.
      type: bool
    profile_now:
      description: The profile to run until RV(plan.ready) is true.
      type: str
      sample: cpu
    driver:
      description: The driver to install.
      type: dict
      contains:
        wanted:
          description: Whether a driver is to be installed at all. All else is null without.
          type: bool
        source:
          description: V(debian), V(nvidia_repo) or V(runfile).
          type: str
          sample: debian
        branch:
          description: The driver branch.
          type: int
          sample: 535
        version:
          description: The exact version, where it is known beforehand.
          type: str
        flavour:
          description: The stem of Debian's package names. Null for other sources.
          type: str
          sample: nvidia
        kernel_module:
          description: V(proprietary) or V(open).
          type: str
          sample: proprietary
        cuda:
          description: The newest CUDA release that this driver runs.
          type: str
          sample: "12.2"
    torch:
      description: The PyTorch build to install. Null for an engine without PyTorch.
      type: dict
      contains:
        version:
          description: The release.
          type: str
          sample: 2.1.2
        cuda:
          description: The build, V(cpu) or a CUDA tag.
          type: str
          sample: cu121
        xformers:
          description: The release of xformers that fits it and has kernels for the card. Null without one.
          type: str
          sample: 0.0.23.post1
    minimum_memory_mib:
      description: The O(engine.minimum_memory_mib) that was asked for.
      type: int
    problems:
      description: Why the plan cannot be carried out, in sentences. Empty when it can.
      type: list
      elements: str
    device_problems:
      description: Those of RV(plan.problems) that concern the choice of the card, and not its driver.
      type: list
      elements: str
    reasons:
      description: Why it is so, in sentences, RV(reasons) included.
      type: list
      elements: str
torch_probe:
  description: What PyTorch itself says of the chosen card, or of the first that it finds where the CPU was chosen.
  returned: with O(probe_python)
  type: dict
  contains:
    python:
      description: The interpreter that was asked.
      type: str
      sample: /opt/sd-webui/current/venv/bin/python
    ran:
      description: Whether PyTorch could be imported.
      type: bool
    torch_version:
      description: Its version.
      type: str
      sample: 2.1.2+cu121
    cuda:
      description: The CUDA release that it was built for. Null for a build for the CPU.
      type: str
      sample: "12.1"
    arch_list:
      description: What it has kernels for.
      type: list
      elements: str
      sample: [sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90]
    device_name:
      description: The name of the card. Null where PyTorch cannot use one.
      type: str
      sample: NVIDIA GeForce GTX 750 Ti
    compute_capability:
      description: The card's compute capability. Null where PyTorch cannot use one.
      type: str
      sample: "5.0"
    vram_mib:
      description: Memory of the card in MiB. Null where PyTorch cannot use one.
      type: int
      sample: 1999
    supported:
      description: Whether it has kernels for the card. Null where one of the two is not known.
      type: bool
    fp16_matmul:
      description: A matrix product in FP16, against the same in FP32.
      type: dict
      contains:
        ran:
          description: Whether it ran.
          type: bool
        finite:
          description: Whether all values of the result are finite. Null where it did not run.
          type: bool
        max_error:
          description: The largest difference, as a share of the largest value. Null where there is none.
          type: float
          sample: 0.0005
    fp16_convolution:
      description: A convolution in FP16, against the same in FP32.
      type: dict
      contains:
        ran:
          description: Whether it ran.
          type: bool
        finite:
          description: Whether all values of the result are finite. Null where it did not run.
          type: bool
        max_error:
          description: The largest difference, as a share of the largest value. Null where there is none.
          type: float
          sample: 0.0005
    fp16_speedup:
      description: The time in FP32 divided by that in FP16. Above 1, FP16 is faster. Null where it was not measured.
      type: float
      sample: 1.02
    problem:
      description: Why the card cannot be used with this PyTorch, and what to do about it. Null when it can.
      type: str
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.secondhand.diffusion.plugins.module_utils import (
    _gpu_merge,
    _host,
    _nvidia_smi,
    _nvml,
    _pci,
    _plan,
    _torch_probe,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import Source

# Most trusted first.
_SOURCES = ("nvml", "nvidia_smi", "pci")
_PROFILES = list(_plan.PROFILES)
_VENDORS = {"1002": "AMD", "8086": "Intel"}


class Unusable(Exception):
    """The options cannot be used as they are; the message is one sentence with the next step."""


def look(params: dict[str, Any]) -> dict[str, Any]:
    """Everything that the module returns."""
    for name in ("timeout", "probe_timeout"):
        if not params[name] > 0:
            raise Unusable(f"{name} is {params[name]:g}: give a number above 0.")
    if not params["sources"]:
        raise Unusable("sources is empty: name at least one of nvml, nvidia_smi and pci.")
    sources, others = ask(params)
    ids = {gpu["pci_id"] for source in sources for gpu in source["gpus"] if gpu["pci_id"]}
    names, no_names = _pci.read_names([*ids, *(other["pci_id"] for other in others)], params["pci_ids_path"] or None)
    for other in others:
        other["name"] = (names or {}).get(other["pci_id"])
    gpus = _gpu_merge.merge(sources, names or {})
    for gpu in gpus:
        if names is None and gpu["architecture"] is None:
            # The chip may well be in the table; a remark says what is the matter with pci.ids.
            gpu["fp16"]["reason"] = f"the chip of {gpu['pci_id']} cannot be looked up"
    host = _host.describe()
    release = params["debian_release"] or _host.debian_release()
    decision = _plan.decide(gpus, params["overrides"])
    plan = _plan.make_plan(gpus, release, params["engine"], params["overrides"])
    notes = remarks(sources, gpus, others, no_names) if params["overrides"]["device"] != "cpu" else []
    result = {
        "changed": False,
        "gpus": gpus,
        "other_gpus": others,
        "host": host,
        "debian_release": release,
        "device": decision["device"],
        "profile": decision["profile"],
        "gpu_index": decision["gpu_index"],
        "reasons": [
            *decision["reasons"],
            *(problem[:1].upper() + problem[1:] for problem in decision["problems"]),
            *notes,
        ],
        "sources": [{"source": source["source"], "problem": source["problem"]} for source in sources],
        "plan": {**plan, "reasons": [*plan["reasons"], *notes]},
    }
    if params["probe_python"]:
        result["torch_probe"] = _torch_probe.probe(params["probe_python"], decision["gpu"], params["probe_timeout"])
    return result


def ask(params: dict[str, Any]) -> tuple[list[Source], list[_pci.OtherGpu]]:
    """What the sources answer, most trusted first, and the cards of other vendors."""
    answers: list[Source] = []
    others: list[_pci.OtherGpu] = []
    hung = False
    for name in (name for name in _SOURCES if name in params["sources"]):
        if name == "nvml":
            began = time.monotonic()
            answers.append(_nvml.probe(params["timeout"]))
            hung = time.monotonic() - began >= params["timeout"]
        elif name == "nvidia_smi":
            answers.append(_nvidia_smi.probe(params["timeout"], skip=hung))
        else:
            answer, others = _pci.probe(params["sysfs_path"])
            answers.append(answer)
    return answers, others


def remarks(
    sources: list[Source], gpus: list[dict[str, Any]], others: list[_pci.OtherGpu], no_names: str | None
) -> list[str]:
    """The cards that are not used, and the troubles without which the decision might be another."""
    found = [source["problem"] for source in sources if source["source"] == "pci"]
    blind = not gpus and found != [None]
    silent = any(
        gpu["bound_driver"] == "nvidia" and (gpu["source"] == "pci" or gpu["vram_mib"] is None) for gpu in gpus
    )
    if blind or silent:
        # Nothing else could see that there is no card, or a card's own driver does not tell of it.
        found += [source["problem"] for source in sources if source["source"] != "pci"]
    if any(gpu["architecture"] is None for gpu in gpus):
        found.append(no_names)
    return [
        *(problem for problem in found if problem),
        *(f"{title(other)} is not used: only NVIDIA's cards are." for other in others),
    ]


def title(other: _pci.OtherGpu) -> str:
    vendor = _VENDORS.get(other["pci_id"][:4], "")
    return f"The {vendor} card at {other['pci_address']} ({other['name'] or other['pci_id']})".replace("  ", " ")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sources": {"type": "list", "elements": "str", "choices": list(_SOURCES), "default": list(_SOURCES)},
            "sysfs_path": {"type": "path", "default": "/sys"},
            "pci_ids_path": {"type": "path"},
            "timeout": {"type": "float", "default": 10},
            "probe_python": {"type": "path"},
            "probe_timeout": {"type": "float", "default": 120},
            "debian_release": {"type": "str"},
            "engine": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "torch": {"type": "str"},
                    "profiles": {"type": "list", "elements": "str", "choices": _PROFILES},
                    "minimum_memory_mib": {"type": "int"},
                },
            },
            "overrides": {
                "type": "dict",
                "default": {},
                "options": {
                    "device": {"type": "str", "choices": ["auto", "cpu", "gpu"], "default": "auto"},
                    "gpu": {"type": "str", "default": ""},
                    "driver_source": {
                        "type": "str",
                        "choices": ["debian", "nvidia_repo", "runfile"],
                        "default": "debian",
                    },
                    "driver_branch": {"type": "str", "default": "auto"},
                    "driver_version": {"type": "str", "default": ""},
                    "kernel_module": {"type": "str", "choices": ["auto", "proprietary", "open"], "default": "auto"},
                    "profile": {"type": "str", "choices": ["auto", *_PROFILES], "default": "auto"},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        result = look(module.params)
    except Unusable as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
