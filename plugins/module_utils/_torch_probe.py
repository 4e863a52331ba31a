# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What PyTorch itself says of a graphics card. Private to this collection: not an interface for others."""

from __future__ import annotations

import inspect
import json
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.secondhand.diffusion.plugins.module_utils import _gpu_catalog as catalog
from ansible_collections.secondhand.diffusion.plugins.module_utils import _torch_probe_script
from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import (
    Outcome,
    run_disposable,
    signal_name,
)

# Rounding to FP16 costs a thousandth; a card that computes wrongly is off by far more than this.
_ERROR_LIMIT = 0.05
_KERNEL_LOG = "look for NVRM or Xid lines in the kernel log (dmesg)"
# What PyTorch says when it cannot use a card, and what it means; the first that fits is taken.
_ERRORS = (
    ("no kernel image is available", "{build} has no kernels for {card}: install a build that has them."),
    ("Found no NVIDIA driver", "{build} finds no NVIDIA driver: install one, or reboot after its installation."),
    ("No CUDA GPUs are available", "{build} sees no card: check with `nvidia-smi` that the driver sees it."),
    (
        r"CUDA unknown error|driver initialization failed",
        "{build} cannot start CUDA ({text}): check that /dev/nvidia-uvm exists, which `nvidia-modprobe -u -c 0` makes.",
    ),
    (
        r"Error 80[34]",
        "{build} cannot start CUDA ({text}): the loaded NVIDIA kernel module is not of the libraries' version; reboot.",
    ),
    ("out of memory", "The memory of {card} is full ({text}): stop what uses it, such as the web UI, and ask again."),
)


def probe(python: str, gpu: Mapping[str, Any] | None, timeout: float) -> dict[str, Any]:
    """Lets the PyTorch of the interpreter ``python`` compute on ``gpu``, or on the first card that it finds."""
    # Isolated: neither this user's packages nor PYTHON* variables; and nothing is written beside PyTorch's files.
    command = [python, "-I", "-B", "-c", inspect.getsource(_torch_probe_script)]
    wanted = (gpu["index"] if gpu["uuid"] is None else gpu["uuid"]) if gpu else None
    if wanted is not None:
        command += [str(wanted)]
    result: dict[str, Any] = {
        "python": python,
        "ran": False,
        "torch_version": None,
        "cuda": None,
        "arch_list": [],
        "device_name": None,
        "compute_capability": None,
        "vram_mib": None,
        "supported": None,
        "fp16_matmul": {"ran": False, "finite": None, "max_error": None},
        "fp16_convolution": {"ran": False, "finite": None, "max_error": None},
        "fp16_speedup": None,
        "problem": None,
    }
    try:
        outcome = run_disposable(command, timeout)
    except OSError as exc:
        result["problem"] = (
            f"The interpreter {python} does not start ({exc.strerror}): install the web UI, or correct the path."
        )
        return result
    report = last_report(outcome.output)
    for name in result:
        if isinstance(report.get(name), dict):
            result[name].update(report[name])
        elif name in report:
            result[name] = report[name]
    result["ran"] = result["torch_version"] is not None
    # Where no driver runs yet, the table knows what the card will be.
    capability: str | None = result["compute_capability"] or (gpu["compute_capability"] if gpu else None)
    if result["cuda"] and capability:
        result["supported"] = supported(result["arch_list"], capability)
    card: str = result["device_name"] or (gpu["name"] if gpu else None) or "the card"
    if gpu is None and result["ran"] and result["cuda"] is None:
        # The CPU was chosen, and this build is for it.
        return result
    result["problem"] = explain(result, report, outcome, timeout, card, capability)
    return result


def last_report(output: str) -> dict[str, Any]:
    """The last complete line; a crash may have cut one short."""
    for line in reversed(output.splitlines()):
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict):
            return report
    return {}


def supported(arch_list: Sequence[str], capability: str) -> bool:
    """Whether a build's kernels run on the card: machine code for it, or code that the driver can still translate."""
    compiled: list[str] = []
    translated: list[str] = []
    for arch in arch_list:
        # "sm_90a" holds extras for 9.0 alone, beside "sm_90".
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)", arch)
        if match:
            (compiled if match[1] == "sm" else translated).append(f"{match[2]}.{match[3]}")
    if catalog.carries(tuple(compiled), capability):
        return True
    return any(_number(base) <= _number(capability) for base in translated)


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def explain(
    result: Mapping[str, Any],
    report: Mapping[str, Any],
    outcome: Outcome,
    timeout: float,
    card: str,
    capability: str | None,
) -> str | None:
    """The first thing that stands in the way, in one sentence; None when FP16 works."""
    build = f"torch {result['torch_version']}"
    step = report.get("step", "the start of Python")
    error = str(report.get("error", "")).strip()
    first_line = error.partition("\n")[0].strip()[:300].rstrip(".")
    if report.get("missing") == "torch":
        return f"{result['python']} has no PyTorch: install the web UI's packages, or correct the path."
    if error and not result["ran"]:
        return f"The PyTorch of {result['python']} cannot be imported ({first_line}): install it again."
    if result["ran"] and result["cuda"] is None:
        return f"{build} is built without CUDA: install a CUDA build to use {card}."
    if result["supported"] is False:
        return (
            f"{build} has no kernels for {card}, which needs sm_{str(capability).replace('.', '')} "
            f"(it has {', '.join(result['arch_list']) or 'none'}): install a build that has them."
        )
    if outcome.hung:
        ignored = ", not even to SIGKILL" if outcome.undead else ""
        return f"PyTorch did not answer{ignored} within {timeout:g} s, in {step}: give it more time, or {_KERNEL_LOG}."
    if error:
        return _explain_error(error, first_line, build, card, step, result["cuda"])
    if not report.get("done"):
        return _explain_end(outcome, step)
    return _judge(result, card)


def _explain_error(error: str, first_line: str, build: str, card: str, step: str, cuda: str) -> str:
    old = re.search(r"driver on your system is too old \(found version (\d+)\)", error)
    if old:
        runs = f"{int(old[1]) // 1000}.{int(old[1]) % 1000 // 10}"
        branch = catalog.CUDA_MINIMUM_DRIVER.get(int(cuda.partition(".")[0]))
        newer = f"driver {branch} or newer" if branch else "a newer driver"
        return (
            f"The NVIDIA driver is too old for {build}, as it runs CUDA {runs} at most: "
            f"install {newer}, or a build for CUDA {runs.partition('.')[0]}."
        )
    for pattern, sentence in _ERRORS:
        if re.search(pattern, error):
            return sentence.format(build=build, card=card, text=first_line)
    return f"{build} failed in {step} ({first_line}): {_KERNEL_LOG}."


def _explain_end(outcome: Outcome, step: str) -> str:
    said = outcome.errors.strip().rpartition("\n")[2].strip()[:300].rstrip(".")
    if outcome.returncode is None:
        return f"PyTorch printed without end in {step}: install it again."
    if outcome.returncode == -signal.SIGILL:
        return (
            f"PyTorch crashed in {step} (SIGILL): this processor lacks instructions of the build; install an older one."
        )
    if outcome.returncode == -signal.SIGKILL:
        return f"PyTorch was killed in {step} (SIGKILL): if the kernel log (dmesg) tells of memory, add memory or swap."
    if outcome.returncode < 0:
        return f"PyTorch crashed in {step} ({signal_name(-outcome.returncode)}): {_KERNEL_LOG}."
    return f"PyTorch ended in {step} with exit status {outcome.returncode}{said and f' ({said})'}: install it again."


def _judge(result: Mapping[str, Any], card: str) -> str | None:
    for name, what in (("fp16_matmul", "matrix product"), ("fp16_convolution", "convolution")):
        found = result[name]
        if not found["finite"]:
            if found.get("finite_with_cudnn_benchmark"):
                return (
                    f"The FP16 {what} on {card} gives infinite values or NaN, as known of the GTX 16xx, "
                    "but not in cuDNN's benchmark mode: use an engine that switches it on, or FP32."
                )
            return f"The FP16 {what} on {card} gives infinite values or NaN: let the engine compute in FP32."
        if found["max_error"] > _ERROR_LIMIT:
            return (
                f"The FP16 {what} on {card} is off by {found['max_error']:.0%} of the largest value: "
                "let the engine compute in FP32."
            )
    return None
