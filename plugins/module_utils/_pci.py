# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Graphics cards on the PCI bus, with no driver needed. Private to this collection: not an interface for others."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from typing import TypedDict

from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import Gpu, Source, normal_address

# Debian's package pci.ids, and hwdata.
PCI_IDS_PATHS = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")
NVIDIA = "10de"
# The base class of display controllers: 0x0300 VGA, 0x0302 3D (cards without an output, and of laptops), 0x0380 other.
_DISPLAY = "0x03"
# Drivers that keep a card for a guest.
FOR_VIRTUAL_MACHINES = ("vfio-pci", "pci-stub", "xen-pciback", "pciback")


class OtherGpu(TypedDict):
    """A graphics card of another vendor."""

    pci_address: str
    pci_id: str
    name: str | None


def probe(sysfs_path: str = "/sys") -> tuple[Source, list[OtherGpu]]:
    """NVIDIA's cards in the order of the bus, as a source, and the cards of others."""
    gpus: list[Gpu] = []
    others: list[OtherGpu] = []
    problem: str | None = None
    directory = os.path.join(sysfs_path, "bus/pci/devices")
    try:
        devices = sorted(os.listdir(directory), key=_order)
    except FileNotFoundError:
        problem = f"There is no {directory}: this host has no PCI bus, or its sysfs is mounted elsewhere."
        return _source(sysfs_path, gpus, problem), others
    except OSError as exc:
        problem = f"{directory} cannot be read ({exc.strerror}): let this user read it, or run with become."
        return _source(sysfs_path, gpus, problem), others
    unreadable: list[str] = []
    for device in devices:
        path = os.path.join(directory, device)
        try:
            address = normal_address(device)
            # A slice that a card lends to virtual machines (SR-IOV) is no card of this host.
            if not _read(path, "class").startswith(_DISPLAY) or os.path.lexists(os.path.join(path, "physfn")):
                continue
            vendor, chip = _read(path, "vendor")[2:], _read(path, "device")[2:]
        except (OSError, ValueError):
            unreadable.append(device)
            continue
        if vendor == NVIDIA:
            gpus.append(_gpu(address, f"{vendor}:{chip}", _bound_driver(path)))
        else:
            others.append({"pci_address": address, "pci_id": f"{vendor}:{chip}", "name": None})
    if unreadable:
        problem = f"{' and '.join(unreadable)} in {directory} cannot be read: look there why, or run with become."
    return _source(sysfs_path, gpus, problem), others


def read_names(pci_ids: Collection[str], path: str | None = None) -> tuple[dict[str, str] | None, str | None]:
    """The names that pci.ids has for "10de:1380" and the like, and why a card has none, as one sentence or None.

    Names are None where there is no usable file.
    """
    paths = [path] if path else list(PCI_IDS_PATHS)
    content = None
    for candidate in paths:
        try:
            with open(candidate, "rb") as stream:
                content = b"\n" + stream.read()
            break
        except FileNotFoundError:
            continue
        except OSError as exc:
            return None, f"{candidate} cannot be read ({exc.strerror}): let this user read it, or set pci_ids_path."
    if content is None:
        return None, f"There is no {' or '.join(paths)} to name the chips: install the package pci.ids."
    if not _section(content, NVIDIA):
        return None, f"{candidate} names no NVIDIA chip: install the package pci.ids again."
    names: dict[str, str] = {}
    sections: dict[str, bytes] = {}
    for pci_id in pci_ids:
        vendor, _colon, device = pci_id.partition(":")
        if vendor not in sections:
            sections[vendor] = _section(content, vendor)
        found = re.search(rb"^\t" + re.escape(device.encode()) + rb"  (.+)$", sections[vendor], re.MULTILINE)
        if found:
            names[pci_id] = found[1].decode(errors="replace").strip()
    missing = sorted(pci_id for pci_id in pci_ids if pci_id.startswith(NVIDIA) and pci_id not in names)
    if missing:
        return names, f"{candidate} does not know {' and '.join(missing)}: get a newer one with update-pciids."
    return names, None


def _section(content: bytes, vendor: str) -> bytes:
    """The lines of one vendor; looking for it as text is a thousand times faster than reading line by line."""
    start = content.find(b"\n" + vendor.encode() + b"  ")
    if start < 0:
        return b""
    end = re.compile(rb"^[0-9a-fC]", re.MULTILINE).search(content, start + 2)
    return content[start + 1 : end.start() if end else None]


def _order(device: str) -> tuple[bool, str]:
    """By address; 32-bit domains have more than four digits."""
    with contextlib.suppress(ValueError):
        return False, normal_address(device).rjust(20)
    return True, device


def _gpu(address: str, pci_id: str, bound_driver: str | None) -> Gpu:
    return {
        "index": None,
        "pci_address": address,
        "pci_id": pci_id,
        "name": None,
        "uuid": None,
        "compute_capability": None,
        "vram_mib": None,
        "bound_driver": bound_driver,
    }


def _bound_driver(path: str) -> str | None:
    """The string "none" without a driver, None where that cannot be seen."""
    try:
        return os.path.basename(os.readlink(os.path.join(path, "driver")))
    except FileNotFoundError:
        return "none"
    except OSError:
        return None


def _source(sysfs_path: str, gpus: list[Gpu], problem: str | None) -> Source:
    version = None
    with contextlib.suppress(OSError):
        version = _read(os.path.join(sysfs_path, "module/nvidia"), "version")
    return {"source": "pci", "problem": problem, "driver_version": version, "gpus": gpus}


def _read(directory: str, name: str) -> str:
    with open(os.path.join(directory, name), encoding="ascii", errors="replace") as stream:
        return stream.read(4096).strip()
