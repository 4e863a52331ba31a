"""What the machine that runs the test bed has: packages, container runtime, limits, certificates."""

from __future__ import annotations

import functools
import os
import pathlib
import resource
import shutil

from .common import TestbedError, attempt, run, say

CERTIFICATES = pathlib.Path("/usr/local/share/ca-certificates")
CAP_SYS_RESOURCE = 24
# podman lowers its own hard limits to these, and its children cannot raise them again without CAP_SYS_RESOURCE.
PODMAN_NOFILE = 1048576
PODMAN_NPROC = 32768
# Program -> Debian package. netavark calls iptables on Debian 12 and nft on later releases; it is no program in PATH.
PROGRAMS = {
    "podman": "podman",
    "mmdebstrap": "mmdebstrap",
    "iptables": "iptables",
    "nft": "nftables",
    "ssh": "openssh-client",
    "sshpass": "sshpass",
    "zstd": "zstd",
}
FILES = {
    "/usr/lib/podman/netavark": "netavark",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}


def require_root() -> None:
    """Containers that run systemd with real device and memory limits need root."""
    if os.geteuid() != 0:
        raise TestbedError("the test bed makes privileged containers and must run as root; run it with sudo")


def cgroup_v2() -> bool:
    """Whether the machine has the unified hierarchy alone; v1 and hybrid count as v1, as for `podman info`."""
    return pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists()


def missing_packages() -> list[str]:
    """Debian packages the test bed needs and the machine lacks."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    missing += [package for path, package in FILES.items() if not pathlib.Path(path).exists()]
    if cgroup_v2():
        if shutil.which("crun") is None and shutil.which("runc") is None:
            missing.append("crun")
    elif shutil.which("runc") is None:
        missing.append("runc")
    return missing


def setup() -> None:
    """Install what is missing; a second call changes nothing."""
    missing = missing_packages()
    if not missing:
        say("The test bed has all the packages it needs.")
        return
    if shutil.which("apt-get") is None:
        raise TestbedError(f"this machine has no apt-get; install these by hand: {' '.join(missing)}")
    say(f"Installing {' '.join(missing)}.")
    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends"]
    if attempt([*install, *missing], timeout=900).returncode != 0:
        run(["apt-get", "update"], timeout=300)
        run([*install, *missing], timeout=900, doing=f"installing {' '.join(missing)}")


def require_packages() -> None:
    """Say what to do when a package is missing."""
    missing = missing_packages()
    if missing:
        raise TestbedError(
            f"this machine lacks {', '.join(missing)}; run `tests/testbed/testbed setup` as root to install them"
        )


@functools.cache
def runtime() -> str:
    """The OCI runtime: crun refuses v1 and hybrid cgroups, where runc works."""
    version = run(["podman", "info", "--format", "{{.Host.CgroupsVersion}}"]).strip()
    if version == "v2" and shutil.which("crun"):
        return "crun"
    if shutil.which("runc"):
        return "runc"
    raise TestbedError(f"no container runtime fits cgroups {version}; run `tests/testbed/testbed setup` as root")


def may_raise_limits() -> bool:
    """Whether this process has CAP_SYS_RESOURCE."""
    for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False


def limits() -> list[str]:
    """Lower podman's default ulimits to the machine's own where they cannot be raised."""
    if may_raise_limits():
        return []
    files = lower_limit(resource.RLIMIT_NOFILE, PODMAN_NOFILE)
    processes = lower_limit(resource.RLIMIT_NPROC, PODMAN_NPROC)
    return ["--ulimit", f"nofile={min(1024, files)}:{files}", "--ulimit", f"nproc={processes}:{processes}"]


def lower_limit(number: int, ceiling: int) -> int:
    """The machine's hard limit, or the ceiling where that is lower."""
    hard = resource.getrlimit(number)[1]
    return ceiling if hard == resource.RLIM_INFINITY else min(hard, ceiling)


def build_flags() -> list[str]:
    """Flags of a container that runs a script instead of systemd."""
    return ["--runtime", runtime(), "--systemd=false", "--privileged", *limits()]


@functools.cache
def container_flags() -> tuple[str, ...]:
    """Flags that let systemd run as PID 1 with its limits enforced."""
    return (
        "--runtime", runtime(),
        *systemd_flags(),
        "--privileged",
        # Without a cgroup namespace of its own, systemd accepts MemoryMax and DevicePolicy and does not enforce them.
        "--cgroupns=private",
        "--pids-limit=-1",
        "--shm-size=1g",
        *limits(),
    )  # fmt: skip


def systemd_flags() -> list[str]:
    """What systemd as PID 1 needs from podman."""
    if cgroup_v2():
        return ["--systemd=always"]
    # On v1, podman's systemd mode mounts the machine's whole name=systemd hierarchy into every host: several systemds
    # then share one tree and remove each other's groups. So give what that mode gives, without this mount.
    return [
        "--systemd=false",
        "--stop-signal=SIGRTMIN+3",
        "--tmpfs=/run:rw,nosuid,nodev,mode=0755,notmpcopyup",
        "--tmpfs=/run/lock:rw,nosuid,nodev,noexec,mode=1777,notmpcopyup",
    ]


def init_command() -> list[str]:
    """PID 1 of a host; systemd reads its kernel command line from its own arguments inside a container."""
    if cgroup_v2():
        return ["/sbin/init"]
    # systemd 256 and later refuse cgroup v1 unless told.
    return ["/sbin/init", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1", "systemd.unified_cgroup_hierarchy=0"]


def certificates() -> dict[str, bytes]:
    """Certificate authorities that the administrator of this machine added."""
    if not CERTIFICATES.is_dir():
        return {}
    # One flat directory in the host, so the path becomes the name.
    found = sorted(path for path in CERTIFICATES.rglob("*.crt") if path.is_file())
    return {str(path.relative_to(CERTIFICATES)).replace("/", "-"): path.read_bytes() for path in found}


def boot_id() -> str:
    """Changes with every start of the machine."""
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
