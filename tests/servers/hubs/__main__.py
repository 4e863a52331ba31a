# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hubs on a host of their own: python3 -m hubs --folder DIR --config config.json. README.md says how."""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path
from typing import Any

from hubs import NAMES, Hubs, Request
from hubs.config import describe, fill

# One after the other, where the configuration names no other ones.
FIRST_PORT = 8190


def log_to(path: Path, hubs: Hubs) -> None:
    """Write down each request once it has been answered."""
    file = path.open("a", encoding="utf-8")
    lock = threading.Lock()

    def write(request: Request) -> None:
        with lock:
            file.write(json.dumps(request.as_json()) + "\n")
            file.flush()

    for server in hubs.servers:
        server.on_answer = write


def main() -> None:
    """Serve until somebody ends it."""
    parser = argparse.ArgumentParser(description="Stand-ins of model hubs and their storage hosts, for tests.")
    parser.add_argument("--address", help="where to listen; each server on a loopback address of its own without it")
    parser.add_argument("--folder", type=Path, required=True, help="for the files, hubs.json and requests.jsonl")
    parser.add_argument("--config", type=Path, help="what there is: see README.md")
    parser.add_argument("--advertise", help="how others reach this host, such as http://192.0.2.7")
    arguments = parser.parse_args()
    config: dict[str, Any] = json.loads(arguments.config.read_text(encoding="utf-8")) if arguments.config else {}
    ports = {name: FIRST_PORT + number for number, name in enumerate(NAMES)}
    with Hubs(
        arguments.folder,
        tls=tuple(config["tls"]) if "tls" in config else None,
        address=arguments.address,
        ports={**ports, **config.get("ports", {})},
        advertise=arguments.advertise,
    ) as hubs:
        log_to(arguments.folder / "requests.jsonl", hubs)
        fill(hubs, config)
        text = json.dumps(describe(hubs))
        (arguments.folder / "hubs.json").write_text(text + "\n", encoding="utf-8")
        print(text, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
