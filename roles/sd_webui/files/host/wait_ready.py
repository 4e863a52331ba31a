# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until the engine answers on its readiness path: ExecStartPost of sd-webui.service."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import server
import settings


def main() -> int:
    """Return 0 as soon as the engine answers, 1 after the timeout."""
    parser = argparse.ArgumentParser(description="Wait until the web UI answers.")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait")
    timeout = parser.parse_args().timeout
    deadline = time.monotonic() + timeout
    try:
        config, release = settings.load_settings(), settings.load_release()
    except settings.SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path, said = release["paths"]["readiness"], "nothing"
    # Set by systemd for ExecStartPost: there is no point in waiting for a process that has ended.
    process = Path("/proc") / os.environ.get("MAINPID", "self")
    while time.monotonic() < deadline and process.exists():
        said, body = server.ask_with_login(config, path, 5)
        if body is not None:
            return 0
        time.sleep(0.5)
    ended = f"within {timeout:.0f} s" if process.exists() else "before its process ended"
    print(
        f"error: {path} had no answer {ended} (at last: {said}): {server.base_url(config)} did not answer.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
