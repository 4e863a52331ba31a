# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no restart mends: a port that somebody else has, a disk that is full or read-only. A start waits for its end."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from pathlib import Path

from sd_watchdog import model, proc
from sd_watchdog.config import Config, Engine

# Below this much a start cannot even write its settings.
FULL_MIB = 8


@dataclass(frozen=True)
class Blocker:
    """Why a start would fail, in a word and in a sentence."""

    reason: str
    said: str


def port_is_taken(address: str, port: int) -> bool:
    """Would the engine find its port taken? By a program that listens: connections of the last life do not count."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        # Those that are still closing refuse this one, and not sd-server's own way to listen (SO_REUSEPORT).
        return error.errno == errno.EADDRINUSE and proc.Proc().listener_uid(port, address) is not None
    return False


def folders(engine: Engine) -> list[str]:
    """Where the engine writes; the rest of its data directory is read-only in its sandbox on purpose."""
    return list(engine.write_dirs) or [engine.outputs_dir]


def find(engine: Engine) -> Blocker | None:
    """The first thing in the way of a start, or None."""
    if port_is_taken(engine.address, engine.port):
        return Blocker(model.PORT_TAKEN, f"port {engine.port} is taken by another program")
    for folder in folders(engine):
        problem = proc.writable_problem(Path(folder))
        if problem:
            return Blocker(model.READ_ONLY, f"{folder} cannot be written ({problem}); look at dmesg and at the disk")
        free = proc.free_mib(Path(folder))
        if free is not None and free < FULL_MIB:
            return Blocker(
                model.DISK_FULL,
                f"the disk of {folder} is full (less than {FULL_MIB} MiB are free); remove pictures or models",
            )
    return None


def warnings(engine: Engine, config: Config) -> list[Blocker]:
    """What a running server should not wait for: people are told, nothing is restarted."""
    found = []
    for folder in folders(engine):
        problem = proc.writable_problem(Path(folder))
        if problem:
            found.append(Blocker(model.READ_ONLY, f"{folder} cannot be written ({problem}): pictures are lost"))
            continue
        free = proc.free_mib(Path(folder))
        if free is not None and free < config.disk_low_mib:
            said = f"{free} MiB are free on the disk of {folder}, less than {config.disk_low_mib}; remove old pictures"
            found.append(Blocker("disk_low", f"{said}, or let watchdog_keep_outputs_days do it"))
    unique = {blocker.said: blocker for blocker in found}
    return list(unique.values())
