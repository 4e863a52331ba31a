# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes that upstream documents, with its answers and its errors."""

from __future__ import annotations

import base64
import importlib
import io
import os
from typing import Any

from . import errors, extensions, faults, processing, restart, sd_models, shared, styles, sysinfo

fastapi: Any = importlib.import_module("fastapi")
psutil: Any = importlib.import_module("psutil")
responses: Any = importlib.import_module("fastapi.responses")
BODY = fastapi.Body(default={})


def add_internal_routes(app: Any) -> None:
    """Those of the page itself: upstream asks nobody for a login here."""
    app.add_api_route("/internal/ping", _nothing, methods=["GET"])
    app.add_api_route("/internal/profile-startup", lambda: {"total": shared.startup_seconds()}, methods=["GET"])
    app.add_api_route("/internal/pending-tasks", lambda: {"size": 0, "tasks": []}, methods=["GET"])
    app.add_api_route("/internal/progress", _task_progress, methods=["POST"])
    app.add_api_route("/internal/sysinfo", sysinfo.get, methods=["GET"])
    app.add_api_route("/internal/sysinfo-download", sysinfo.get, methods=["GET"])


def add_routes(app: Any) -> None:
    """/sdapi/v1, behind --api-auth where that is set."""
    options = shared.cmd_opts

    async def answer_exceptions(request: Any, call_next: Any) -> Any:
        faults.remember_loop()
        try:
            return await call_next(request)
        except Exception as error:
            said = {"error": type(error).__name__, "detail": "", "body": "", "errors": str(error)}
            errors.report(f"API error: {request.method}: {request.url} {said}", exc_info=True)
            return responses.JSONResponse(status_code=500, content=said)

    app.middleware("http")(answer_exceptions)

    routes: dict[str, tuple[str, Any]] = {
        "txt2img": ("POST", _txt2img),
        "progress": ("GET", _progress),
        "interrupt": ("POST", _interrupt),
        "skip": ("POST", _interrupt),
        "options": ("GET", _get_options),
        "cmd-flags": ("GET", lambda: vars(options)),
        "samplers": ("GET", _samplers),
        "sd-models": ("GET", _models),
        "prompt-styles": ("GET", _styles),
        "refresh-checkpoints": ("POST", _refresh),
        "unload-checkpoint": ("POST", _unload),
        "reload-checkpoint": ("POST", _reload),
        "memory": ("GET", _memory),
        "extensions": ("GET", extensions.described),
    }
    if options.api_server_stop:
        routes["server-kill"] = ("POST", restart.stop_program)
        routes["server-restart"] = ("POST", _restart)
        routes["server-stop"] = ("POST", _stop)
    guards = [fastapi.Depends(_api_auth)] if options.api_auth else []
    for name, (method, function) in routes.items():
        app.add_api_route(f"/sdapi/v1/{name}", function, methods=[method], dependencies=guards)
    app.add_api_route("/sdapi/v1/options", _set_options, methods=["POST"], dependencies=guards)


_basic = fastapi.Depends(importlib.import_module("fastapi.security").HTTPBasic())


def _api_auth(credentials: Any = _basic) -> bool:
    pairs = dict(pair.split(":") for pair in shared.cmd_opts.api_auth.split(","))
    if pairs.get(credentials.username) != credentials.password:
        raise fastapi.HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})
    return True


def _txt2img(asked: dict[str, Any] = BODY) -> dict[str, Any]:
    if (asked.get("sampler_name") or "Euler") not in processing.SAMPLERS:
        raise fastapi.HTTPException(400, "Sampler not found")
    image, info = processing.generate(asked, save=bool(asked.get("save_images")))
    png = io.BytesIO()
    processing.write_png(image, png)
    images = [base64.b64encode(png.getvalue()).decode()] if asked.get("send_images", True) else []
    return {"images": images, "parameters": asked, "info": processing.described(info)}


def _nothing() -> dict[str, Any]:
    return {}


def _task_progress(asked: dict[str, Any] = BODY) -> dict[str, Any]:
    name, state = asked.get("id_task"), shared.state
    is_active = bool(name) and state.job == name
    return {
        "active": is_active,
        "queued": False,
        "completed": name in shared.finished_tasks,
        "progress": state.sampling_step / max(state.sampling_steps, 1) if is_active else None,
        "eta": None,
        "live_preview": None,
        "id_live_preview": asked.get("id_live_preview", -1),
        "textinfo": None if is_active else "Waiting...",
    }


def _progress() -> dict[str, Any]:
    state = shared.state.dict()
    progress = state["sampling_step"] / state["sampling_steps"] if state["job_count"] else 0.0
    eta = (state["sampling_steps"] - state["sampling_step"]) * processing.STEP_SECONDS
    return {
        "progress": max(progress, 0.01) if state["job_count"] else 0.0,
        "eta_relative": eta,
        "state": state,
        "current_image": None,
        "textinfo": None,
        "current_task": None,
    }


def _interrupt() -> dict[str, Any]:
    shared.state.interrupted = True
    return {}


def _get_options() -> dict[str, Any]:
    return {**importlib.import_module("modules.options").DEFAULTS, **shared.opts.data}


def _set_options(asked: dict[str, Any] = BODY) -> None:
    name = asked.get("sd_model_checkpoint")
    if name is not None and sd_models.find(name) is None:
        raise RuntimeError(f"model {name!r} not found")
    for key, value in asked.items():
        shared.opts.set(key, value)
    shared.opts.save()


def _samplers() -> list[dict[str, Any]]:
    return [{"name": name, "aliases": [f"k_{name.lower()}"], "options": {}} for name in processing.SAMPLERS]


def _models() -> list[dict[str, Any]]:
    return [
        {
            "title": found.title,
            "model_name": os.path.splitext(found.name)[0],
            "hash": found.sha256[:10] or None,
            "sha256": found.sha256 or None,
            "filename": found.filename,
            "config": None,
        }
        for found in sd_models.checkpoints
    ]


def _styles() -> list[dict[str, str]]:
    return [style for path in shared.cmd_opts.styles_file for style in styles.read(path).values()]


def _refresh() -> None:
    with shared.queue_lock:
        sd_models.list_models()


def _unload() -> dict[str, Any]:
    sd_models.loaded = None
    return {}


def _reload() -> dict[str, Any]:
    sd_models.load_model()
    return {}


def _memory() -> dict[str, Any]:
    used, total = psutil.Process().memory_info().rss, psutil.virtual_memory().total
    return {"ram": {"free": total - used, "used": used, "total": total}, "cuda": {"error": "unavailable"}}


def _restart() -> Any:
    if restart.is_restartable():
        restart.restart_program()
    return fastapi.Response(status_code=501)


def _stop() -> Any:
    shared.stop_requested.set()
    return fastapi.Response("Stopping.")
