# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Become a web UI of AUTOMATIC1111's family, behind a login where one is wanted.

    {release}/venv/bin/python serve.py {release}/webui FLAGS...

Upstream's launch.py then runs in this very process, with these flags, as if it had been started itself.
"""

from __future__ import annotations

import functools
import importlib
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import activity
import login_guard


def let_middleware_come_late(application_class: Any) -> None:
    """A request in the middle of the start may not end the start.

    Upstream serves its page before it has added the API and its middleware, and Starlette raises for middleware that
    comes after the first answer: a page that is still open, or a health check, in that second kills the server. So what
    was built for that answer is dropped, as upstream itself does it for its own first middleware, and built again.
    """
    inner = application_class.add_middleware

    @functools.wraps(inner)
    def add_middleware(app: Any, *arguments: Any, **options: Any) -> None:
        app.middleware_stack = None
        inner(app, *arguments, **options)

    application_class.add_middleware = add_middleware


def put_login_in_front() -> None:
    """Guard every application of this process: by the login, if one is wanted or there is one; raises LoginError."""
    wanted = os.environ.get("SD_WEBUI_LOGIN", "")
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), "login")
    if wanted not in ("", "required"):
        raise login_guard.LoginError("SD_WEBUI_LOGIN is neither empty nor required; run site.yml again.")
    if wanted or path.exists():
        login_guard.Guard(login_guard.read_login(path)).protect(_application_class())
    elif not any(argument.startswith("--cors-allow-origins") for argument in sys.argv):
        login_guard.Guard(None).protect(_application_class())


def _application_class() -> Any:
    """The class below FastAPI and Gradio; before anything of the web UI is imported, so that all get this one."""
    return importlib.import_module("starlette.applications").Starlette


def main() -> int:
    """Run upstream's launch.py; return only when the login is not usable."""
    if len(sys.argv) < 2 or not Path(sys.argv[1], "launch.py").is_file():
        print("error: the first argument has to be the folder of a web UI's launch.py.", file=sys.stderr)
        return 78
    folder = Path(sys.argv[1]).resolve()
    try:
        # Before the login, so that the login stands in front of it.
        activity.Activity().serve(_application_class())
        put_login_in_front()
        let_middleware_come_late(_application_class())
    except login_guard.LoginError as error:
        print(f"error: {error}", file=sys.stderr)
        return 78
    os.chdir(folder)
    sys.path[0] = str(folder)
    sys.argv = ["launch.py", *sys.argv[2:]]
    runpy.run_path(str(folder / "launch.py"), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
