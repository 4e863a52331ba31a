# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until no generation runs; after the timeout say what a restart will cut. Always exits with 0."""

from __future__ import annotations

import argparse
import sys
import time

import server
import settings


def wait_until_idle(timeout: float) -> bool:
    """True as soon as the server is idle or not there, False after the timeout (seconds)."""
    try:
        config, release = settings.load_settings(), settings.load_release()
    except settings.SettingsError:
        return True
    deadline = time.monotonic() + timeout
    while server.is_busy(config, release["paths"]):
        if time.monotonic() >= deadline:
            return False
        time.sleep(1)
    return True


def main() -> int:
    """Print nothing when the server is idle, one sentence when it is not."""
    parser = argparse.ArgumentParser(description="Wait until the web UI makes no picture.")
    parser.add_argument("--timeout", type=float, default=900, help="seconds to wait")
    timeout = parser.parse_args().timeout
    if not wait_until_idle(timeout):
        print(f"a picture was still being made after {timeout:.0f} s; the restart cuts it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
