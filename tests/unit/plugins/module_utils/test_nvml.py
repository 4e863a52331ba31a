"""What becomes of a child that asks NVML, whatever it leaves behind."""

from __future__ import annotations

import json

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _nvml
from ansible_collections.secondhand.diffusion.plugins.module_utils._probe import Outcome

LOG = "look for NVRM or Xid lines in the kernel log (dmesg)"


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (
            Outcome(None, "", "", hung=True),
            f"NVML did not answer within 2.5 s: the driver hangs; {LOG}, then reboot.",
        ),
        (
            Outcome(None, "", "", hung=True, undead=True),
            f"NVML did not answer, not even to SIGKILL, within 2.5 s: the driver hangs; {LOG}, then reboot.",
        ),
        (Outcome(None, "x" * 9, ""), f"NVML broke off (it printed without end): {LOG}, or install the driver again."),
        (Outcome(-11, "", ""), f"NVML broke off (killed by SIGSEGV): {LOG}, or install the driver again."),
        (
            Outcome(1, "\n", "Traceback\n  x\nAttributeError: no nvmlInit.\n"),
            f"NVML broke off (exit status 1: AttributeError: no nvmlInit): {LOG}, or install the driver again.",
        ),
        (Outcome(0, "[1]", ""), f"NVML broke off (exit status 0): {LOG}, or install the driver again."),
    ],
    ids=["hang", "undead", "flood", "signal", "exception", "nonsense"],
)
def test_no_answer(outcome: Outcome, problem: str) -> None:
    assert _nvml.read(outcome, 2.5) == {"source": "nvml", "problem": problem, "driver_version": None, "gpus": []}


def test_the_answer_is_the_last_line() -> None:
    answer = json.dumps({"driver_version": "535.261.03", "gpus": [], "failures": []})
    source = _nvml.read(Outcome(0, f"noise of a library\n{answer}\n", ""), 1)
    assert (source["problem"], source["driver_version"]) == (None, "535.261.03")


def test_an_error_that_is_not_in_the_list() -> None:
    source = _nvml.read(Outcome(0, json.dumps({"error": 17, "text": "The operating system has blocked it."}), ""), 1)
    assert source["problem"] == f"NVML does not start (The operating system has blocked it): {LOG}, then reboot."
