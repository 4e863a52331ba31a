# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves a folder over HTTPS: python3 -m nvidia.serve FOLDER CERTIFICATE KEY [PORT]."""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import ssl
import sys
from typing import Any


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files, with connections that stay open as a real server's do."""

    protocol_version = "HTTP/1.1"


class Server(http.server.ThreadingHTTPServer):
    """Ends each connection in the way of TLS: apt of Debian 13 takes anything else for a cut file."""

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Say goodbye before hanging up."""
        if isinstance(request, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                request.unwrap()
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error."""


def main() -> None:
    """Serve until somebody ends it."""
    folder, certificate, key = sys.argv[1:4]
    port = int(sys.argv[4]) if len(sys.argv) > 4 else 443
    server = Server(("", port), functools.partial(Handler, directory=folder))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    # The handshake is the thread's own: a client that is slow with it holds up nobody.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
