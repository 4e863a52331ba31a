"""Which kernels run on which card, and what a crash leaves of the probe's lines."""

from __future__ import annotations

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _torch_probe

CU121 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (CU121, "5.0", True),
        (CU121, "5.2", True),
        # Binary code runs on newer cards of the same major version.
        (CU121, "6.1", True),
        (CU121, "8.9", True),
        (CU121, "3.7", False),
        (CU121, "10.0", False),
        (CU130, "5.0", False),
        (CU130, "7.0", False),
        (CU130, "12.1", True),
        # Nothing but the driver's translation serves a card that came later.
        (CU130, "13.0", True),
        (["compute_50"], "6.1", True),
        (["compute_50"], "3.7", False),
        # What is made for one card alone runs on no other.
        (["sm_90a", "sm_100f"], "9.0", False),
        ([], "5.0", False),
    ],
)
def test_supported(archs: list[str], capability: str, runs: bool) -> None:
    assert _torch_probe.supported(archs, capability) is runs


@pytest.mark.parametrize(
    ("output", "report"),
    [
        ('{"step": "a"}\n{"step": "b"}\n', {"step": "b"}),
        ('{"step": "a"}\n{"step": "b", "fp16', {"step": "a"}),
        ('{"step": "a"}\nnull\n', {"step": "a"}),
        ("Illegal instruction\n", {}),
        ("", {}),
    ],
)
def test_last_report(output: str, report: dict[str, str]) -> None:
    assert _torch_probe.last_report(output) == report
