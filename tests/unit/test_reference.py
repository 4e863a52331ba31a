"""The generated option reference is that of the roles and modules as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests/generate_reference", "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
