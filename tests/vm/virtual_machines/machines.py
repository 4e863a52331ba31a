"""The life of a machine: create, use, destroy."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from debian_hosts import hosts, images
from debian_hosts.common import TestbedError, cache_dir, lock, run

from .images import ensure
from .supervisor import can_use_kvm

# A start takes a minute on two free cores under emulation, and they may be busy.
STARTUP = 600
# Below those that the kernel gives to outgoing connections.
PORTS = range(22100, 22200)
USER = "admin"


def folder_of(name: str) -> pathlib.Path:
    """Where a machine's disk and logs are."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", name):
        raise TestbedError(f"{name!r} is no name of a machine; use small letters, digits and hyphens")
    return cache_dir() / "vm" / name


def port_of(name: str) -> int:
    """Where its sshd is reached on this machine."""
    try:
        return int((folder_of(name) / "port").read_text(encoding="ascii"))
    except FileNotFoundError as error:
        raise TestbedError(f"there is no virtual machine {name}; make it with `vm create {name}`") from error


def names() -> list[str]:
    """All machines of this cache directory."""
    return sorted(path.parent.name for path in (cache_dir() / "vm").glob("*/port"))


def supervisor_pid(name: str) -> int | None:
    """The process behind a machine, or None when it is switched off."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int((folder_of(name) / "pid").read_text(encoding="ascii"))
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if "supervise" in words and name in words:
            return pid
    return None


def free_port() -> int:
    """A port that neither a machine nor another program has."""
    taken = {port_of(name) for name in names()}
    for port in PORTS:
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            if port not in taken:
                return port
    raise TestbedError(f"the ports {PORTS[0]} to {PORTS[-1]} are all taken; destroy some virtual machines")


def create(name: str) -> None:
    """Make a machine, or switch on the one there is, and wait until it has started."""
    folder = folder_of(name)
    if not (folder / "port").exists():
        disk = ensure()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run(["cp", "--sparse=always", "--reflink=auto", str(disk), str(folder / "disk.img")], timeout=300)
        with lock("vm-port"):
            (folder / "port").write_text(f"{free_port()}\n", encoding="ascii")
    if supervisor_pid(name) is None:
        with (folder / "supervisor.log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, sys.argv[0], "supervise", name],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        (folder / "pid").write_text(f"{process.pid}\n", encoding="ascii")
    wait(name)


def ssh(name: str) -> list[str]:
    """The call of ssh, without the command that runs there."""
    return [
        "ssh", *hosts.SSH_OPTIONS.split(), "-o", "ConnectTimeout=20", "-o", "BatchMode=yes",
        "-i", str(images.key_file()), "-p", str(port_of(name)), f"{USER}@127.0.0.1",
    ]  # fmt: skip


def wait(name: str) -> None:
    """Wait until systemd has started everything."""
    deadline = time.monotonic() + STARTUP
    state = ""
    while time.monotonic() < deadline:
        # First of all: a process that was started just now does not show its name at once.
        time.sleep(1)
        if supervisor_pid(name) is None:
            raise TestbedError(f"the virtual machine {name} has stopped; see the logs in {folder_of(name)}")
        done = subprocess.run(
            [*ssh(name), "systemctl is-system-running --wait"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STARTUP, check=False,
        )  # fmt: skip
        state = done.stdout.strip()
        if state in ("running", "degraded"):
            return
    raise TestbedError(
        f"the virtual machine {name} did not come up within {STARTUP} s (systemd says {state or 'nothing'}); "
        f"see {folder_of(name) / 'console.log'}"
    )


def inventory(wanted: Sequence[str]) -> str:
    """An INI inventory for ansible -i."""
    lines = ["[vm]"]
    lines += [
        f"{name} ansible_host=127.0.0.1 ansible_port={port_of(name)} ansible_user={USER} "
        f"ansible_ssh_private_key_file={images.key_file()} ansible_ssh_common_args='{hosts.SSH_OPTIONS}'"
        for name in wanted
    ]
    return "\n".join(lines) + "\n"


def execute(name: str, script: Sequence[str]) -> int:
    """Run a shell command there as root."""
    return subprocess.run([*ssh(name), "sudo", "sh", "-c", shlex.quote(" ".join(script))], check=False).returncode


def destroy(name: str) -> None:
    """Switch a machine off and remove it; one that is not there is fine."""
    folder = folder_of(name)
    pid = supervisor_pid(name)
    if pid is not None:
        end(pid)
    shutil.rmtree(folder, ignore_errors=True)


def end(pid: int) -> None:
    """End a supervisor, and with it its qemu."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)


def table() -> str:
    """All machines, for a person."""
    how = "KVM" if can_use_kvm() else "emulated"
    return "".join(f"{name}  127.0.0.1:{port_of(name)}  {how if supervisor_pid(name) else 'off'}\n" for name in names())
