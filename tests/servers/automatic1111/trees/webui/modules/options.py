# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""config.json: read once at the start, and written back whole."""

from __future__ import annotations

import json
import os
from typing import Any

from . import errors
from .paths_internal import data_path, script_path

_outputs = os.path.join(data_path, "outputs")
DEFAULTS: dict[str, Any] = {
    "samples_save": True,
    "samples_format": "png",
    "outdir_samples": "",
    "outdir_txt2img_samples": f"{_outputs}/txt2img-images",
    "outdir_img2img_samples": f"{_outputs}/img2img-images",
    "outdir_extras_samples": f"{_outputs}/extras-images",
    "outdir_grids": "",
    "outdir_txt2img_grids": f"{_outputs}/txt2img-grids",
    "outdir_img2img_grids": f"{_outputs}/img2img-grids",
    "outdir_save": f"{data_path}/log/images",
    "outdir_init_images": f"{_outputs}/init-images",
    "jpeg_quality": 80,
    "sd_model_checkpoint": None,
    "sd_checkpoint_hash": "",
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
    "eta_noise_seed_delta": 0,
    "randn_source": "GPU",
    "cross_attention_optimization": "Automatic",
    "show_progress_every_n_steps": 10,
    "live_previews_enable": True,
    "quicksettings_list": ["sd_model_checkpoint"],
    "clean_temp_dir_at_start": False,
    "auto_launch_browser": "Local",
    "disabled_extensions": [],
    "disable_all_extensions": "none",
}


class Options:
    """What the file says, else the default. What the file has and nobody knows stays in it."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.data: dict[str, Any] = {}
        try:
            with open(filename, encoding="utf-8") as file:
                self.data = json.load(file)
        except FileNotFoundError:
            pass
        except ValueError:
            errors.report(f"The settings file {filename} is damaged and moved to tmp/config.json", exc_info=True)
            os.replace(filename, os.path.join(script_path, "tmp", "config.json"))

    def get(self, key: str) -> Any:
        """The value in force."""
        return self.data.get(key, DEFAULTS.get(key))

    def set(self, key: str, value: Any) -> None:
        """A KeyError for a setting that does not exist."""
        if DEFAULTS[key] is not value:
            self.data[key] = value

    def save(self) -> None:
        """All that was read and changed, in upstream's form."""
        with open(self.filename, "w", encoding="utf-8") as file:
            json.dump(self.data, file, indent=4, ensure_ascii=False)
