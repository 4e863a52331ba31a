# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of the one generation, as upstream's modules/shared_state.py names it."""

from __future__ import annotations

import time
from typing import Any

_started = time.monotonic()
version = ""
options: dict[str, Any] = {"sd_model_checkpoint": "tiny.safetensors", "samples_format": "png"}


def startup_seconds() -> float:
    """Since this module was imported."""
    return time.monotonic() - _started


class State:
    """What is being made."""

    job = ""
    job_no = job_count = sampling_step = sampling_steps = 0
    time_start: float | None = None
    interrupted = False

    def begin(self, job: str, steps: int) -> None:
        """A job of the API is called scripts_txt2img, one of the page task(…)."""
        self.job, self.job_count, self.job_no = job, 1, 0
        self.sampling_step, self.sampling_steps = 0, steps
        self.time_start, self.interrupted = time.time(), False

    def end(self) -> None:
        """Nothing is being made."""
        self.job, self.job_count, self.sampling_step, self.sampling_steps = "", 0, 0, 0

    def described(self) -> dict[str, Any]:
        """As /sdapi/v1/progress has it."""
        return {
            "skipped": False,
            "interrupted": self.interrupted,
            "job": self.job,
            "job_count": self.job_count,
            "job_no": self.job_no,
            "sampling_step": self.sampling_step,
            "sampling_steps": self.sampling_steps,
        }


state = State()
