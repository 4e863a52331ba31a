# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main program: page, API, and the thread that loads the model, in upstream's order."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from typing import Any

# Before the long imports: a start that fails does so in a second.
importlib.import_module("modules.faults").at_start()
print("Importing gradio ...", flush=True)
gradio: Any = importlib.import_module("gradio")
# Ends with an AssertionError where the sub-repositories are missing, as upstream does.
importlib.import_module("modules.paths")
importlib.import_module("ldm.modules.encoders.modules")
shared: Any = importlib.import_module("modules.shared")
api: Any = importlib.import_module("modules.api")
auth: Any = importlib.import_module("modules.auth")
extensions: Any = importlib.import_module("modules.extensions")
release: Any = importlib.import_module("modules.release")
script_callbacks: Any = importlib.import_module("modules.script_callbacks")
sd_models: Any = importlib.import_module("modules.sd_models")
ui: Any = importlib.import_module("modules.ui")


def leave_at_once(number: int, _frame: Any) -> None:
    """Every deliberate end is exit status 0."""
    print(f"Interrupted with signal {number}", flush=True)
    os._exit(0)


def initialize() -> None:
    """What is done before the page is built."""
    signal.signal(signal.SIGINT, leave_at_once)
    sd_models.list_models()
    extensions.list_extensions()
    extensions.load_scripts()
    threading.Thread(target=sd_models.load_model, daemon=True).start()


def webui() -> None:
    """Page and API, until somebody asks for the end."""
    if release.FAULT == "exit":
        raise RuntimeError("broken on purpose: this release cannot start")
    if release.FAULT == "silent":
        print("This release is broken on purpose: it never answers.", flush=True)
        time.sleep(86400)
    initialize()
    options = shared.cmd_opts
    demo = ui.create_ui()
    if not options.no_gradio_queue:
        demo.queue(64)
    app, _local, _share = demo.launch(
        share=options.share,
        server_name=options.server_name or ("0.0.0.0" if options.listen else None),
        server_port=options.port,
        auth=list(auth.credentials(options.gradio_auth, options.gradio_auth_path)) or None,
        prevent_thread_lock=True,
        allowed_paths=options.gradio_allowed_path,
        app_kwargs={"docs_url": "/docs", "redoc_url": "/redoc"},
        root_path=f"/{options.subpath}" if options.subpath else "",
    )
    # From here on routes and middleware are added to a server that answers already, as upstream does.
    app.user_middleware = [added for added in app.user_middleware if added.cls.__name__ != "CORSMiddleware"]
    app.middleware_stack = None
    app.add_middleware(importlib.import_module("starlette.middleware.gzip").GZipMiddleware, minimum_size=1000)
    api.add_internal_routes(app)
    if options.api:
        api.add_routes(app)
    script_callbacks.app_started(demo, app)
    print(f"Startup time: {shared.startup_seconds():.1f}s.", flush=True)
    shared.stop_requested.wait()
    print("Stopping server...", flush=True)
    demo.close()


if __name__ == "__main__":
    webui()
