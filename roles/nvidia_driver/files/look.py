# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print, as JSON, what role nvidia_driver must know about this host. Changes nothing, loads no module.

One connection instead of twenty: the role pipes this file to python3 with its questions as a JSON argument.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The driver and what is built on it; not the container toolkit and other tools, which have a life of their own.
DRIVER_PACKAGE = re.compile(
    r"(?!.*nvidia-(container|texture|cg-))(nvidia-|glx-alternative-nvidia|libnvidia-|libcuda1|libcuda-|libcudadebugger|libnvcuvid|libnvoptix|cuda-|cuda$"
    r"|xserver-xorg-video-nvidia|firmware-nvidia-(.*-)?gsp|linux-.*-nvidia|lib(gl|egl|gles).*-nvidia)"
)
MODULE_FILE = re.compile(r"nvidia(-current|-legacy-\w+|-tesla(-\d+)?)?(-open)?\.ko(\.\w+)?$")
MODPROBE_PLACES = tuple(f"{place}/modprobe.d" for place in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"))
LIBRARY_PLACES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
SECURE_BOOT = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SMI_FIELDS = ("pci.bus_id", "name", "driver_version", "power.min_limit", "power.max_limit")


def read(path: Path | str) -> str:
    """Return the text of a file, or nothing where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def run(command: list[str], timeout: float = 30) -> str:
    """Return what a command prints, or nothing where it fails.

    A program that talks to a driver in trouble can hang where no signal reaches it, so nobody waits long for it to die.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    with tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError:
            return ""
        deadline = time.monotonic() + timeout
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if child.returncode != 0:
            if child.returncode is None:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait(timeout=1)
            return ""
        output.seek(0)
        return output.read().decode(errors="replace")


def dpkg_rows() -> list[list[str]]:
    """Return the state, name and version of every package that dpkg knows."""
    listed = run(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\\n"])
    return [line.split() for line in listed.splitlines()]


def packages(rows: list[list[str]]) -> dict[str, str]:
    """Return all installed packages with their versions."""
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def left_packages(rows: list[list[str]]) -> list[str]:
    """Return the driver packages that were removed and have left their configuration behind."""
    return sorted(row[1] for row in rows if row[:1] == ["config-files"] and DRIVER_PACKAGE.match(row[1]))


def owned(path: Path) -> bool:
    """Return whether a package brought this file along."""
    return bool(run(["dpkg-query", "--search", str(path)]).strip())


def runfile_version() -> str | None:
    """Return the version of a driver that NVIDIA's own installer has put here."""
    uninstaller = Path("/usr/bin/nvidia-uninstall")
    if not uninstaller.exists() or owned(uninstaller):
        return None
    for place in LIBRARY_PLACES:
        for library in sorted(Path(place).glob("libnvidia-ml.so.*.*")):
            if not owned(library):
                return library.name.partition(".so.")[2]
    sources = sorted(Path("/usr/src").glob("nvidia-[0-9]*"))
    return sources[-1].name.partition("-")[2] if sources else "unknown"


def library_version() -> str | None:
    """Return the version of the installed libraries: the last link of the chain ends in it, wherever it came from."""
    for place in LIBRARY_PLACES:
        library = Path(place, "libnvidia-ml.so.1")
        if library.exists():
            return library.resolve().name.partition(".so.")[2]
    return None


def kernels() -> dict[str, dict[str, Any]]:
    """Return each installed kernel: whether its image and headers are there, and which driver module it has."""
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(Path("/lib/modules").glob("*")):
        image = Path(f"/boot/vmlinuz-{folder.name}").exists()
        headers = (folder / "build/Makefile").exists()
        if image or headers:
            modules = [path for path in sorted(folder.rglob("nvidia*.ko*")) if MODULE_FILE.match(path.name)]
            version = run(["modinfo", "-F", "version", str(modules[0])]).strip() if modules else ""
            found[folder.name] = {"image": image, "headers": headers, "version": version or None}
    return found


def dkms(said: str) -> dict[str, str]:
    """Return what ``dkms status`` says about the driver's module for each kernel, in its own words."""
    status: dict[str, str] = {}
    for line in said.splitlines():
        # nvidia-current/535.309.01, 6.1.0-41-amd64, x86_64: installed; Debian 11 has a comma in place of the slash.
        match = re.match(r"(nvidia[\w-]*)[/,] ?([^,]+), ([^,]+), [^:]+: (.+)", line)
        if match:
            status[match.group(3)] = match.group(4)
    return status


def modprobe_lines(pattern: str) -> list[str]:
    """Return the files of modprobe's configuration that hold such a line."""
    found = []
    for place in MODPROBE_PLACES:
        for path in sorted(Path(place).glob("*.conf")):
            if re.search(pattern, read(path), re.MULTILINE):
                found.append(str(path))
    return found


def secure_boot(sysfs: str) -> bool:
    """Return whether the firmware checks signatures: the last byte of its variable says so."""
    try:
        return Path(sysfs, SECURE_BOOT).read_bytes()[-1:] == b"\1"
    except OSError:
        return False


def metapackage(running: str, installed: dict[str, str]) -> str:
    """Return the metapackage that brings the headers of the next kernels, of the same kind as this host's kernel."""
    for kind in ("cloud-amd64", "rt-amd64"):
        if running.endswith(f"-{kind}") or f"linux-image-{kind}" in installed:
            return f"linux-headers-{kind}"
    return "linux-headers-amd64"


def smi() -> list[dict[str, str]]:
    """Return what nvidia-smi says about each card; it is asked only where the module is loaded, as it would load it."""
    if not Path("/proc/driver/nvidia/version").exists():
        return []
    listed = run(["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"])
    rows = ([field.strip() for field in line.split(",")] for line in listed.splitlines())
    return [dict(zip(SMI_FIELDS, row)) for row in rows if len(row) == len(SMI_FIELDS)]


def free_mib() -> dict[str, int]:
    """Return what is free on the volumes that a driver goes to."""
    free = {}
    for place in ("/usr", "/var/lib", "/var/cache"):
        space = os.statvfs(place)
        free[place] = space.f_bavail * space.f_frsize // 2**20
    return free


def mok_enrolled() -> bool:
    """Return whether the firmware knows the key that DKMS signs with."""
    certificate = "/var/lib/dkms/mok.pub"
    # The exit status is the other way round in old releases; the words are the same in all.
    return Path(certificate).exists() and "already enrolled" in run(
        ["sh", "-c", 'mokutil --test-key "$1" 2>&1 || true', "sh", certificate]
    )


def units() -> list[str]:
    """Return the units of the driver and of this role that are there."""
    places = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
    found = {path.name for place in places for path in Path(place).glob("*nvidia-*.service")}
    return sorted(found)


def record(path: str) -> dict[str, Any]:
    """Return what earlier runs recorded, or nothing where no run was recorded."""
    try:
        recorded = json.loads(read(path))
    except ValueError:
        return {}
    return recorded if isinstance(recorded, dict) else {}


def main() -> None:
    """Answer the questions given as the JSON argument."""
    ask = json.loads(sys.argv[1])
    running = os.uname().release
    rows = dpkg_rows()
    installed = packages(rows)
    every = kernels()
    gpus = smi()
    json.dump(
        {
            "container": run(["systemd-detect-virt", "--container"]).strip() not in ("", "none"),
            "boot_id": read("/proc/sys/kernel/random/boot_id").strip(),
            "python_apt": Path("/usr/lib/python3/dist-packages/apt/__init__.py").exists(),
            "running_kernel": running,
            "kernels": sorted(every),
            "images": sorted(name for name, kernel in every.items() if kernel["image"]),
            "headers": sorted(name for name, kernel in every.items() if kernel["headers"]),
            "modules": {name: kernel["version"] for name, kernel in every.items() if kernel["version"]},
            "dkms": dkms(run(["dkms", "status"])),
            "metapackage": metapackage(running, installed),
            "installed": sorted(installed),
            "packages": {name: version for name, version in installed.items() if DRIVER_PACKAGE.match(name)},
            "left_packages": left_packages(rows),
            "runfile_version": runfile_version(),
            "library_version": library_version(),
            "loaded_version": read("/sys/module/nvidia/version").strip() or None,
            "nouveau_loaded": Path("/sys/module/nouveau").is_dir(),
            "nouveau_blacklisted": modprobe_lines(r"^\s*blacklist\s+nouveau\s*$"),
            "initramfs": Path("/usr/sbin/update-initramfs").exists() and any(Path("/boot").glob("initrd.img-*")),
            "secure_boot": secure_boot(ask["sysfs_path"]),
            "mok_enrolled": mok_enrolled(),
            "smi": gpus,
            "smi_version": gpus[0]["driver_version"] if gpus else None,
            "has_device": Path("/dev/nvidia0").exists() or any(Path("/proc/driver/nvidia/gpus").glob("*")),
            "units": units(),
            "free_mib": free_mib(),
            "record": record(ask["record_file"]),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
