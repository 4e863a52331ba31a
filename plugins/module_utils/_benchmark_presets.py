# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The benchmark's presets. Private to this collection: not an interface for other collections."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Settings:
    """One txt2img request, in the names that /sdapi/v1/txt2img uses."""

    prompt: str
    negative_prompt: str
    sampler_name: str
    steps: int
    cfg_scale: float
    width: int
    height: int
    seed: int

    def as_request(self) -> dict[str, Any]:
        return {**asdict(self), "batch_size": 1, "n_iter": 1}

    def with_overrides(self, overrides: dict[str, Any]) -> Settings:
        known = {field.name for field in fields(self)}
        return replace(self, **{key: value for key, value in overrides.items() if key in known and value is not None})

    def as_warm_up(self) -> Settings:
        """The cheapest picture that still makes the server load its model: one 64x64 step."""
        return replace(self, steps=1, width=64, height=64)


@dataclass(frozen=True)
class Preset:
    settings: Settings
    runs: int


PRESETS: dict[str, Preset] = {
    # "Hello Asuka" as the guide has it. The guide does not write the number of steps, but its own figures divide to
    # 20: 56 s at 2.80 s/it, 69 s at 3.47 s/it. One run, because the slowest machines need a quarter of an hour.
    "asuka": Preset(
        settings=Settings(
            prompt="masterpiece, best quality, masterpiece, asuka langley sitting cross legged on a chair",
            negative_prompt=(
                "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, "
                "worst quality, low quality, normal quality, jpeg artifacts,signature, watermark, username, blurry, "
                "artist name"
            ),
            sampler_name="Euler",
            steps=20,
            cfg_scale=12.0,
            width=512,
            height=512,
            seed=2870305590,
        ),
        runs=1,
    ),
    # The prompt of Tom's Hardware and of the System Info extension, whose results are the largest set to compare
    # with. The median of three runs, so that one busy moment does not decide.
    "steampunk": Preset(
        settings=Settings(
            prompt=(
                "postapocalyptic steampunk city, exploration, cinematic, realistic, hyper detailed, photorealistic "
                "maximum detail, volumetric light, (((focus))), wide-angle, (((brightly lit))), (((vegetation))), "
                "lightning, vines, destruction, devastation, wartorn, ruins"
            ),
            negative_prompt="(((blurry))), ((foggy)), (((dark))), ((monochrome)), sun, (((depth of field)))",
            sampler_name="Euler a",
            steps=20,
            cfg_scale=7.0,
            width=512,
            height=512,
            seed=2870305590,
        ),
        runs=3,
    ),
    # Not a measurement: the quickest proof that the server makes a picture at all.
    "smoke": Preset(
        settings=Settings(
            prompt="a chair",
            negative_prompt="",
            sampler_name="Euler",
            steps=1,
            cfg_scale=7.0,
            width=64,
            height=64,
            seed=2870305590,
        ),
        runs=1,
    ),
}
