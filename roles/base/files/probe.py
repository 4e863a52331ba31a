# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print, as JSON, what role base must know about this host. Changes nothing.

One connection instead of twenty: the role pipes this file to python3 with its questions as a JSON argument.
"""

from __future__ import annotations

import grp
import importlib.util
import json
import os
import pwd
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

NETWORK_FIRMWARE = {
    # PCI vendor of a network card: the package with its firmware. Old PCs need Realtek's.
    "0x10ec": "firmware-realtek",
}
LOGGED_FIRMWARE = (
    # File name in a "missing firmware" line of the kernel: the package that carries it.
    (re.compile(r"rtl_nic/|rtl_bt/|rtlwifi/|rtw8[89]/|rtl8\d"), "firmware-realtek"),
    (re.compile(r"iwlwifi-"), "firmware-iwlwifi"),
    (re.compile(r"ath\d+k|ath\d+_|ar\d{4}|qca/"), "firmware-atheros"),
    (re.compile(r"brcm/"), "firmware-brcm80211"),
    (re.compile(r"bnx2"), "firmware-bnx2"),
    (re.compile(r"tigon/|rt2\d{3}|rt3\d{3}"), "firmware-misc-nonfree"),
)
MISSING_FIRMWARE = re.compile(
    r"missing firmware|failed to load|unable to load firmware|firmware load for .* failed", re.IGNORECASE
)
NETWORK_CLASS, DISPLAY_CLASS = "0x02", "0x03"
GPU_VENDORS = ("0x10de", "0x1002", "0x8086")
SLEEP_TARGETS = ("sleep.target", "suspend.target", "hibernate.target", "hybrid-sleep.target")
CDROM_MARK = "# secondhand.diffusion: "
DISABLED_SUFFIX = ".secondhand-disabled"


def read(path: Path | str) -> str:
    """Return the text of a file, or nothing where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def run(command: list[str]) -> str:
    """Return what a command prints, or nothing where it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=30, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def nearest_existing(path: str) -> Path:
    """Return the path itself, or the nearest parent that exists."""
    found = Path(path)
    while not found.exists():
        found = found.parent
    return found


def free_mb(path: str) -> int:
    """Return what an ordinary process may still write to the volume that holds path."""
    space = os.statvfs(nearest_existing(path))
    return space.f_bavail * space.f_frsize // 2**20


def file_system(path: str) -> str:
    """Return the type of the file system that holds path."""
    target = str(nearest_existing(path).resolve())
    best, kind = "", ""
    for line in read("/proc/self/mountinfo").splitlines():
        before, __, after = line.partition(" - ")
        mount = before.split()[4]
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind


def swap(path: str) -> dict[str, Any]:
    """Return the state of our swap file and how much other swap the host has."""
    active, other = False, 0
    for line in read("/proc/swaps").splitlines()[1:]:
        fields = line.split()
        if fields[0] == path:
            active = True
        elif not fields[0].startswith("/dev/zram"):
            other += int(fields[2]) // 1024
    size = Path(path).stat().st_size // 2**20 if Path(path).exists() else 0
    in_fstab = any(line.split()[:1] == [path] for line in read("/etc/fstab").splitlines())
    return {
        "active": active,
        "size_mb": size,
        "other_mb": other,
        "in_fstab": in_fstab,
        "file_system": file_system(path),
        "free_mb": free_mb(path),
    }


def firmware(pci_path: str, log_command: str) -> dict[str, str]:
    """Return the firmware packages that this host's network needs, each with the reason."""
    wanted: dict[str, str] = {}
    for device in sorted(Path(pci_path).glob("*")):
        vendor = read(device / "vendor").strip()
        if vendor in NETWORK_FIRMWARE and read(device / "class").startswith(NETWORK_CLASS):
            wanted[NETWORK_FIRMWARE[vendor]] = f"network card {device.name} of PCI vendor {vendor}"
    for line in run(shlex.split(log_command)).splitlines() if log_command else []:
        if MISSING_FIRMWARE.search(line):
            for pattern, package in LOGGED_FIRMWARE:
                if pattern.search(line):
                    wanted.setdefault(package, f"kernel: {line.strip()[:120]}")
    return wanted


def has_gpu(pci_path: str) -> bool:
    """Return whether a graphics card is there that nvtop can show."""
    return any(
        read(device / "vendor").strip() in GPU_VENDORS and read(device / "class").startswith(DISPLAY_CLASS)
        for device in Path(pci_path).glob("*")
    )


Entry = dict[str, Any]


def one_line_entries(text: str) -> list[Entry]:
    """Return the binary sources of a one-line-style file."""
    entries = []
    names = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(cdrom:\[.*?\]\S*|\S+)\s+(\S+)\s*([^#]*)", line)
        if found:
            options = {}
            for option in (found.group(1) or "").split():
                key, __, value = option.partition("=")
                field = names.get(key, "-".join(word.capitalize() for word in key.split("-")))
                options[field] = value.replace(",", " ")
            entries.append(
                {
                    "uris": [found.group(2)],
                    "suites": [found.group(3)],
                    "components": found.group(4).split(),
                    "options": options,
                }
            )
    return entries


def deb822_entries(text: str) -> list[Entry]:
    """Return the enabled binary sources of a deb822-style file."""
    entries = []
    for stanza in re.split(r"\n\s*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace() and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, __, value = line.partition(":")
                fields[name] = value.strip()
        lower = {key.lower(): value for key, value in fields.items()}
        if "deb" in lower.get("types", "").split() and lower.get("enabled", "yes").lower() not in ("no", "false", "0"):
            known = ("types", "uris", "suites", "components", "enabled")
            entries.append(
                {
                    "uris": lower.get("uris", "").split(),
                    "suites": lower.get("suites", "").split(),
                    "components": lower.get("components", "").split(),
                    "options": {key: value for key, value in fields.items() if key.lower() not in known},
                }
            )
    return entries


def is_debian_archive(uri: str, suite: str) -> bool:
    """Return whether a source is Debian itself: what its release file says, else what its address looks like."""
    name = re.sub(r"^[a-z+]+://", "", uri).rstrip("/").replace("/", "_")
    for index in ("InRelease", "Release"):
        release = read(f"/var/lib/apt/lists/{name}_dists_{suite.replace('/', '_')}_{index}")
        origin = re.search(r"^Origin: (.*)$", release, re.MULTILINE)
        if origin:
            return origin.group(1).strip() == "Debian"
    return "debian" in uri.rstrip("/").rsplit("/", 1)[-1]


def is_set_aside(path: Path) -> bool:
    """Return whether a file of sources was renamed by this role, in favour of a mirror."""
    return path.is_file() and path.name.endswith(DISABLED_SUFFIX)


def apt_sources(codename: str, wanted: list[str], own_file: str, mirrored: bool) -> dict[str, Any]:
    """Return the host's Debian sources and which wanted components each still lacks."""
    kinds = "(?:-updates|-security|/updates|-backports)?"
    suite_pattern = re.compile(rf"(?:{re.escape(codename)}|(?:old){{0,2}}stable){kinds}$")
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    live = [str(path) for path in files if path.is_file() and path.suffix in (".list", ".sources")]
    # What was set aside for a mirror counts as live again as soon as no mirror is asked for.
    disabled = [str(path) for path in [Path("/etc/apt/sources.list" + DISABLED_SUFFIX), *files] if is_set_aside(path)]
    paths = [path for path in live if path != own_file] + ([] if mirrored else disabled)
    have: dict[tuple[str, str], set[str]] = {}
    options: dict[tuple[str, str], dict[str, str]] = {}
    debian_files, cdrom_files = [], []
    for path in paths:
        text = read(path)
        deb822 = path.replace(DISABLED_SUFFIX, "").endswith(".sources")
        for entry in deb822_entries(text) if deb822 else one_line_entries(text):
            for uri in entry["uris"]:
                for suite in entry["suites"]:
                    if uri.startswith("cdrom:"):
                        cdrom_files.append(path)
                    elif "main" in entry["components"] and suite_pattern.match(suite) and is_debian_archive(uri, suite):
                        debian_files.append(path)
                        have.setdefault((uri, suite), set()).update(entry["components"])
                        options.setdefault((uri, suite), entry["options"])
    # Components may be spread over several lines of the same suite, so what is missing is known only now.
    stanzas: dict[str, Entry] = {}
    for (uri, suite), components in have.items():
        missing = [component for component in wanted if component not in components]
        if missing:
            same = {"uri": uri, "components": missing, "options": options[uri, suite]}
            stanzas.setdefault(json.dumps(same, sort_keys=True), {**same, "suites": []})["suites"].append(suite)
    return {
        "missing": list(stanzas.values()),
        "recognised": bool(have),
        "debian_files": sorted(set(debian_files) - set(disabled)),
        "cdrom_files": sorted(set(cdrom_files)),
        "cdrom_commented": CDROM_MARK in read("/etc/apt/sources.list"),
        "disabled_files": disabled,
        "own_file": Path(own_file).exists(),
        "indexed": any(Path("/var/lib/apt/lists").glob("*Packages*")),
    }


def account(name: str) -> dict[str, Any]:
    """Return a user's identity and the keys that may log in as it."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return {"exists": False, "uid": -1, "keys": []}
    keys = re.findall(r"(?:ssh-\S+|ecdsa-\S+|sk-\S+) (AAAA\S+)", read(Path(user.pw_dir) / ".ssh/authorized_keys"))
    return {"exists": True, "uid": user.pw_uid, "keys": keys}


def group_exists(name: str) -> bool:
    """Return whether a group has this name."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def data_directory(path: str, service_user: str) -> dict[str, Any]:
    """Return who owns the data directory, and whose home it is if it is a person's."""
    people = [user for user in pwd.getpwall() if user.pw_uid == 0 or user.pw_uid >= 1000]
    homes = {Path(user.pw_dir).resolve(): user.pw_name for user in people if user.pw_name != service_user}
    status = Path(path).stat() if Path(path).is_dir() else None
    return {
        "path": str(Path(path).resolve()),
        "home_of": homes.get(Path(path).resolve(), ""),
        "exists": status is not None,
        "uid": status.st_uid if status else -1,
        "gid": status.st_gid if status else -1,
        "free_mb": free_mb(path),
        "volume": str(nearest_existing(path)),
    }


def link(path: str) -> str:
    """Return where a symbolic link points, or nothing where there is none."""
    return str(Path(path).readlink()) if Path(path).is_symlink() else ""


def sessions() -> list[str]:
    """Return the names of the graphical sessions that are installed."""
    places = (Path("/usr/share/xsessions"), Path("/usr/share/wayland-sessions"))
    return sorted({path.stem for place in places for path in place.glob("*.desktop")})


def state(path: str) -> dict[str, Any]:
    """Return what earlier runs recorded, or nothing where no run was recorded."""
    try:
        recorded = json.loads(read(path))
    except ValueError:
        return {}
    return recorded if isinstance(recorded, dict) else {}


def main() -> None:
    """Answer the questions given as the JSON argument."""
    ask = json.loads(sys.argv[1])
    cpu_flags = re.search(r"^flags\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE)
    answers = {
        "data": data_directory(ask["data_dir"], ask["service_user"]),
        "avx": "avx" in (cpu_flags.group(1).split() if cpu_flags else []),
        "container": bool(run(["systemd-detect-virt", "--container"]).strip() not in ("", "none")),
        "python_apt": importlib.util.find_spec("apt") is not None,
        "firmware": firmware(ask["pci_path"], ask["kernel_log_command"]),
        "gpu": has_gpu(ask["pci_path"]),
        "swap": swap(ask["swap_file"]),
        "sources": apt_sources(ask["codename"], ask["components"], ask["sources_file"], ask["mirrored"]),
        "masked": [target for target in SLEEP_TARGETS if link(f"/etc/systemd/system/{target}") == "/dev/null"],
        "default_target": run(["systemctl", "get-default"]).strip(),
        "default_target_link": link("/etc/systemd/system/default.target"),
        "logind_directory": Path(ask["logind_file"]).parent.is_dir(),
        "logind_file": Path(ask["logind_file"]).exists(),
        "sessions": sessions(),
        "service_user": account(ask["service_user"]),
        "service_group": group_exists(ask["service_user"]),
        "admin": account(ask["admin_user"]) if ask["admin_user"] else {"exists": False, "uid": -1, "keys": []},
        "blacklist": run(["apt-config", "dump", "--format", "%v%n", "Unattended-Upgrade::Package-Blacklist"]).split(),
        "interfaces": read("/etc/network/interfaces"),
        "state": state(ask["state_file"]),
    }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
