# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the stand-in of CLIP as the real one is built: with pkg_resources, which setuptools 82 no longer has."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

pkg_resources: Any = importlib.import_module("pkg_resources")
setuptools: Any = importlib.import_module("setuptools")

requirements = (Path(__file__).parent / "requirements.txt").read_text(encoding="utf-8")
setuptools.setup(
    name="clip",
    version="1.0",
    packages=["clip"],
    include_package_data=True,
    install_requires=[str(requirement) for requirement in pkg_resources.parse_requirements(requirements)],
)
