# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the sub-repositories on the path of modules; without the first one nothing works."""

from __future__ import annotations

import os
import sys

from .paths_internal import script_path

_repositories = os.path.join(script_path, "repositories")
sys.path.insert(0, script_path)

NEEDED = {
    "stable-diffusion-stability-ai": "ldm/models/diffusion/ddpm.py",
    "generative-models": "sgm/__init__.py",
    "k-diffusion": "k_diffusion/sampling.py",
    "BLIP": "models/blip.py",
    "stable-diffusion-webui-assets": "README.md",
}
for _name, _file in NEEDED.items():
    _folder = os.path.join(_repositories, _name)
    assert os.path.exists(os.path.join(_folder, _file)), f"Couldn't find {_name} in {_repositories}"
    sys.path.append(_folder)
