# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's routes, with its answers as far as somebody uses them."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import page, processing, shared

Answer = tuple[int, str, bytes]
# As many as upstream's: requests that wait for a picture sit in them.
POOL = ThreadPoolExecutor(40)
MODEL = {
    "title": "tiny.safetensors",
    "model_name": "tiny",
    "hash": None,
    "sha256": None,
    "filename": "",
    "config": None,
}


def said(content: Any, status: int = 200) -> Answer:
    """As JSON."""
    return status, "application/json", json.dumps(content).encode()


def txt2img(asked: dict[str, Any]) -> Any:
    """As upstream's API calls its job."""
    png, info = processing.generate(asked, "scripts_txt2img")
    return {"images": [base64.b64encode(png).decode()], "parameters": {}, "info": processing.described(info)}


def progress(_asked: dict[str, Any]) -> Any:
    """Of whatever is being made."""
    state = shared.state.described()
    done = state["sampling_step"] / state["sampling_steps"] if state["sampling_steps"] else 0.0
    return {"progress": done, "eta_relative": 0.0, "state": state, "current_image": None, "current_task": None}


def sysinfo(_asked: dict[str, Any]) -> Any:
    """What upstream tells here: the command line, and every package."""
    return {"Commandline": sys.argv, "Torch env info": "secret-of-the-engine"}


def leave(_asked: dict[str, Any]) -> Any:
    """What nobody may ask for through a gateway."""
    os._exit(0)


def set_options(asked: dict[str, Any]) -> Any:
    """As `Apply settings`."""
    shared.options.update(asked)
    return None


def interrupt(_asked: dict[str, Any]) -> Any:
    """The picture that is being made ends early."""
    shared.state.interrupted = True
    return {}


def nothing(_asked: dict[str, Any]) -> Any:
    """Upstream's answer of many routes."""
    return {}


def constant(content: Any) -> Callable[[dict[str, Any]], Any]:
    """A route that always tells the same."""
    return lambda _asked: content


ROUTES: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
    ("GET", "/internal/ping"): nothing,
    ("GET", "/internal/profile-startup"): lambda _asked: {"total": shared.startup_seconds()},
    ("GET", "/internal/pending-tasks"): constant({"size": 0, "tasks": []}),
    ("GET", "/internal/quicksettings-hint"): constant([{"name": "sd_model_checkpoint", "label": "Checkpoint"}]),
    ("POST", "/internal/progress"): page.task_progress,
    ("GET", "/internal/sysinfo"): sysinfo,
    ("GET", "/internal/sysinfo-download"): sysinfo,
    ("POST", "/sdapi/v1/txt2img"): txt2img,
    ("POST", "/sdapi/v1/img2img"): txt2img,
    ("POST", "/sdapi/v1/extra-single-image"): txt2img,
    ("POST", "/sdapi/v1/extra-batch-images"): txt2img,
    ("GET", "/sdapi/v1/progress"): progress,
    ("POST", "/sdapi/v1/interrupt"): interrupt,
    ("POST", "/sdapi/v1/skip"): interrupt,
    ("GET", "/sdapi/v1/options"): lambda _asked: shared.options,
    ("POST", "/sdapi/v1/options"): set_options,
    ("GET", "/sdapi/v1/cmd-flags"): lambda _asked: {"arguments": sys.argv, "hidden": "secret-of-the-engine"},
    ("GET", "/sdapi/v1/samplers"): constant([{"name": "Euler", "aliases": ["k_euler"], "options": {}}]),
    ("GET", "/sdapi/v1/sd-models"): constant([MODEL]),
    ("GET", "/sdapi/v1/memory"): constant({"ram": {}, "cuda": {"error": "unavailable"}}),
    ("GET", "/sdapi/v1/extensions"): constant([]),
    ("GET", "/sdapi/v1/loras"): constant([]),
    ("POST", "/sdapi/v1/refresh-checkpoints"): nothing,
    ("POST", "/sdapi/v1/refresh-vae"): nothing,
    ("POST", "/sdapi/v1/refresh-loras"): nothing,
    ("POST", "/sdapi/v1/refresh-embeddings"): nothing,
    ("POST", "/sdapi/v1/server-kill"): leave,
    ("POST", "/sdapi/v1/server-restart"): leave,
    ("POST", "/sdapi/v1/server-stop"): leave,
    ("GET", "/controlnet/model_list"): constant({"model_list": []}),
    ("GET", "/config"): constant({"title": "Stable Diffusion", "version": "3.41.2"}),
    ("GET", "/queue/status"): constant({"msg": "estimation", "queue_size": 0}),
}


def listed() -> dict[str, Any]:
    """All of them, as FastAPI describes itself."""
    paths: dict[str, Any] = {
        "/": {"get": {}},
        "/test/request": {"get": {}},
        "/queue/join": {"websocket": {}},
        "/file={path}": {"get": {}},
    }
    for method, path in ROUTES:
        paths.setdefault(path, {})[method.lower()] = {}
    return {"openapi": "3.0.2", "info": {"title": "light"}, "paths": paths}


async def answer(scope: dict[str, Any], body: bytes) -> Answer:
    """For a plain request."""
    method, path = "GET" if scope["method"] == "HEAD" else scope["method"], scope["path"]
    if (method, path) == ("GET", "/"):
        return 200, "text/html; charset=utf-8", page.HTML
    if (method, path) == ("GET", "/openapi.json"):
        return said(listed())
    if (method, path) == ("GET", "/test/request"):
        told = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        return said({"host": socket.gethostname(), "client": scope["client"][0], "headers": told})
    if method == "GET" and path.startswith("/file="):
        return said({"served": str(Path(path[6:]).exists())})
    function = ROUTES.get((method, path))
    if function is None:
        return said({"detail": "Not Found"}, 404)
    try:
        asked = json.loads(body) if body else {}
    except ValueError:
        return said({"detail": "JSON decode error"}, 422)
    asked = asked if isinstance(asked, dict) else {}
    try:
        return said(await asyncio.get_running_loop().run_in_executor(POOL, functools.partial(function, asked)))
    except Exception as error:
        print(f"API error: {method} {path}: {error!r}", flush=True)
        return said({"error": type(error).__name__, "detail": "", "errors": str(error)}, 500)


async def respond(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """What the application does, behind the login."""
    if scope["type"] == "websocket":
        await page.join_queue(scope, receive, send, POOL)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    status, kind, content = await answer(scope, body)
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})
