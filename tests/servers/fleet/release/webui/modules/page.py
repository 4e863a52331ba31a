# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page uses: Gradio 3's queue behind a websocket, and upstream's progress bar."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from concurrent.futures import Executor
from typing import Any

from . import processing, shared

HTML = (
    b"<!DOCTYPE html><html><head><title>Stable Diffusion</title></head><body>"
    b'<textarea id="txt2img_prompt"></textarea><!-- ' + b"page " * 8000 + b"--></body></html>"
)
_finished: list[str] = []


def task_progress(asked: dict[str, Any]) -> Any:
    """Of one job, by its name."""
    name, state = str(asked.get("id_task", "")), shared.state
    is_active = bool(name) and state.job == name
    return {
        "active": is_active,
        "queued": False,
        "completed": name in _finished,
        "progress": state.sampling_step / max(state.sampling_steps, 1) if is_active else None,
        "eta": None,
        "live_preview": None,
        "id_live_preview": asked.get("id_live_preview", -1),
        "textinfo": None if is_active else "Waiting...",
    }


def _make(name: str, prompt: str, steps: int) -> str:
    png, info = processing.generate({"prompt": prompt, "steps": steps}, name)
    _finished.append(name)
    return json.dumps({"host": info["host"], "picture": base64.b64encode(png).decode()})


async def join_queue(scope: dict[str, Any], receive: Any, send: Any, pool: Executor) -> None:
    """As the client of Gradio 3.41.2 speaks it: a hash, the data (a task's name, prompt, steps), the result."""

    async def tell(**message: Any) -> None:
        await send({"type": "websocket.send", "text": json.dumps(message)})

    async def heard() -> dict[str, Any]:
        message = await receive()
        if message["type"] != "websocket.receive":
            raise ConnectionError("the page is gone")
        found: dict[str, Any] = json.loads(message["text"])
        return found

    await receive()
    if scope["path"] != "/queue/join":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "websocket.accept"})
    try:
        await tell(msg="send_hash")
        await heard()
        await tell(msg="estimation", rank=0, queue_size=1)
        await tell(msg="send_data")
        name, prompt, steps = (await heard())["data"]
        await tell(msg="process_starts")
        make = functools.partial(_make, str(name), str(prompt), int(steps))
        # A job that has begun goes on, whether somebody still looks at it or not.
        result = await asyncio.get_running_loop().run_in_executor(pool, make)
        await tell(msg="process_completed", output={"data": [result]}, success=True)
        await send({"type": "websocket.close", "code": 1000})
    except ConnectionError:
        pass
