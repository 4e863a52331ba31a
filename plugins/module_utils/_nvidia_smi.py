# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What nvidia-smi says about the cards. Private to this collection: not an interface for others."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import signal
import time

from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import (
    OUTPUT_LIMIT,
    Gpu,
    Outcome,
    Source,
    normal_address,
    run_disposable,
)

_FIELDS = ("index", "name", "uuid", "pci.bus_id", "pci.device_id", "memory.total", "driver_version", "compute_cap")
# What it prints instead of a card, and what that means. {0} is the card that it names.
_TROUBLES = (
    (
        r"couldn't communicate with the NVIDIA driver",
        "nvidia-smi cannot talk to the NVIDIA driver: load it with modprobe nvidia, or reboot if it is freshly "
        "installed.",
    ),
    (
        r"Driver/library version mismatch",
        "The loaded NVIDIA driver is of another version than its library: reboot, because the packages were upgraded "
        "under the running driver.",
    ),
    (
        r"device handle for GPU\s*(?:\d+:\s+)?([0-9A-Fa-f:.]+): (?:GPU is lost|Unknown Error)|(?:GPU is lost)",
        "{0} is lost to its driver: switch the computer off and on, and see to its heat, power and seat.",
    ),
    (
        r"No devices were found",
        "nvidia-smi finds no card that the NVIDIA driver runs: look for NVRM lines in the kernel's log.",
    ),
)


def probe(timeout: float, skip: bool = False, proc_path: str = "/proc") -> Source:
    """Asks nvidia-smi, for at most ``timeout`` seconds in all; ``skip`` says that NVML has hung already."""
    if skip:
        return _source("nvidia-smi was not asked, because NVML does not answer: reboot to free the driver.")
    program = shutil.which("nvidia-smi")
    if program is None:
        return _source("There is no nvidia-smi on this host: it comes with NVIDIA's driver.")
    stuck = _stuck(proc_path)
    if stuck:
        return _source(
            f"An earlier nvidia-smi (process {stuck}) still hangs though it was killed, so it was not asked again: "
            "reboot to free the driver."
        )
    deadline = time.monotonic() + timeout
    try:
        outcome = run_disposable(_command(program, _FIELDS), timeout)
        if outcome.returncode and 'Field "compute_cap"' in outcome.output + outcome.errors:
            # Driver 470, the last for Kepler, does not know this field yet.
            outcome = run_disposable(_command(program, _FIELDS[:-1]), deadline - time.monotonic())
    except OSError as exc:
        return _source(f"{program} cannot be started ({exc.strerror}): install the driver's nvidia-smi again.")
    # A flood is no table.
    gpus, versions = _read_table(outcome.output) if outcome.returncode is not None else ([], [])
    problem = _problem(outcome, timeout, bool(gpus))
    return {
        "source": "nvidia_smi",
        "problem": problem,
        "driver_version": versions[0] if versions else None,
        "gpus": gpus,
    }


def _source(problem: str) -> Source:
    return {"source": "nvidia_smi", "problem": problem, "driver_version": None, "gpus": []}


def _command(program: str, fields: tuple[str, ...]) -> list[str]:
    return [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]


def _read_table(text: str) -> tuple[list[Gpu], list[str]]:
    """The cards, and the driver's version once for each that told it."""
    gpus: list[Gpu] = []
    versions: list[str] = []
    for line in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(line) not in (len(_FIELDS), len(_FIELDS) - 1):
            continue
        # "[N/A]", "[Not Supported]", "[Unknown Error]" and their like stand for a value that is not known.
        unknown = re.compile(r"\[.*|N/A|")
        row = dict(zip(_FIELDS, (None if unknown.fullmatch(value) else value for value in line)))
        try:
            address = normal_address(row["pci.bus_id"] or "")
        except ValueError:
            continue
        pci_id = re.fullmatch(r"0x([0-9a-f]{4})([0-9a-f]{4})", (row["pci.device_id"] or "").lower())
        gpus.append(
            {
                "index": _integer(row["index"]),
                "pci_address": address,
                "pci_id": f"{pci_id[2]}:{pci_id[1]}" if pci_id else None,
                "name": row["name"],
                "uuid": row["uuid"],
                "compute_capability": row.get("compute_cap"),
                "vram_mib": _integer(row["memory.total"]),
                "bound_driver": "nvidia",
            }
        )
        if row["driver_version"]:
            versions.append(row["driver_version"])
    return gpus, versions


def _integer(text: str | None) -> int | None:
    with contextlib.suppress(ValueError):
        return int(text or "")
    return None


def _problem(outcome: Outcome, timeout: float, found: bool) -> str | None:
    if outcome.hung:
        fate = "not even SIGKILL ended it" if outcome.undead else "was killed"
        return (
            f"nvidia-smi hung for {timeout:g} s and {fate}: look for NVRM and Xid lines in the kernel's log, "
            "then reboot."
        )
    if outcome.returncode is None:
        return f"nvidia-smi printed more than {OUTPUT_LIMIT >> 20} MiB and was killed: install the driver again."
    text = outcome.output + outcome.errors
    for pattern, meaning in _TROUBLES:
        match = re.search(pattern, text)
        if match:
            named = match.groups() and match[1]
            return meaning.format(f"The card {named.lower()}" if named else "A card")
    if outcome.returncode == 0 and text.strip() and not found:
        return f"nvidia-smi answered what cannot be read ({text.strip().splitlines()[0][:200]!r}): run it by hand."
    if outcome.returncode or not found:
        said = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
        return f"nvidia-smi failed with exit code {outcome.returncode}: run it by hand; it said {said[:200]!r}."
    return None


def _stuck(proc_path: str) -> int | None:
    """A killed nvidia-smi that does not die: each further one would only join it in the state D."""
    try:
        processes = [name for name in os.listdir(proc_path) if name.isdecimal()]
    except OSError:
        return None
    for process in processes:
        # Gone in the meantime, or hidden from this user. Never cmdline or environ: those can hang with the process.
        with contextlib.suppress(OSError, ValueError, KeyError):
            with open(os.path.join(proc_path, process, "status"), encoding="utf-8", errors="replace") as stream:
                status = dict(line.split(":", 1) for line in stream if ":" in line)
            pending = int(status.get("SigPnd", "0"), 16) | int(status.get("ShdPnd", "0"), 16)
            killed = pending & 1 << (signal.SIGKILL - 1)
            if killed and status["Name"].strip() == "nvidia-smi" and status["State"].strip().startswith("D"):
                return int(process)
    return None
