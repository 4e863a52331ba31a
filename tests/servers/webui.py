#!/usr/bin/env python3
"""A stand-in web UI: a real HTTP server that answers /sdapi/v1 as sd-server or as A1111 does, without a model.

The picture is a real PNG of the size that was asked for, and the same settings always give the same picture.
What is served where was read in the sources of stable-diffusion.cpp (examples/server) and of A1111 v1.10.1.

    tests/servers/webui.py --kind automatic1111 --port 7860 --misbehave black
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = ("sd_server", "automatic1111")
MISBEHAVIOURS = (
    "black",  # a picture of one colour, as FP16 gone wrong makes it
    "cut_off",  # a PNG whose end is missing
    "die",  # the connection ends without an answer, as when the kernel kills the server
    "error_500",  # what the engine answers when it runs out of memory
    "error_502",  # what a proxy answers when the server behind it is down
    "html",  # a page instead of an answer, status 200
    "jpeg",  # not a PNG
    "no_api",  # A1111 without --api
    "no_images",  # an answer without a picture
    "not_base64",
    "redirect",
    "silent",  # never answers
    "trickle",  # answers a byte at a time, for ever
    "wrong_size",
)
# What makes A1111 read its lists of models again.
REFRESH = tuple(f"/sdapi/v1/refresh-{kind}" for kind in ("checkpoints", "vae", "loras", "embeddings"))
INTERRUPT = "/sdapi/v1/interrupt"
CHECKPOINT = "random-sd15"
CHECKPOINT_SHA256 = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"


def make_png(width: int, height: int, seed: object, blank: bool = False) -> bytes:
    """A PNG of noise that depends on the seed alone, or of black."""
    noise = random.Random(str(seed))
    rows = (b"\0" + (bytes(3 * width) if blank else noise.randbytes(3 * width)) for _row in range(height))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"".join(rows), 1)),
            (b"IEND", b""),
        )
    )


class WebUi(ThreadingHTTPServer):
    """`requests` holds what was asked, for a test to look at."""

    daemon_threads = True

    def __init__(
        self,
        kind: str = "sd_server",
        port: int = 0,
        misbehave: str | None = None,
        auth: str | None = None,
        seconds_per_step: float = 0.0,
        seconds_to_load: float = 0.0,
        busy: bool = False,
        address: str = "127.0.0.1",
        checkpoint: str = CHECKPOINT,
        log: bool = False,
    ) -> None:
        super().__init__((address, port), _Handler)
        self.kind = kind
        self.misbehave = misbehave
        self.auth = auth
        self.seconds_per_step = seconds_per_step
        self.seconds_to_load = seconds_to_load
        self.busy = busy
        self.checkpoint = checkpoint
        self.log = log
        self.requests: list[dict[str, Any]] = []
        self.out_of_memory_events = 0
        self.stopping = threading.Event()
        # The picture that is being made ends early (A1111).
        self.interrupted = threading.Event()
        # Both engines make one picture at a time.
        self.generating = threading.Lock()
        self.loaded = False

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def note(self, request: dict[str, Any]) -> None:
        self.requests.append(request)
        if self.log:
            print(json.dumps(request), flush=True)


@contextmanager
def serve(**options: Any) -> Iterator[WebUi]:
    """Serves in the background until the block ends; takes the arguments of WebUi."""
    server = WebUi(**options)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.interrupted.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: WebUi
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a test looks at `requests` instead."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        login = self.headers.get("Authorization")
        self.server.note({"method": "GET", "path": self.path, "login": login})
        if not self._may_enter():
            return
        route = self._routes().get(path)
        if route is None:
            self._send(404, {"detail": "Not Found"} if self.server.kind == "automatic1111" else None)
        else:
            self._send(200, route)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.note({"method": "POST", "path": self.path, "body": body.decode("utf-8", "replace")})
        if not self._may_enter():
            return
        if self.path in REFRESH and self.server.kind == "automatic1111" and self.server.misbehave != "no_api":
            self._send(200, {})
            return
        if self.path == INTERRUPT and self.server.kind == "automatic1111" and self.server.misbehave != "no_api":
            self.server.interrupted.set()
            self._send(200, {})
            return
        if self.path != "/sdapi/v1/txt2img" or self.server.misbehave == "no_api":
            self._send(404, {"detail": "Not Found"} if self.server.kind == "automatic1111" else None)
            return
        try:
            asked = json.loads(body)
        except ValueError as exc:
            self._send(500, {"error": "server_error", "message": str(exc)})
            return
        if not asked.get("prompt") and self.server.kind == "sd_server":
            self._send(400, {"error": "prompt required"})
            return
        self._generate(asked)

    def _routes(self) -> dict[str, Any]:
        name = self.server.checkpoint
        if self.server.kind == "sd_server":
            return {
                "/": "<!DOCTYPE html><title>stand-in</title>",
                "/sdapi/v1/options": {"samples_format": "png", "sd_model_checkpoint": name},
                "/sdapi/v1/samplers": [{"name": "euler", "aliases": ["euler"], "options": {}}],
                "/sdapi/v1/loras": [],
                # sd-server knows no hashes and says so in a way that looks like one.
                "/sdapi/v1/sd-models": [
                    {
                        "title": name,
                        "model_name": name,
                        "filename": f"{name}.safetensors",
                        "hash": "8" * 10,
                        "sha256": "8" * 64,
                        "config": None,
                    }
                ],
            }
        if self.server.misbehave == "no_api":
            return {"/": "<!DOCTYPE html><title>stand-in</title>", "/internal/ping": {}}
        busy = self.server.busy or self.server.generating.locked()
        state = {"skipped": False, "interrupted": False, "job": "", "job_count": int(busy), "job_no": 0}
        gib = 1024**3
        cuda = {
            "system": {"free": gib, "used": gib, "total": 2 * gib},
            "reserved": {"current": gib, "peak": 1536 * 1024**2},
            "events": {"retries": 0, "oom": self.server.out_of_memory_events},
        }
        return {
            "/": "<!DOCTYPE html><title>stand-in</title>",
            "/internal/ping": {},
            "/controlnet/model_list": {"model_list": []},
            "/sdapi/v1/options": {
                "sd_model_checkpoint": f"{name}.safetensors [{CHECKPOINT_SHA256[:10]}]",
                "sd_checkpoint_hash": CHECKPOINT_SHA256,
            },
            "/sdapi/v1/progress": {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None},
            "/sdapi/v1/memory": {"ram": {"free": gib, "used": gib, "total": 2 * gib}, "cuda": cuda},
            "/sdapi/v1/sd-models": [
                {
                    "title": f"{name}.safetensors [{CHECKPOINT_SHA256[:10]}]",
                    "model_name": name,
                    "hash": CHECKPOINT_SHA256[:10],
                    "sha256": CHECKPOINT_SHA256,
                    "filename": f"/srv/sd/models/checkpoint/{name}.safetensors",
                    "config": None,
                },
                {"title": "other.ckpt", "model_name": "other", "hash": None, "sha256": None},
            ],
        }

    def _may_enter(self) -> bool:
        if self.server.auth is None:
            return True
        wanted = "Basic " + base64.b64encode(self.server.auth.encode()).decode()
        if self.headers.get("Authorization") == wanted:
            return True
        self._send(401, {"detail": "Not authenticated"}, {"WWW-Authenticate": "Basic"})
        return False

    def _generate(self, asked: dict[str, Any]) -> None:
        width, height = int(asked.get("width", 512)), int(asked.get("height", 512))
        misbehave = self.server.misbehave
        with self.server.generating:
            if not self.server.loaded:
                self.server.loaded = True
                self.server.stopping.wait(self.server.seconds_to_load)
            self.server.interrupted.clear()
            self.server.interrupted.wait(self.server.seconds_per_step * int(asked.get("steps", 20)))
        if misbehave == "wrong_size":
            width, height = width + 64, height + 64
        settings = json.dumps({key: asked.get(key) for key in ("prompt", "seed", "steps", "cfg_scale", "sampler_name")})
        png = make_png(width, height, settings, blank=misbehave == "black")
        if misbehave == "die":
            self.close_connection = True
        elif misbehave == "silent":
            self.server.stopping.wait()
        elif misbehave == "trickle":
            self._trickle()
        elif misbehave == "error_500":
            self._send(500, self._out_of_memory())
        elif misbehave == "error_502":
            self._send(502, "<html><h1>502 Bad Gateway</h1></html>")
        elif misbehave == "html":
            self._send(200, "<!DOCTYPE html><title>Log in</title>")
        elif misbehave == "redirect":
            self._send(302, None, {"Location": "https://login.example/"})
        elif misbehave == "no_images":
            self._send(200, {"images": [], "parameters": asked, "info": ""})
        elif misbehave == "not_base64":
            self._send(200, {"images": ["%%%"], "parameters": asked, "info": ""})
        else:
            if misbehave == "cut_off":
                png = png[: len(png) // 2]
            elif misbehave == "jpeg":
                png = b"\xff\xd8\xff\xe0\0\x10JFIF" + png
            self._send(200, self._answer(asked, png))

    def _answer(self, asked: dict[str, Any], png: bytes) -> dict[str, Any]:
        info = ""
        if self.server.kind == "automatic1111":
            info = json.dumps(
                {
                    **{key: asked.get(key) for key in ("prompt", "seed", "width", "height", "steps", "cfg_scale")},
                    "sd_model_name": self.server.checkpoint,
                    "sd_model_hash": CHECKPOINT_SHA256[:10],
                    "version": "v1.10.1",
                }
            )
        return {"images": [base64.b64encode(png).decode()], "parameters": asked, "info": info}

    def _out_of_memory(self) -> dict[str, Any]:
        self.server.out_of_memory_events += 1
        if self.server.kind == "sd_server":
            return {"error": "generate_image returned no results"}
        return {
            "error": "OutOfMemoryError",
            "detail": "",
            "body": "",
            "errors": "CUDA out of memory. Tried to allocate 20.00 MiB",
        }

    def _trickle(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.stopping.wait(0.1):
            try:
                self.wfile.write(b" ")
            except OSError:
                return

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        page = isinstance(content, str)
        body = content.encode() if page else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if page else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            # The client has given up waiting, which is its right.
            self.close_connection = True


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in web UI for tests.")
    parser.add_argument("--kind", choices=KINDS, default="sd_server")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860, help="0 lets the system choose")
    parser.add_argument("--misbehave", choices=MISBEHAVIOURS)
    parser.add_argument("--auth", metavar="USER:PASSWORD")
    parser.add_argument("--seconds-per-step", type=float, default=0.0)
    parser.add_argument("--seconds-to-load", type=float, default=0.0)
    parser.add_argument("--busy", action="store_true", help="say that another picture is being made (A1111)")
    parser.add_argument("--log", action="store_true", help="print each request as JSON")
    arguments = vars(parser.parse_args())
    with serve(**arguments) as server:
        print(json.dumps({"url": server.url}), flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
