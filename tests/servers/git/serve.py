#!/usr/bin/env python3
# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Git host over HTTP: real Git behind it, and the ways in which a Git host fails in front. README.md says which."""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import shutil
import subprocess
import threading
import urllib.parse
from pathlib import Path
from typing import Any, BinaryIO

# What GitHub's servers allow: any commit that they still have can be asked for by its id.
ANY_COMMIT = {"uploadpack.allowAnySHA1InWant": "true", "uploadpack.allowFilter": "true"}
MODES = ("open", "old", "private", "slow", "gone")
CHUNK = 1 << 16


class GitHost(http.server.ThreadingHTTPServer):
    """Serves FOLDER/owner/name.git below /open and the other modes, and plain files below /files."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], folder: Path, files: Path | None = None) -> None:
        super().__init__(address, Handler)
        self.folder = folder.resolve()
        self.files = files.resolve() if files else None
        self.requests: list[dict[str, Any]] = []
        self.stopping = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    server: GitHost
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: `requests` holds what was asked."""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Send the request to what its path's first part names."""
        path, _, query = self.path.partition("?")
        parts = urllib.parse.unquote(path).strip("/").split("/")
        if parts == ["requests"]:
            self.send(200, json.dumps(self.server.requests).encode(), "application/json")
            return
        self.server.requests.append({"method": self.command, "path": self.path, "client": self.client_address[0]})
        if ".." in parts or parts[0] not in (*MODES, "files"):
            self.send(404)
        elif parts[0] == "files":
            self.send_file(parts[1:])
        elif parts[0] == "slow":
            # Accepts, and never answers.
            self.server.stopping.wait()
            self.close_connection = True
        elif parts[0] == "private":
            # GitHub's answer for a repository that was removed, or never was: it might be somebody's private one.
            self.send(401, b"Repository not found.", headers={"WWW-Authenticate": 'Basic realm="Git host"'})
        elif parts[0] == "gone" or len(parts) < 4:
            self.send(404)
        else:
            self.git(parts[0], parts[1:], query)

    def git(self, mode: str, parts: list[str], query: str) -> None:
        """Let Git's own CGI program answer."""
        owner, name = parts[0], parts[1] if parts[1].endswith(".git") else parts[1] + ".git"
        if not (self.server.folder / owner / name).is_dir():
            self.send(404)
            return
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_PROJECT_ROOT": str(self.server.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            # The repositories may belong to another user than the one who serves them.
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PATH_INFO": "/" + "/".join([owner, name, *parts[2:]]),
            "REQUEST_METHOD": self.command,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "REMOTE_ADDR": self.client_address[0],
        }
        if mode == "open":
            environment["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
            environment["GIT_CONFIG_COUNT"] = str(len(ANY_COMMIT))
            for number, (key, value) in enumerate(ANY_COMMIT.items()):
                environment[f"GIT_CONFIG_KEY_{number}"] = key
                environment[f"GIT_CONFIG_VALUE_{number}"] = value
        # The mode "old" has neither that nor protocol 2, which lets through any commit as well.
        if self.headers.get("Content-Encoding"):
            environment["HTTP_CONTENT_ENCODING"] = self.headers["Content-Encoding"]
        body = self.body()
        environment["CONTENT_LENGTH"] = str(len(body))
        done = subprocess.run(["git", "http-backend"], check=False, input=body, capture_output=True, env=environment)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if ": " in line)
        # An error that Git tells in its own protocol comes with status 200, whatever the program ended with.
        status = int(headers.pop("Status", "200 OK" if headers else "500 Error").split()[0])
        self.send(status, content, headers.pop("Content-Type", "text/plain"), headers)

    def body(self) -> bytes:
        """The request's body, which Git sends in chunks when it is long."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send_file(self, parts: list[str]) -> None:
        """A file, or the links of a folder as a package index has them; a part of a file where it is asked for."""
        path = self.server.files and self.server.files.joinpath(*parts)
        if path is None or not path.exists():
            self.send(404)
        elif path.is_dir():
            names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
            links = "".join(f'<a href="{urllib.parse.quote(name)}">{name}</a><br>\n' for name in names)
            self.send(200, f"<!DOCTYPE html><html><body>\n{links}</body></html>\n".encode(), "text/html")
        else:
            with path.open("rb") as file:
                self.send_part(file, path.stat().st_size)

    def send_part(self, file: BinaryIO, size: int) -> None:
        """What the header Range asks for, else all of it."""
        first, last, status = 0, size - 1, 200
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and "," not in wanted:
            start, _, end = wanted[6:].partition("-")
            first, last = (int(start), min(int(end or last), last)) if start else (max(size - int(end), 0), last)
            status = 206
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        file.seek(first)
        if status == 200:
            shutil.copyfileobj(file, self.wfile, CHUNK)
            return
        left = last - first + 1
        while left > 0:
            part = file.read(min(CHUNK, left))
            self.wfile.write(part)
            left -= len(part)

    def send(
        self, status: int, body: bytes = b"", kind: str = "text/plain", headers: dict[str, str] | None = None
    ) -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main() -> None:
    """Serve until somebody ends it."""
    parser = argparse.ArgumentParser(description="A Git host for tests.")
    parser.add_argument("folder", type=Path, help="has owner/name.git")
    parser.add_argument("--files", type=Path, help="served as they are below /files")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 lets the system choose")
    arguments = parser.parse_args()
    server = GitHost((arguments.address, arguments.port), arguments.folder, arguments.files)
    print(json.dumps({"url": f"http://{arguments.address}:{server.server_address[1]}"}), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
