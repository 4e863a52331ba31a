# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a picture: noise from the seed, as long as the steps take. With PyTorch where it can be imported."""

from __future__ import annotations

import importlib
import json
import os
import random
import time
from typing import Any

from . import faults, release, sd_models, shared

Image: Any = importlib.import_module("PIL.Image")
PngImagePlugin: Any = importlib.import_module("PIL.PngImagePlugin")
try:
    torch: Any = importlib.import_module("torch")
except ImportError:
    torch = None

STEP_SECONDS = 0.05
SAMPLERS = ("DPM++ 2M", "Euler", "Euler a", "DDIM")


def noise(width: int, height: int, seed: int, step: int) -> bytes:
    """The same for the same seed."""
    if torch is None:
        return random.Random(f"{seed} {step}").randbytes(3 * width * height)
    generator = torch.Generator("cpu").manual_seed(seed + step)
    turned = torch.rand(256, 256, generator=generator) @ torch.rand(256, 256, generator=generator)
    pixels = (torch.rand(height, width, 3, generator=generator) + turned.mean()) * 255 % 255
    return bytes(pixels.to(torch.uint8).flatten().tolist())


def generate(asked: dict[str, Any], save: bool, name: str = "scripts_txt2img") -> tuple[Any, dict[str, Any]]:
    """The picture and what upstream says about it; the API's jobs have this name, the page's task(…)."""
    width, height = int(asked.get("width", 512)), int(asked.get("height", 512))
    steps = int(asked.get("steps", 50))
    seed = int(asked.get("seed", -1))
    seed = random.randrange(2**32) if seed < 0 else seed
    state = shared.state
    with shared.queue_lock:
        if sd_models.loaded is None:
            raise AttributeError("'NoneType' object has no attribute 'lowvram'")
        state.job, state.job_count, state.sampling_steps, state.interrupted = name, 1, steps, False
        try:
            pixels = b""
            for step in range(steps):
                if state.interrupted:
                    break
                state.sampling_step = step
                faults.before_step(step)
                pixels = noise(width, height, seed, step)
                time.sleep(STEP_SECONDS)
        finally:
            state.job, state.job_count, state.sampling_step, state.sampling_steps = "", 0, 0, 0
        model, sha256 = sd_models.loaded.name, sd_models.loaded.sha256
    image = Image.frombytes("RGB", (width, height), pixels or bytes(3 * width * height))
    info = {
        "prompt": asked.get("prompt", ""),
        "negative_prompt": asked.get("negative_prompt", ""),
        "seed": seed,
        "width": width,
        "height": height,
        "steps": steps,
        "cfg_scale": asked.get("cfg_scale", 7.0),
        "sampler_name": asked.get("sampler_name") or "Euler",
        "sd_model_name": os.path.splitext(model)[0],
        "sd_model_hash": sha256[:10],
        "version": f"v{release.VERSION}",
    }
    image.info["parameters"] = f"{info['prompt']}\nSteps: {steps}, Seed: {seed}, Size: {width}x{height}"
    if save and shared.opts.get("samples_save"):
        folder = shared.opts.get("outdir_samples") or shared.opts.get("outdir_txt2img_samples")
        os.makedirs(os.path.join(folder, time.strftime("%Y-%m-%d")), exist_ok=True)
        number = len(os.listdir(os.path.join(folder, time.strftime("%Y-%m-%d"))))
        write_png(image, os.path.join(folder, time.strftime("%Y-%m-%d"), f"{number:05}-{seed}.png"))
    return image, info


def write_png(image: Any, target: Any) -> None:
    """With its settings inside."""
    settings = PngImagePlugin.PngInfo()
    settings.add_text("parameters", image.info["parameters"])
    image.save(target, format="PNG", pnginfo=settings)


def described(info: dict[str, Any]) -> str:
    """The field `info` of the API's answer."""
    return json.dumps(info)
