# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One card out of what several sources and the hardware table tell. Private: not an interface for others."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.secondhand.diffusion.plugins.module_utils import _gpu_catalog as catalog
from ansible_collections.secondhand.diffusion.plugins.module_utils._pci import FOR_VIRTUAL_MACHINES
from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import Source

# What a source tells of a card; the first source that knows a value is believed.
_TOLD = ("index", "uuid", "name", "pci_id", "compute_capability", "vram_mib", "bound_driver")
_UNKNOWN_FP16 = dict.fromkeys(field.name for field in dataclasses.fields(catalog.Fp16))


def merge(sources: Sequence[Source], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The cards in the order of their PCI addresses.

    ``sources`` come most trusted first; ``names`` are those of pci.ids: "GM107 [GeForce GTX 750 Ti]" for "10de:1380".
    """
    addresses = sorted({gpu["pci_address"] for source in sources for gpu in source["gpus"]}, key=_order)
    gpus = [_told(address, sources) for address in addresses]
    if all(gpu["index"] is None for gpu in gpus):
        # The order in which the driver will count them.
        counted = [gpu for gpu in gpus if gpu["bound_driver"] not in FOR_VIRTUAL_MACHINES]
        for index, gpu in enumerate(counted):
            gpu["index"] = index
            gpu["from"]["index"] = "pci"
    for gpu in gpus:
        _look_up(gpu, names.get(gpu["pci_id"] or ""))
        gpu["from"] = dict(sorted(gpu["from"].items()))
    return gpus


def _order(address: str) -> tuple[int, ...]:
    return tuple(int(part, 16) for part in re.split("[:.]", address))


def _told(address: str, sources: Sequence[Source]) -> dict[str, Any]:
    """What the sources tell of one card."""
    gpu: dict[str, Any] = {"pci_address": address, "source": None, "driver_version": None, "from": {}}
    gpu.update(dict.fromkeys(_TOLD))
    for source in sources:
        for entry in source["gpus"]:
            seen: dict[str, Any] = {**entry}
            if seen["pci_address"] != address:
                continue
            gpu["source"] = gpu["source"] or source["source"]
            for key in _TOLD:
                if gpu[key] is None and seen[key] is not None:
                    gpu[key] = seen[key]
                    gpu["from"][key] = source["source"]
    for source in sources:
        # The version of a loaded driver says nothing about a card that another driver has.
        if gpu["bound_driver"] == "nvidia" and gpu["driver_version"] is None and source["driver_version"]:
            gpu["driver_version"] = source["driver_version"]
            gpu["from"]["driver_version"] = source["source"]
    return gpu


def _look_up(gpu: dict[str, Any], pci_name: str | None) -> None:
    """Adds what the table knows of the card."""
    chip = catalog.chip_of(pci_name) if pci_name else None
    row = catalog.row_of_device(gpu["pci_id"] or "", pci_name or "")
    capability = gpu["compute_capability"]
    if capability and (row is None or row.compute_capability != capability):
        # The driver has asked the card itself.
        row = catalog.row_of_compute_capability(capability, gpu["name"] or "", gpu["pci_id"] or "")
    if gpu["name"] is None and pci_name:
        # "GM107 [GeForce GTX 750 Ti]" is the chip and, in brackets, what is written on the box.
        box = re.search(r"\[(.+)\]", pci_name)
        gpu["name"] = box[1] if box else pci_name
        gpu["from"]["name"] = "pci_ids"
    if chip and row and catalog.row_of_device(gpu["pci_id"] or "", f"{chip} [{gpu['name']}]") is not row:
        # The name of pci.ids is wrong for this id; whoever goes by the chip would take the wrong row.
        chip = None
    gpu["chip"] = chip
    if chip:
        gpu["from"]["chip"] = "pci_ids"
    if row is None:
        what = f"{gpu['pci_id'] or 'without an id'}{f' ({pci_name})' if pci_name else ''}"
        gpu.update(
            architecture=None,
            fp16={**_UNKNOWN_FP16, "reason": f"unknown chip {what}, not in the table"},
            driver={"last_branch": None, "open_module": None},
            torch={"supported": None, "last_version": None, "last_cuda": None},
        )
        return
    had_torch = row.compute_capability is not None and (row.last_torch is not None or row.last_cuda is None)
    gpu.update(
        architecture=row.architecture,
        fp16=dataclasses.asdict(row.fp16),
        driver={"last_branch": row.last_branch, "open_module": row.open_module},
        torch={"supported": had_torch, "last_version": row.last_torch, "last_cuda": row.last_cuda},
    )
    gpu["from"].update(dict.fromkeys(("architecture", "fp16", "driver", "torch"), "table"))
    if capability is None and row.compute_capability:
        gpu["compute_capability"] = row.compute_capability
        gpu["from"]["compute_capability"] = "table"
