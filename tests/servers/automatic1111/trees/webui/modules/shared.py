# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all parts share: the arguments, the settings, the state of the one generation."""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import time
from typing import Any

from . import cmd_args, errors, options
from .paths_internal import extensions_builtin_dir, extensions_dir

_started = time.monotonic()


def startup_seconds() -> float:
    """Since this module was imported."""
    return time.monotonic() - _started


def preload(folder: str, names: list[str]) -> None:
    """Extensions may add flags."""
    for name in sorted(names):
        path = os.path.join(folder, name, "preload.py")
        if not os.path.isfile(path):
            continue
        try:
            spec: Any = importlib.util.spec_from_file_location(f"preload_{name}", path)
            module: Any = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.preload(cmd_args.parser)
        except Exception:
            errors.report(f"Error running preload() for {path}", exc_info=True)


_launch: Any = importlib.import_module("launch")
preload(extensions_dir, _launch.list_extensions(_launch.args.ui_settings_file))
preload(extensions_builtin_dir, os.listdir(extensions_builtin_dir))
cmd_opts = cmd_args.parser.parse_args()
if not cmd_opts.styles_file:
    cmd_opts.styles_file = [os.path.join(cmd_opts.data_dir, "styles.csv")]
cmd_opts.webui_is_non_local = any([cmd_opts.share, cmd_opts.listen, cmd_opts.ngrok, cmd_opts.server_name])
cmd_opts.disable_extension_access = cmd_opts.webui_is_non_local and not cmd_opts.enable_insecure_extension_access

opts = options.Options(cmd_opts.ui_settings_file)
# One generation at a time; everything else of the model waits for it as well.
queue_lock = threading.Lock()
stop_requested = threading.Event()
# Jobs of the page that are done, by name.
finished_tasks: list[str] = []


class State:
    """What /sdapi/v1/progress shows."""

    def __init__(self) -> None:
        self.job = ""
        self.job_count = 0
        self.sampling_step = 0
        self.sampling_steps = 0
        self.interrupted = False

    def dict(self) -> dict[str, Any]:
        """As upstream names it."""
        return {
            "skipped": False,
            "interrupted": self.interrupted,
            "stopping_generation": False,
            "job": self.job,
            "job_count": self.job_count,
            "job_timestamp": "0",
            "job_no": 0,
            "sampling_step": self.sampling_step,
            "sampling_steps": self.sampling_steps,
        }


state = State()
