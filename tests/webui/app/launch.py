"""Starts a web UI the way A1111 and Forge do, on the Gradio and FastAPI that they pin: no model, no picture.

What matters here is the order: Gradio serves the application first, its middleware is exchanged while it runs, and the
API comes after that. Extensions add routes, sub-applications and websockets of their own. ROUTES names a file that gets
the list of all of them, and how the server answered before they were there. With --nowebui there is no Gradio at all.
A picture of img2img takes three steps, each of which waits for a file next to that one: step1, step2 and step3.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import json
import os
import shlex
import sys
import threading
import time
import types
from collections import deque
from pathlib import Path
from typing import Any

# Only the virtualenvs of these tests have them.
gradio: Any = importlib.import_module("gradio")
fastapi: Any = importlib.import_module("fastapi")
uvicorn: Any = importlib.import_module("uvicorn")
staticfiles: Any = importlib.import_module("starlette.staticfiles")
gzip: Any = importlib.import_module("starlette.middleware.gzip")
cors: Any = importlib.import_module("starlette.middleware.cors")

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--server-name")
parser.add_argument("--gradio-auth-path")
parser.add_argument("--nowebui", action="store_true")


class State:
    """As much of upstream's modules.shared.state as others read."""

    job: str | None = ""
    job_no = job_count = sampling_step = sampling_steps = 0
    time_start: float | None = None

    def begin(self, job: str | None) -> None:
        self.job, self.job_count, self.job_no, self.sampling_step = job, -1, 0, 0
        self.time_start = time.time()

    def end(self) -> None:
        self.job, self.job_count = "", 0


class Lock:
    """As upstream's: who comes first is served first, and how many wait can be seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inner_lock = threading.Lock()
        self._pending_threads: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._inner_lock:
            if self._lock.acquire(blocking=False):
                return
            turn = threading.Event()
            self._pending_threads.append(turn)
        turn.wait()
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        with self._inner_lock:
            if self._pending_threads:
                self._pending_threads.popleft().set()
            self._lock.release()


STATE, LOCK = State(), Lock()


def make_picture() -> dict[str, Any]:
    """In a thread of the pool and behind the lock, as upstream's img2img."""
    with LOCK:
        STATE.begin("scripts_img2img")
        STATE.job, STATE.job_count, STATE.sampling_steps = "Batch 1 out of 1", 1, 3
        for step in (1, 2, 3):
            while not Path(os.environ["ROUTES"]).with_name(f"step{step}").exists():
                time.sleep(0.02)
            STATE.sampling_step = step
        STATE.end()
    return {"images": []}


def fail() -> None:
    """As upstream's extras: what fails there leaves the job behind."""
    with LOCK:
        STATE.begin("extras")
        STATE.job_count = 2
        raise fastapi.HTTPException(status_code=500, detail="CUDA out of memory")


def add_modules() -> None:
    """Upstream's modules, as far as they are seen from outside."""
    for name, content in (("shared", {"state": STATE}), ("call_queue", {"queue_lock": LOCK})):
        module = types.ModuleType(f"modules.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module


def logins(path: str | None) -> list[tuple[str, ...]] | None:
    """As upstream reads the file: a login per line, or several with commas between them."""
    if not path:
        return None
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [tuple(entry.strip().split(":", 1)) for line in lines for entry in line.split(",") if entry.strip()]


def page() -> Any:
    """A page with one function, behind the queue as all of upstream's are."""
    with gradio.Blocks(title="stand-in") as demo:
        words, loud = gradio.Textbox(label="words"), gradio.Textbox(label="loud")
        gradio.Button("Shout").click(str.upper, inputs=words, outputs=loud, api_name="shout")
    return demo


def exchange_middleware(app: Any) -> None:
    """No more requests from every origin, as upstream does it on the running application."""
    app.user_middleware = [entry for entry in app.user_middleware if "CORS" not in entry.cls.__name__]
    app.middleware_stack = None
    app.add_middleware(gzip.GZipMiddleware, minimum_size=1000)
    app.add_middleware(cors.CORSMiddleware, allow_methods=["*"], allow_headers=["*"], allow_credentials=True)
    app.build_middleware_stack()


def ping() -> dict[str, str]:
    """Upstream's, the same."""
    return {}


async def pass_on(request: Any, call_next: Any) -> Any:
    """Upstream's API logs and answers errors in one like this."""
    return await call_next(request)


def add_api(app: Any) -> None:
    """Some of upstream's routes, and one of each kind that extensions add."""

    async def say_hello(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    inner = fastapi.FastAPI()
    inner.add_api_route("/", lambda: {"secret": "inner"}, methods=["GET"])
    inner.add_api_websocket_route("/socket", say_hello)
    if "--nowebui" not in sys.argv:
        app.add_api_route("/internal/sysinfo", lambda: {"Commandline": sys.argv}, methods=["GET"])
    app.add_api_route("/sdapi/v1/options", lambda: {"secret": "options"}, methods=["GET"])
    app.add_api_route("/sdapi/v1/txt2img", lambda: {"images": []}, methods=["POST"])
    app.add_api_route("/sdapi/v1/img2img", make_picture, methods=["POST"])
    app.add_api_route("/sdapi/v1/extra-single-image", fail, methods=["POST"])
    app.add_api_route("/sdapi/v1/progress", lambda: {"state": {"job_count": 0, "job": ""}}, methods=["GET"])
    app.add_api_route("/extension/any", lambda: {"secret": "any"}, methods=["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
    app.add_api_websocket_route("/extension/socket", say_hello)
    app.mount("/extension/inner", inner)
    app.mount("/extension/page", gradio.routes.App.create_app(page()))
    app.mount("/extension/files", staticfiles.StaticFiles(directory=Path(__file__).parent))


def routes(app: Any, prefix: str = "") -> list[dict[str, Any]]:
    """Every route, those of the applications inside as well."""
    found = []
    for route in app.routes:
        path = prefix + route.path
        kind = type(route).__name__
        found.append({"path": path, "kind": kind, "methods": sorted(getattr(route, "methods", None) or [])})
        if getattr(route, "routes", None):
            found += routes(route, path)
    return found


def tell(app: Any, early: list[int]) -> None:
    """Write the routes once everything is in place."""
    told = {"routes": routes(app), "early": early}
    part = Path(os.environ["ROUTES"]).with_suffix(".part")
    part.write_text(json.dumps(told), encoding="utf-8")
    part.rename(os.environ["ROUTES"])


def status(port: int, path: str) -> int:
    """What somebody without a login is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().status


def main() -> None:
    """Serve until the process is ended."""
    arguments = parser.parse_args()
    print(f"Launching Web UI with arguments: {shlex.join(sys.argv[1:])}", flush=True)
    add_modules()
    if arguments.nowebui:
        app = fastapi.FastAPI()
        exchange_middleware(app)
        app.middleware("http")(pass_on)
        add_api(app)
        tell(app, [])
        uvicorn.run(app, host=arguments.server_name, port=arguments.port)
        return
    demo = page()
    demo.queue()
    app, _local, _share = demo.launch(
        server_name=arguments.server_name,
        server_port=arguments.port,
        auth=logins(arguments.gradio_auth_path),
        prevent_thread_lock=True,
        app_kwargs={"docs_url": "/docs", "redoc_url": "/redoc"},
    )
    early = [status(arguments.port, path) for path in ("/config", "/nowhere", "/startup-events")]
    exchange_middleware(app)
    app.add_api_route("/internal/ping", ping, methods=["GET"])
    # Somebody asks in the very second in which upstream's API still adds its middleware.
    early.append(status(arguments.port, "/internal/ping"))
    app.middleware("http")(pass_on)
    add_api(app)
    tell(app, early)
    while True:
        time.sleep(5)


if __name__ == "__main__":
    main()
