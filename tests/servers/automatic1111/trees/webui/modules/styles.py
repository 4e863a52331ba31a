# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""styles.csv: the page writes it back whole, with a copy of what was there."""

from __future__ import annotations

import csv
import os
import shutil

FIELDS = ("name", "prompt", "negative_prompt")


def read(path: str) -> dict[str, dict[str, str]]:
    """By name; lines that begin with # are no styles."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file, skipinitialspace=True) if not row["name"].startswith("#")]
    return {row["name"]: {field: row.get(field) or "" for field in FIELDS} for row in rows}


def save(path: str, name: str, prompt: str, negative_prompt: str) -> None:
    """Add or change one style."""
    found = read(path)
    found[name] = {"name": name, "prompt": prompt, "negative_prompt": negative_prompt}
    if os.path.exists(path):
        shutil.copy(path, f"{path}.bak")
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=FIELDS)
        writer.writeheader()
        writer.writerows(found.values())
