# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens on a TCP port: the table tells the socket, and only root may look which process has it."""

from __future__ import annotations

from pathlib import Path

from sd_watchdog import untrusted, who

_LISTENS = "0A"


def sockets(root: Path, port: int) -> dict[str, str]:
    """The sockets that listen on the port, by inode, with the number of their user."""
    found: dict[str, str] = {}
    # The first process's: this one may live in a network of its own.
    folder = root / "proc/1/net"
    if not (folder / "tcp").exists():
        folder = root / "proc/net"
    for table in ("tcp", "tcp6"):
        try:
            lines = (folder / table).read_text(encoding="ascii", errors="replace").splitlines()[1:]
        except OSError:
            # A host without IPv6 has no second one.
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                found[fields[9]] = fields[7]
    return found


def find(root: Path, port: int) -> str:
    """Who listens there, in words; "" when nobody does."""
    listening = sockets(root, port)
    if not listening:
        return ""
    wanted = {f"socket:[{inode}]" for inode in listening}
    owners: dict[str, int] = {}
    for pid in who.pids(root):
        if not wanted.isdisjoint(who.opened(root, pid)):
            # Of a server with many processes the first one, which has made the others.
            owners.setdefault(who.unit_of(root, pid) or str(pid), pid)
    if len(owners) > 1:
        # systemd keeps the socket of a service that it starts on demand.
        owners = {unit: pid for unit, pid in owners.items() if pid != 1}
    if not owners:
        users = ", ".join(sorted({untrusted.clean(uid, 20) for uid in listening.values()}))
        return f"a program that cannot be seen from here (of the user with number {users})"
    return " and ".join(who.describe(root, pid) for pid in list(owners.values())[:3])
