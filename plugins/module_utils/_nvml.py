# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The graphics cards as NVIDIA's library NVML sees them. Private to this collection: not an interface for others."""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

from ansible_collections.secondhand.diffusion.plugins.module_utils import _nvml_script
from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import (
    Outcome,
    Source,
    run_disposable,
    signal_name,
)

_KERNEL_LOG = "look for NVRM or Xid lines in the kernel log (dmesg)"
# What nvmlInit answers where there is something to do about it.
_INIT_ERRORS = {
    4: "NVML may not be used by this user ({text}): run with become.",
    9: "The NVIDIA kernel module is not loaded ({text}): run `modprobe nvidia`, or reboot after an installation.",
    12: "NVML's library libnvidia-ml.so.1 is missing ({text}): install the NVIDIA driver.",
    13: "The NVIDIA driver is too old for the pynvml of {python} ({text}): install a pynvml of the driver's age.",
    15: "NVML has lost a card ({text}): " + _KERNEL_LOG + ", then switch the machine off and on.",
    18: "The loaded NVIDIA kernel module is not of the installed library's version ({text}): reboot, or reload it.",
}


def probe(timeout: float) -> Source:
    """Asks NVML through pynvml, in a child that is left behind when the driver does not answer within ``timeout``."""
    try:
        outcome = run_disposable([sys.executable, "-B", "-c", inspect.getsource(_nvml_script)], timeout)
    except OSError as exc:
        return _source(f"NVML cannot be asked, because {sys.executable} does not start: {exc.strerror}.")
    return read(outcome, timeout)


def read(outcome: Outcome, timeout: float) -> Source:
    """Turns what the child left into a source."""
    if outcome.hung:
        ignored = ", not even to SIGKILL," if outcome.undead else ""
        return _source(
            f"NVML did not answer{ignored} within {timeout:g} s: the driver hangs; {_KERNEL_LOG}, then reboot."
        )
    answer = _last_json(outcome.output)
    if answer is None:
        return _source(f"NVML broke off ({_ending(outcome)}): {_KERNEL_LOG}, or install the driver again.")
    if "missing" in answer:
        return _source(
            f"NVML cannot be asked, because {sys.executable} has no pynvml ({answer['missing']}): "
            "install python3-pynvml from Debian's contrib, or nvidia-ml-py."
        )
    if "error" in answer:
        sentence = _INIT_ERRORS.get(answer["error"], "NVML does not start ({text}): " + _KERNEL_LOG + ", then reboot.")
        return _source(sentence.format(text=answer["text"].rstrip("."), python=sys.executable))
    source = _source(None)
    source["driver_version"] = answer["driver_version"]
    source["gpus"] = answer["gpus"]
    if answer["failures"]:
        failures = "; ".join(failure.rstrip(".") for failure in answer["failures"])
        source["problem"] = (
            f"NVML does not tell everything ({failures}): {_KERNEL_LOG}, then switch the machine off and on."
        )
    return source


def _source(problem: str | None) -> Source:
    return {"source": "nvml", "problem": problem, "driver_version": None, "gpus": []}


def _last_json(output: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(output.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _ending(outcome: Outcome) -> str:
    """How a child ended that answered nothing, with the last thing that it said."""
    code = outcome.returncode
    if code is None:
        end = "it printed without end"
    elif code < 0:
        end = f"killed by {signal_name(-code)}"
    else:
        end = f"exit status {code}"
    said = outcome.errors.strip().rpartition("\n")[2].strip()
    return f"{end}: {said[:200].rstrip('.')}" if said else end
