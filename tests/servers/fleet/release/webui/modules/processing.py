# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a picture: noise from the seed, as long as the steps take."""

from __future__ import annotations

import itertools
import json
import random
import socket
import struct
import time
import zlib
from typing import Any

from . import call_queue, jobs, shared

STEP_SECONDS = 0.05
_numbers = itertools.count()


def make_png(width: int, height: int, seed: int) -> bytes:
    """The same for the same seed."""
    noise = random.Random(seed)
    rows = b"".join(b"\0" + noise.randbytes(3 * width) for _row in range(height))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def generate(asked: dict[str, Any], name: str) -> tuple[bytes, dict[str, Any]]:
    """The picture and what is said about it; waits for its turn."""
    number, prompt = next(_numbers), str(asked.get("prompt", ""))
    steps, seed = int(asked.get("steps", 20)), int(asked.get("seed", -1))
    width, height = int(asked.get("width", 64)), int(asked.get("height", 64))
    seed = random.randrange(2**32) if seed < 0 else seed
    jobs.note("arrived", job=number, name=name, prompt=prompt)
    with call_queue.queue_lock:
        jobs.note("begun", job=number)
        shared.state.begin(name, steps)
        try:
            for step in range(steps):
                if shared.state.interrupted:
                    break
                shared.state.sampling_step = step
                time.sleep(STEP_SECONDS)
            png = make_png(width, height, seed)
        finally:
            shared.state.end()
            jobs.note("ended", job=number)
    info = {
        "prompt": prompt,
        "seed": seed,
        "width": width,
        "height": height,
        "steps": steps,
        "cfg_scale": asked.get("cfg_scale", 7.0),
        "sampler_name": asked.get("sampler_name") or "Euler",
        "sd_model_name": "tiny",
        "version": f"v{shared.version}",
        "host": socket.gethostname(),
    }
    return png, info


def described(info: dict[str, Any]) -> str:
    """The field `info` of the API's answer."""
    return json.dumps(info)
