# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web UI of AUTOMATIC1111's family with nothing but Python's standard library: starts in a blink, takes 20 MB.

It has upstream's routes, its lock, its names for jobs and Gradio's queue, as far as somebody in front of it can tell;
libexec/webui/serve.py starts it like the real one, so login and activity route are the role's own.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import mmap
from pathlib import Path
from typing import Any

# A file of the release that the process has mapped, as the real one has its packages: by that it is known.
with open(Path(__file__).with_name("release.txt"), "rb") as _file:
    RELEASE = mmap.mmap(_file.fileno(), 0, access=mmap.ACCESS_READ)

asgi: Any = importlib.import_module("modules.asgi")
jobs: Any = importlib.import_module("modules.jobs")
routes: Any = importlib.import_module("modules.routes")
shared: Any = importlib.import_module("modules.shared")
applications: Any = importlib.import_module("starlette.applications")


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--server-name", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--data-dir", default=".")
    # The others are about a model, which this one has not.
    options, _others = parser.parse_known_args()
    shared.version = RELEASE[:].decode().strip()
    jobs.open_log(Path(options.data_dir, "jobs.jsonl"))
    application = applications.Starlette(routes.respond)
    print(f"Startup time: {shared.startup_seconds():.1f}s.", flush=True)
    asyncio.run(asgi.serve(application, options.server_name, options.port))


if __name__ == "__main__":
    main()
