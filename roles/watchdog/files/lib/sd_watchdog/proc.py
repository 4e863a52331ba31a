# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel tells about processes, cgroups, ports and file systems, in reads cheap enough for every few seconds.

Nothing here raises because something is not there: a process ends between two reads, and kernels differ.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1024 * 1024
# A cgroup of v1 without a limit says the largest number of pages that fits.
_NO_LIMIT = 1 << 60


def _read(path: str) -> bytes | None:
    """A small file of the kernel's, None when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts: list[bytes] = []
        while True:
            part = os.read(descriptor, 65536)
            if not part:
                return b"".join(parts)
            parts.append(part)
    except OSError:
        # The process has ended while it was read.
        return None
    finally:
        os.close(descriptor)


def _number(data: bytes | None) -> int | None:
    return int(data) if data is not None and data.strip().isdigit() else None


def _fields(data: bytes | None) -> dict[bytes, int]:
    """Lines "name number", with or without a colon or a unit."""
    found = {}
    for line in (data or b"").splitlines():
        words = line.split()
        if len(words) > 1 and words[1].isdigit():
            found[words[0].rstrip(b":")] = int(words[1])
    return found


def _files(fields: dict[bytes, int], prefix: bytes) -> int:
    """Bytes of the page cache: what lies in memory only, as in /dev/shm, is on other lists."""
    return fields.get(prefix + b"inactive_file", 0) + fields.get(prefix + b"active_file", 0)


class Proc:
    """/proc below a root."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.is_real = root == Path("/")
        self._proc = os.path.join(root, "proc")

    def path(self, name: str) -> str:
        """Where an absolute path of this host is."""
        return os.path.join(self.root, name.lstrip("/"))

    def read(self, name: str) -> bytes | None:
        """A file below /proc, None when it cannot be read."""
        return _read(f"{self._proc}/{name}")

    def _stat(self, pid: int) -> list[bytes]:
        """The fields from the state on; the name before them may hold anything, blanks and parentheses too."""
        _before, found, fields = (self.read(f"{pid}/stat") or b"").rpartition(b")")
        return fields.split() if found else []

    def state(self, pid: int) -> str | None:
        """The letter of its state; None when it has ended, a zombie included."""
        fields = self._stat(pid)
        letter = fields[0].decode("ascii", "replace") if fields else ""
        return letter if letter and letter not in "ZXx" else None

    def cpu_seconds(self, pid: int) -> float:
        """Processor time of all its threads."""
        fields = self._stat(pid)
        return (int(fields[11]) + int(fields[12])) / _TICKS if len(fields) > 12 else 0.0

    def rss(self, pid: int) -> int:
        """Bytes that it has in memory."""
        fields = (self.read(f"{pid}/statm") or b"").split()
        return int(fields[1]) * _PAGE if len(fields) > 1 else 0

    def read_bytes(self, pid: int) -> int:
        """Bytes that it has read, from the cache and from sockets as well; other users' processes tell nothing.

        What is read through a memory map counts only where it comes from the disk (read_bytes), other reads then twice.
        """
        fields = _fields(self.read(f"{pid}/io"))
        return fields.get(b"rchar", 0) + fields.get(b"read_bytes", 0)

    def major_faults(self, pid: int) -> int:
        """Pages that it had to wait for: from the swap, or of a program or map that was no longer in memory."""
        fields = self._stat(pid)
        return int(fields[9]) if len(fields) > 9 else 0

    def descendants(self, pid: int) -> list[int]:
        """Its children, theirs and so on; not those whose parent has ended, which belong to nobody."""
        children: dict[int, list[int]] = {}
        try:
            names = os.listdir(self._proc)
        except OSError:
            return []
        for name in names:
            if name.isdigit():
                fields = self._stat(int(name))
                if len(fields) > 1:
                    children.setdefault(int(fields[1]), []).append(int(name))
        found = []
        todo = [pid]
        while todo:
            for child in children.pop(todo.pop(), []):
                found.append(child)
                todo.append(child)
        return sorted(found)

    def listener_uid(self, port: int, address: str = "") -> int | None:
        """The user whose program listens on a TCP port; None when there is none.

        With an address, only programs count that an attempt to connect to it can reach. If there are several, one of
        somebody else is told first: who asks wants to know whether the port is its own.
        """
        wanted = _as_in_table(address) if address else frozenset()
        found = set()
        for table in ("net/tcp", "net/tcp6"):
            for line in (self.read(table) or b"").splitlines()[1:]:
                # The second field is the local address, the fourth the state (0A: listens), the eighth the user.
                fields = line.split(None, 8)
                if len(fields) > 7 and fields[3] == b"0A":
                    local, _colon, number = fields[1].rpartition(b":")
                    if int(number, 16) == port and (not wanted or not local.strip(b"0") or local in wanted):
                        found.add(int(fields[7]))
        return min(found, key=lambda uid: (uid == os.getuid(), uid)) if found else None

    def boot_id(self) -> str:
        """Another one after each boot; empty where there is none."""
        return (self.read("sys/kernel/random/boot_id") or b"").decode("ascii", "replace").strip()

    def boottime(self) -> float:
        """Seconds since the boot, those asleep included; no clock that somebody sets."""
        if self.is_real:
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return float((self.read("uptime") or b"0").split()[0])

    def meminfo(self) -> dict[str, int]:
        """Bytes of memory, in all and still to be had without swapping."""
        fields = _fields(self.read("meminfo"))
        return {"total": fields.get(b"MemTotal", 0) * 1024, "available": fields.get(b"MemAvailable", 0) * 1024}


def _as_in_table(address: str) -> frozenset[bytes]:
    """How /proc/net/tcp and tcp6 write an address: words of four bytes as numbers of this machine."""
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        # A name: whoever listens counts.
        return frozenset()
    # A socket of IPv6 takes connections of IPv4 under an address of its own.
    both = [packed] if len(packed) == 16 else [packed, bytes(10) + b"\xff\xff" + packed]
    return frozenset(
        b"".join(b"%08X" % int.from_bytes(one[at : at + 4], sys.byteorder) for at in range(0, len(one), 4))
        for one in both
    )


class Cgroup:
    """The cgroup of a process, in the unified hierarchy, in separate ones, or in a mixture; found once.

    A controller's group counts only if it is the process's own: where a controller is not switched on for a unit, the
    process is in a group further up, and the figures are those of half the machine.
    """

    def __init__(self, proc: Proc, pid: int) -> None:
        paths = _cgroup_paths(proc.read(f"{pid}/cgroup") or b"")
        mounts = _cgroup_mounts(proc.read("self/mountinfo") or b"")
        # The one that systemd itself keeps the unit's processes in.
        own = paths.get("name=systemd") or paths.get("") or "/"
        self._v2 = _folder(proc, paths, mounts, "", own)
        self._memory = _folder(proc, paths, mounts, "memory", own)
        self._cpu = _folder(proc, paths, mounts, "cpuacct", own)

    def cpu_seconds(self) -> float | None:
        """Processor time of all that has run in it; every group of v2 has it, with or without the controller."""
        if self._v2:
            used = _fields(_read(f"{self._v2}/cpu.stat")).get(b"usage_usec")
            if used is not None:
                return used / 1_000_000
        if self._cpu:
            used = _number(_read(f"{self._cpu}/cpuacct.usage"))
            if used is not None:
                return used / 1_000_000_000
        return None

    def memory(self) -> int | None:
        """Bytes in use, without the page cache, which the kernel can read again: a mapped model is no leak."""
        if self._v2:
            used = _number(_read(f"{self._v2}/memory.current"))
            if used is not None:
                return max(0, used - _files(_fields(_read(f"{self._v2}/memory.stat")), b""))
        if self._memory:
            used = _number(_read(f"{self._memory}/memory.usage_in_bytes"))
            if used is not None:
                return max(0, used - _files(_fields(_read(f"{self._memory}/memory.stat")), b"total_"))
        return None

    def limit(self) -> int | None:
        """Bytes at which the kernel begins to kill; None without a limit."""
        found = _number(_read(f"{self._v2}/memory.max")) if self._v2 else None
        if found is None and self._memory:
            found = _number(_read(f"{self._memory}/memory.limit_in_bytes"))
        return None if found is None or found >= _NO_LIMIT else found

    def oom_kills(self) -> int | None:
        """How many of its processes the kernel has killed for memory."""
        found = _fields(_read(f"{self._v2}/memory.events")).get(b"oom_kill") if self._v2 else None
        if found is None and self._memory:
            found = _fields(_read(f"{self._memory}/memory.oom_control")).get(b"oom_kill")
        return found


def _cgroup_paths(data: bytes) -> dict[str, str]:
    """The group of each hierarchy by its controllers' names; that of v2 has none."""
    found = {}
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        _number_of, _colon, rest = line.partition(":")
        names, _colon, path = rest.partition(":")
        for name in names.split(","):
            found[name] = path
    return found


def _cgroup_mounts(data: bytes) -> dict[str, tuple[str, str]]:
    """Where each hierarchy is mounted, and from which group on."""
    found: dict[str, tuple[str, str]] = {}
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not dash or len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        place = (_unescaped(fields[3]), _unescaped(fields[4]))
        for name in [""] if kind[0] == "cgroup2" else kind[2].split(","):
            # A later mount of the same one may be a part of it.
            found.setdefault(name, place)
    return found


def _unescaped(text: str) -> str:
    """As mountinfo writes blanks and backslashes."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, character)
    return text


def _folder(proc: Proc, paths: dict[str, str], mounts: dict[str, tuple[str, str]], name: str, own: str) -> str | None:
    """The folder of the group in one hierarchy, None where that is not the process's own or cannot be seen."""
    path, place = paths.get(name), mounts.get(name)
    if not path or not place or path == "/" or ".." in path.split("/"):
        return None
    if path != own and f"{own}/".startswith(f"{path}/"):
        return None
    top, point = place
    # In a container without a namespace of its own the mount begins at the container's group.
    below = path[len(top) :] if top != "/" and f"{path}/".startswith(f"{top}/") else path
    folder = proc.path(point + below)
    return folder if below.strip("/") and os.path.isdir(folder) else None


def free_mib(path: Path) -> int | None:
    """Space that a user without privileges can fill; None when the path is not there."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize // _MIB


def writable_problem(path: Path) -> str:
    """Why nothing can be written there, or nothing; without writing a file."""
    try:
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return "read-only"
    except OSError as error:
        return error.strerror or "not readable"
    # The call does not say why, but rights are the only other reason.
    wanted = os.W_OK | os.X_OK if os.path.isdir(path) else os.W_OK
    return "" if os.access(path, wanted) else "not writable for this user"
