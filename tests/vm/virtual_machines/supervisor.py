"""What runs behind a machine: starts qemu, and starts it again whenever the machine reboots."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

from debian_hosts.common import TestbedError, attempt, run

MEMORY_MB = 2048
# apt's own timers would fetch and upgrade while a test runs. net.ifnames=0: the card is eth0, as on the test bed.
KERNEL_COMMAND = (
    "root=/dev/vda ro console=ttyS0 quiet net.ifnames=0 mitigations=off "
    "systemd.mask=apt-daily.timer systemd.mask=apt-daily-upgrade.timer"
)


def can_use_kvm() -> bool:
    """Whether the processor itself virtualises; a /dev/kvm without that emulates, and Debian's kernel dies on it."""
    flags = pathlib.Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    try:
        with pathlib.Path("/dev/kvm").open("r+b", buffering=0):
            return "vmx" in flags or "svm" in flags
    except OSError:
        return False


def unpack_kernel(folder: pathlib.Path) -> None:
    """Take kernel and initramfs out of the disk, as a boot loader does: so what the machine has made of them counts."""
    disk = str(folder / "disk.img")
    # What the journal holds reaches the file system; status 1 says that this was needed.
    if attempt(["e2fsck", "-p", disk], timeout=300).returncode > 1:
        raise TestbedError(f"the file system on {disk} is broken; destroy this virtual machine and make it again")
    for link in ("vmlinuz", "initrd.img"):
        found = re.search(r'Fast link dest: "([^"]+)"', run(["debugfs", "-R", f"stat /{link}", disk]))
        target = folder / link
        target.unlink(missing_ok=True)
        if found:
            run(["debugfs", "-R", f"dump /{found[1]} {target}", disk])
        # debugfs ends well whatever happens.
        if not target.exists() or not target.stat().st_size:
            raise TestbedError(f"there is no /{link} to boot on {disk}; destroy this virtual machine and make it again")


def command(folder: pathlib.Path, port: int) -> list[str]:
    """How qemu is called; it says on its standard output why the machine stopped."""
    processor = ["-accel", "kvm", "-cpu", "host"] if can_use_kvm() else ["-accel", "tcg,thread=multi"]
    return [
        # No machine without its supervisor.
        "setpriv", "--pdeathsig", "KILL",
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "pc", *processor,
        "-m", str(MEMORY_MB), "-display", "none", "-no-reboot", "-qmp", "stdio",
        "-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"), "-append", KERNEL_COMMAND,
        "-drive", f"file={folder / 'disk.img'},format=raw,if=virtio,cache=unsafe,discard=unmap",
        "-netdev", f"user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
        "-chardev", f"file,id=console,path={folder / 'console.log'},append=on", "-serial", "chardev:console",
    ]  # fmt: skip


def run_once(folder: pathlib.Path, port: int) -> str:
    """Run the machine until it stops, and give qemu's reason: guest-reset is a reboot."""
    reason = "qemu ended"
    with (folder / "qemu.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command(folder, port), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write('{"execute": "qmp_capabilities"}\n')
            process.stdin.flush()
            for line in process.stdout:
                message = json.loads(line)
                if message.get("event") == "SHUTDOWN":
                    reason = message["data"]["reason"]
            process.wait()
        finally:
            process.kill()
            process.wait()
    return reason


def supervise(folder: pathlib.Path, port: int) -> None:
    """Until the machine is switched off or this process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        unpack_kernel(folder)
        print(time.strftime("%H:%M:%S"), "starts", flush=True)
        reason = run_once(folder, port)
        print(time.strftime("%H:%M:%S"), "stopped:", reason, flush=True)
        if reason != "guest-reset":
            return
