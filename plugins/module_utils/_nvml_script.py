# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks NVML through pynvml and prints what it says as JSON. Private to this collection: not an interface for others.

``_nvml`` gives this text to a Python of its own, so it imports nothing of the collection.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any, Callable

# These mean that this card, or this driver, does not have the value: nothing is wrong.
_NO_SUCH_VALUE = {3, 13}  # NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_FUNCTION_NOT_FOUND
# After these the card answers nothing, or nothing that can be believed.
_UNUSABLE = {15, 16}  # NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED


class CardError(Exception):
    """The card cannot be used, for the reason that NVML gives."""


def text(value: Any) -> str:
    """Old releases of pynvml return bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def reason(nvml: Any, error: Any) -> str:
    """What NVML calls the error; without the library only pynvml's own list is left."""
    try:
        return text(nvml.nvmlErrorString(error.value))
    except nvml.NVMLError:
        return str(error)


def ask_machine(nvml: Any) -> dict[str, Any]:
    """Everything that is wanted of NVML, once it has started."""
    answer: dict[str, Any] = {"driver_version": None, "gpus": [], "failures": []}
    try:
        answer["driver_version"] = text(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as exc:
        if exc.value not in _NO_SUCH_VALUE:
            answer["failures"].append(f"driver version: {reason(nvml, exc)}")
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            answer["gpus"].append(ask_card(nvml, index, answer["failures"]))
        except CardError as exc:
            answer["failures"].append(f"GPU {index}: {exc}")
    return answer


def ask_card(nvml: Any, index: int, failures: list[str]) -> dict[str, Any]:
    """One card; a value that NVML does not have is None, and a reason worth knowing is added to the failures."""

    def value(what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except AttributeError:
            # This pynvml is older than the call.
            return None
        except nvml.NVMLError as exc:
            if exc.value in _UNUSABLE:
                raise CardError(reason(nvml, exc)) from exc
            if exc.value not in _NO_SUCH_VALUE:
                failures.append(f"{what} of GPU {index}: {reason(nvml, exc)}")
            return None

    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        pci = nvml.nvmlDeviceGetPciInfo(handle)
    except nvml.NVMLError as exc:
        raise CardError(reason(nvml, exc)) from exc
    name = value("name", lambda: text(nvml.nvmlDeviceGetName(handle)))
    uuid = value("UUID", lambda: text(nvml.nvmlDeviceGetUUID(handle)))
    memory = value("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total // (1024 * 1024))
    capability = value("compute capability", lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    return {
        "index": index,
        # The low half of NVML's number is the vendor.
        "pci_address": f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0",
        "pci_id": f"{pci.pciDeviceId & 0xFFFF:04x}:{pci.pciDeviceId >> 16:04x}",
        "name": name,
        "uuid": uuid,
        "compute_capability": None if capability is None else f"{capability[0]}.{capability[1]}",
        "vram_mib": memory,
        "bound_driver": "nvidia",
    }


def main() -> dict[str, Any]:
    """The answer, or the number and text of the error that ended it all."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as exc:
        return {"missing": str(exc)}
    try:
        nvml.nvmlInit()
        return ask_machine(nvml)
    except nvml.NVMLError as exc:
        return {"error": exc.value, "text": reason(nvml, exc)}


if __name__ == "__main__":
    # The JSON is the last line, whatever else is printed.
    sys.stdout.write("\n" + json.dumps(main()) + "\n")
