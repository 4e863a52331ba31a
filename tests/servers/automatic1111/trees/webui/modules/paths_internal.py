# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are, known before anything is installed; COMMANDLINE_ARGS joins the arguments here."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

sys.argv += shlex.split(os.environ.get("COMMANDLINE_ARGS", ""))

script_path = str(Path(__file__).resolve().parents[1])
_first = argparse.ArgumentParser(add_help=False)
_first.add_argument("--data-dir", default=script_path)
_first.add_argument("--models-dir")
_found = _first.parse_known_args()[0]

data_path: str = _found.data_dir
models_path: str = _found.models_dir or os.path.join(data_path, "models")
extensions_dir = os.path.join(data_path, "extensions")
extensions_builtin_dir = os.path.join(script_path, "extensions-builtin")
