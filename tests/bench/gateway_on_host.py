#!/usr/bin/env python3
"""The half of gateway that runs on the host, as root."""

from __future__ import annotations

import argparse
import base64
import functools
import http.client
import json
import multiprocessing
import socket
import ssl
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENGINE, GATEWAY = Path("/etc/sd-webui/engine.json"), Path("/etc/sd-gateway/gateway.json")
CLIENTS = 4
# Fewer than what is throttled.
WRONG = 5


@functools.lru_cache(maxsize=1)
def tls() -> ssl.SSLContext:
    """Believes the gateway's own certificate, whatever address it is reached by."""
    context = ssl.create_default_context(cafile="/etc/sd-gateway/certificate.pem")
    context.check_hostname = False
    return context


@dataclass
class Side:
    """Who is asked: the web UI itself, or HAProxy."""

    address: str
    port: int
    login: str
    has_tls: bool

    def connect(self) -> http.client.HTTPConnection:
        """With TLS where the side has it."""
        connection: http.client.HTTPConnection
        if self.has_tls:
            connection = http.client.HTTPSConnection(self.address, self.port, timeout=60, context=tls())
        else:
            connection = http.client.HTTPConnection(self.address, self.port, timeout=60)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(
        self, connection: http.client.HTTPConnection, path: str, login: str | None = None, status: int = 200
    ) -> float:
        """Seconds until the whole answer is there."""
        told = self.login if login is None else login
        headers = {"Authorization": "Basic " + base64.b64encode(told.encode()).decode()} if told else {}
        started = time.perf_counter()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        taken = time.perf_counter() - started
        if answer.status == 429:
            sys.exit("the gateway refuses so many requests: set gateway_requests_per_10s to 1000000 for a while.")
        if answer.status != status:
            sys.exit(f"{self.address}:{self.port}{path} answers {answer.status} and not {status}: repair that first.")
        return taken

    def in_a_row(self, path: str, count: int) -> list[float]:
        """On one connection, which does not count."""
        connection = self.connect()
        self.ask(connection, path)
        taken = [self.ask(connection, path) for _number in range(count)]
        connection.close()
        return taken

    def one_by_one(self, path: str, count: int) -> list[float]:
        """On a new connection each."""
        taken = []
        for _number in range(count):
            started = time.perf_counter()
            connection = self.connect()
            self.ask(connection, path)
            taken.append(time.perf_counter() - started)
            connection.close()
        return taken

    def per_second(self, path: str, seconds: float) -> float:
        """Of several clients, each of them a process."""
        with multiprocessing.Pool(CLIENTS) as pool:
            return sum(pool.starmap(self.as_many_as_it_can, [(path, seconds)] * CLIENTS)) / seconds

    def as_many_as_it_can(self, path: str, seconds: float) -> int:
        """One client."""
        connection, count = self.connect(), 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.ask(connection, path)
            count += 1
        connection.close()
        return count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--login", required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    engine, gateway = json.loads(ENGINE.read_text()), json.loads(GATEWAY.read_text())
    own = Path(engine["auth_file"]).read_text().strip() if engine["auth_file"] else ""
    sides = {
        "direct": Side(engine["address"], int(engine["port"]), own, has_tls=False),
        "gateway": Side("127.0.0.1", int(gateway["https_port"]), options.login, has_tls=True),
    }
    path = engine["health_path"]
    rows: dict[str, list[float]] = {name: [] for name in sides}
    new: dict[str, list[float]] = {name: [] for name in sides}
    pages: dict[str, list[float]] = {name: [] for name in sides}
    # In turns, so that what else the machine does falls on both.
    for _round in range(options.rounds):
        for name, side in sides.items():
            rows[name] += side.in_a_row(path, options.requests)
            new[name] += side.one_by_one(path, max(options.requests // 5, 1))
    for _round in range(2):
        for name, side in sides.items():
            pages[name].append(side.per_second("/", options.seconds))
    wrong = [
        sides["gateway"].ask(sides["gateway"].connect(), path, f"{options.login}{number}", 401)
        for number in range(WRONG)
    ]
    told: dict[str, Any] = {
        name: {
            "median_ms": statistics.median(rows[name]) * 1000,
            "slow_ms": statistics.quantiles(rows[name], n=20)[-1] * 1000,
            "new_ms": statistics.median(new[name]) * 1000,
            "page_per_second": max(pages[name]),
        }
        for name in sides
    }
    told.update(engine=engine["engine"], clients=CLIENTS, hashed_ms=statistics.median(wrong) * 1000)
    # In one word: whatever shows it may break lines and escape quotes.
    print("RESULT " + base64.b64encode(json.dumps(told).encode()).decode())


if __name__ == "__main__":
    main()
