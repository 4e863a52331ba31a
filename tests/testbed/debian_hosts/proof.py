"""Proof that hosts enforce what systemd promises: without it, tests of memory limits and sandboxes prove nothing."""

from __future__ import annotations

import os
import time

from . import machine
from .common import TestbedError, attempt, cache_dir, lock, run, say
from .images import digest, ensure_base

STARTUP = 60
# Devices that DevicePolicy=closed must refuse; the first that opens without a policy is the one to try.
FIND_DEVICE = """for device in /dev/kmsg /dev/fuse /dev/loop-control $(find /dev -maxdepth 1 -type b); do
  if (: < "$device") 2>/dev/null; then echo "$device"; exit; fi
done"""


def configuration(base: str) -> str:
    """Everything that decides whether limits work; the machine's kernel and set-up stay the same until it restarts."""
    podman = run(["podman", "--version"])
    return digest(machine.boot_id(), podman, machine.container_flags(), machine.init_command(), base)


def ensure(release: str) -> None:
    """Prove the limits once for each start of the machine, configuration and release."""
    base = ensure_base(release)
    with lock(f"proof-{release}"):
        stamp = cache_dir() / "proof" / f"{release}-{configuration(base)}"
        if stamp.exists():
            return
        say(f"Proving that Debian {release} hosts enforce memory limits and device policies here.")
        prove(base, release)
        stamp.parent.mkdir(exist_ok=True)
        for old in stamp.parent.glob(f"{release}-*"):
            old.unlink()
        stamp.touch()


def prove(base: str, release: str) -> None:
    """Start a throw-away host without network, and try to break out of its limits."""
    name = f"testbed-proof-{os.getpid()}"
    start = [
        "podman", "run", "--detach", "--name", name, "--network", "none", *machine.container_flags(),
        base, *machine.init_command(),
    ]  # fmt: skip
    try:
        run(start, doing=f"starting a Debian {release} host under {machine.runtime()}")
        deadline = time.monotonic() + STARTUP
        while state(name) not in ("running", "degraded"):
            if time.monotonic() > deadline:
                raise TestbedError(
                    f"systemd of Debian {release} did not start under {machine.runtime()} within {STARTUP} s; "
                    f"see what it said with `podman run {' '.join(machine.container_flags())} -it {base} /sbin/init`"
                )
            time.sleep(0.2)
        prove_memory(name)
        prove_devices(name)
        prove_credentials(name)
    finally:
        attempt(["podman", "rm", "--force", "--time", "0", name])


def state(name: str) -> str:
    """What systemd says about the whole host."""
    return attempt(["podman", "exec", name, "systemctl", "is-system-running"]).stdout.strip()


def unit(name: str, properties: list[str], script: str) -> int:
    """Exit status of a script that runs as a unit of its own."""
    options = [f"--property={value}" for value in properties]
    command = ["systemd-run", "--quiet", "--wait", "--collect", *options, "/bin/sh", "-c", script]
    return attempt(["podman", "exec", name, *command]).returncode


def prove_memory(name: str) -> None:
    """`tail` holds 200 MB in memory: it must run without a limit and die at 60 MB."""
    allocate = "head --bytes=200M /dev/zero | tail --bytes=200M > /dev/null"
    if unit(name, [], allocate) != 0:
        raise TestbedError("a unit without limits could not allocate 200 MB; free some memory on this machine")
    if unit(name, ["MemoryMax=60M", "MemorySwapMax=0"], allocate) == 0:
        raise TestbedError(
            "a unit with MemoryMax=60M allocated 200 MB, so memory limits are not enforced in test hosts; check that "
            "the memory cgroup controller is enabled and, with cgroup v1, that swap is off"
        )


def prove_devices(name: str) -> None:
    """A device that opens without a policy must be refused by DevicePolicy=closed."""
    device = attempt(["podman", "exec", name, "/bin/sh", "-c", FIND_DEVICE]).stdout.strip()
    if not device:
        raise TestbedError("no device opens in a test host, so DevicePolicy cannot be proven; check /dev/kmsg here")
    if unit(name, [], f": < {device}") != 0:
        raise TestbedError(f"a unit without limits could not open {device}; check the container runtime")
    if unit(name, ["DevicePolicy=closed"], f": < {device}") == 0:
        raise TestbedError(
            f"a unit with DevicePolicy=closed opened {device}, so device policies are not enforced in test hosts; "
            "check that the container has a cgroup namespace of its own"
        )


def prove_credentials(name: str) -> None:
    """A file of root's must reach a unit that runs as somebody else, and nobody else."""
    secret = "/root/testbed-credential"
    attempt(["podman", "exec", name, "/bin/sh", "-c", f"umask 077; echo secret > {secret}"])
    # systemd keeps a file that it could not read out of the unit in silence on some releases: look for what is in it.
    script = f'grep --quiet secret "$CREDENTIALS_DIRECTORY/given" && ! cat {secret}'
    if unit(name, ["DynamicUser=yes", f"LoadCredential=given:{secret}"], script) != 0:
        raise TestbedError(
            "a unit with LoadCredential did not get its credential, so logins cannot be tested; see in a test host "
            "whether testbed-shared-mounts.service failed"
        )
