# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web UI for the guide's script: it starts in five seconds, answers /internal/ping, and stands still on SIGUSR1."""

from __future__ import annotations

import signal
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

START_SECONDS = 5


class Handler(BaseHTTPRequestHandler):
    """One request at a time, as an event loop has it."""

    timeout = 5

    def do_GET(self) -> None:
        """Proof of life."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


def main() -> None:
    """Serve for ever."""
    signal.signal(signal.SIGUSR1, lambda _number, _frame: time.sleep(1e6))
    time.sleep(START_SECONDS)
    HTTPServer(("127.0.0.1", 7860), Handler).serve_forever()


if __name__ == "__main__":
    main()
