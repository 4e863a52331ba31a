#!/usr/bin/env python3
# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a web UI for pictures, many at a time, and tells as JSON what became of each: load.py URL --requests 200.

Runs on any host, with nothing but Python. Every request has a connection of its own, as those of most clients, and a
number in its prompt, by which the engines' own lists know it. Times are the machine's, which its containers share.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import itertools
import json
import ssl
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

PATH = "/sdapi/v1/txt2img"


class Load:
    """A number of clients, each of which asks again as soon as it has its picture."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.url = urllib.parse.urlsplit(options.url)
        self.headers = {"Content-Type": "application/json"}
        if options.login_file:
            login = Path(options.login_file).read_bytes().strip()
            self.headers["Authorization"] = "Basic " + base64.b64encode(login).decode("ascii")
        self.tls: ssl.SSLContext | None = None
        if self.url.scheme == "https":
            self.tls = ssl.create_default_context(cafile=options.cafile)
        self.results: list[dict[str, Any]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def run(self) -> dict[str, Any]:
        """All of it."""
        begun = time.monotonic()
        clients = [threading.Thread(target=self._client) for _number in range(self.options.concurrency)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        self.results.sort(key=lambda result: int(result["number"]))
        return {"begun": begun, "ended": time.monotonic(), "results": self.results}

    def _next(self) -> int | None:
        """The number of one more request; there are more than were asked for until somebody says that it is enough."""
        until = self.options.until
        with self._lock:
            number = next(self._numbers)
        if number < self.options.requests or (until and not Path(until).exists()):
            return number
        return None

    def _client(self) -> None:
        while (number := self._next()) is not None:
            prompt = f"{self.options.name} {number}"
            result = {"number": number, "prompt": prompt, "sent": time.monotonic(), **self._ask(number, prompt)}
            result["answered"] = time.monotonic()
            with self._lock:
                self.results.append(result)
                if self.options.count:
                    Path(self.options.count).write_text(f"{len(self.results)}\n", encoding="ascii")

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeout = self.url.hostname or "", self.url.port, self.options.timeout
        if self.tls:
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _ask(self, number: int, prompt: str) -> dict[str, Any]:
        """Status, and who made the picture."""
        asked = {
            "prompt": prompt,
            "steps": self.options.steps,
            "width": 64,
            "height": 64,
            "seed": number,
            "sampler_name": "Euler",
        }
        if self.options.bytes:
            asked["negative_prompt"] = "x" * self.options.bytes
        connection = self._connect()
        try:
            connection.request("POST", PATH, json.dumps(asked), self.headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return {"status": 0, "error": f"{type(error).__name__}: {error}"}
        finally:
            connection.close()
        if answer.status != 200:
            return {"status": answer.status, "error": body[:300].decode("utf-8", "replace")}
        try:
            told = json.loads(body)
            info = json.loads(told["info"]) if told["info"] else {}
            is_png = base64.b64decode(told["images"][0])[:8] == b"\x89PNG\r\n\x1a\n"
        except (ValueError, LookupError, TypeError) as error:
            return {"status": 200, "error": f"not a picture: {error!r}"}
        return {"status": 200, "host": info.get("host", "?"), **({} if is_png else {"error": "not a PNG"})}


def main() -> None:
    """To the output, or into a file that is there once all is over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="as https://192.0.2.7")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8, help="of each picture; the light web UI takes 0.05 s for one")
    parser.add_argument("--bytes", type=int, default=0, help="more of them in each request")
    parser.add_argument("--name", default="load", help="begins the prompts")
    parser.add_argument("--login-file", help="with user:password")
    parser.add_argument("--cafile", help="the certificate to believe")
    parser.add_argument("--timeout", type=float, default=900)
    parser.add_argument("--until", help="go on beyond --requests until this file is there")
    parser.add_argument("--count", help="a file that tells how many are done")
    parser.add_argument("--out", help="a file for the result")
    options = parser.parse_args()
    text = json.dumps(Load(options).run()) + "\n"
    if options.out:
        part = Path(f"{options.out}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(options.out)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
