#!/usr/bin/python3
# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List every file, directory, unit, package and account of a host, a line each, to be compared before and after."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess

# What lives its own life: kernel file systems, logs, caches, the package manager's own books, sessions, the data.
SKIPPED = (
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
    "/var/log",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/srv/sd",
    "/home/user/.ansible",
    "/root/.ansible",
)


def line(path: str) -> str:
    """Kind, mode, owner and content of one path; the content of what /etc holds."""
    found = os.lstat(path)
    digest = ""
    if stat.S_ISLNK(found.st_mode):
        digest = os.readlink(path)
    elif stat.S_ISREG(found.st_mode) and path.startswith("/etc/"):
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()[:16]
    return f"{path} {stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} {digest}"


def files() -> list[str]:
    """All paths of the root file system, the skipped trees left out."""
    lines = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in SKIPPED]
        folders[:] = [name for name in folders if name != "__pycache__"]
        lines += [line(os.path.join(folder, name)) for name in [*folders, *names]]
    return lines


def output(*command: str) -> list[str]:
    """The lines that a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def main() -> None:
    """Print the lists, sorted."""
    units = output("systemctl", "list-unit-files", "--no-legend", "--no-pager")
    packages = output("dpkg-query", "--show", "--showformat=${binary:Package} ${db:Status-Abbrev}\\n")
    accounts = output("getent", "passwd") + output("getent", "group")
    # Transient ones are sessions and mounts: they come and go with each login.
    lines = [f"unit {' '.join(unit.split()[:2])}" for unit in units if "transient" not in unit]
    lines += [f"package {package}" for package in packages] + [f"account {account}" for account in accounts] + files()
    print("\n".join(sorted(lines)))


if __name__ == "__main__":
    main()
