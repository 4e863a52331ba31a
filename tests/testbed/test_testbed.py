"""The test bed keeps its promises, shown on real hosts. Needs root, as the test bed does."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

TESTBED = pathlib.Path(__file__).resolve().parent / "testbed"
# Beside hosts of others, never theirs.
MANAGED, INSTALLER, COPY = (f"selftest-{kind}-{os.getpid()}" for kind in ("managed", "installer", "copy"))
IMAGE = f"localhost/secondhand-testbed/selftest-{os.getpid()}"
OPTIONS = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
ALLOCATE = "head --bytes=200M /dev/zero | tail --bytes=200M > /dev/null"


def command(*arguments: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TESTBED, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def create(*arguments: str) -> dict[str, Any]:
    done = command("create", *arguments)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def inside(name: str, script: str) -> subprocess.CompletedProcess[str]:
    return command("exec", name, "--", "/bin/sh", "-c", script)


def ssh(facts: dict[str, Any], script: str) -> subprocess.CompletedProcess[str]:
    command = [
        "ssh",
        *OPTIONS,
        "-o",
        "BatchMode=yes",
        "-i",
        facts["key"],
        f"{facts['user']}@{facts['address']}",
        script,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def ssh_password(facts: dict[str, Any], user: str, password: str) -> subprocess.CompletedProcess[str]:
    call = ["sshpass", "-p", password, "ssh", *OPTIONS, "-o", "PubkeyAuthentication=no"]
    call += [f"{user}@{facts['address']}", "id", "-un"]
    return subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "file").write_text("from the machine\n", encoding="ascii")
    yield create(MANAGED, "--mount", f"{shared}:/mnt/shared:ro", "--tmpfs", "/srv:20m")
    command("destroy", MANAGED)


@pytest.fixture(scope="module")
def installer() -> Iterator[dict[str, Any]]:
    yield create(INSTALLER, "--flavour", "installer")
    command("destroy", INSTALLER)


def test_create_again_changes_nothing(managed: dict[str, Any]) -> None:
    inside(MANAGED, "touch /run/same-boot")
    assert create(MANAGED) == managed
    assert inside(MANAGED, "test -e /run/same-boot").returncode == 0
    other = command("create", MANAGED, "--release", "trixie")
    assert other.returncode == 1
    assert f"testbed destroy {MANAGED}" in other.stderr


def test_managed_host_is_a_debian_to_log_in_to(managed: dict[str, Any]) -> None:
    assert managed["user"] == "admin"
    assert ssh(managed, "sudo -n id -un; hostname; python3 --version").stdout.split()[:2] == ["root", MANAGED]
    assert ssh(managed, "systemctl is-system-running").stdout.strip() == "running"
    assert ssh(managed, ". /etc/os-release; echo $VERSION_CODENAME").stdout.strip() == "bookworm"
    # Nothing of the machine's own tools.
    assert inside(MANAGED, "command -v node").returncode != 0


def test_apt_works_over_ssh(managed: dict[str, Any]) -> None:
    done = ssh(managed, "sudo apt-get -q update && sudo apt-get -q install -y hello && hello")
    assert done.returncode == 0, done.stdout + done.stderr
    sources = ssh(managed, "cat /etc/apt/sources.list").stdout
    assert "bookworm-security main" in sources
    assert "non-free" not in sources


def test_exec_gives_the_exit_status(managed: dict[str, Any]) -> None:
    assert inside(MANAGED, "exit 7").returncode == 7


def test_mount_and_tmpfs(managed: dict[str, Any]) -> None:
    assert inside(MANAGED, "cat /mnt/shared/file").stdout == "from the machine\n"
    assert inside(MANAGED, "touch /mnt/shared/file").returncode != 0
    assert "No space left" in inside(MANAGED, "head -c 30M /dev/zero > /srv/fill; rm /srv/fill").stderr


def test_memory_limit_is_enforced(managed: dict[str, Any]) -> None:
    unit = "systemd-run --quiet --wait --collect"
    assert inside(MANAGED, f"{unit} sh -c '{ALLOCATE}'").returncode == 0
    assert inside(MANAGED, f"{unit} -p MemoryMax=60M -p MemorySwapMax=0 sh -c '{ALLOCATE}'").returncode != 0


def test_device_policy_is_enforced(managed: dict[str, Any]) -> None:
    unit = "systemd-run --quiet --wait --collect"
    assert inside(MANAGED, f"{unit} sh -c ': < /dev/kmsg'").returncode == 0
    assert inside(MANAGED, f"{unit} -p DevicePolicy=closed sh -c ': < /dev/kmsg'").returncode != 0


def test_restart_is_a_reboot_that_leaves_other_hosts_alone(managed: dict[str, Any], installer: dict[str, Any]) -> None:
    for name in (MANAGED, INSTALLER):
        inside(name, "touch /run/volatile /root/kept")
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    done = command("restart", MANAGED)
    assert done.returncode == 0, done.stderr
    # It has shut down by itself, which leaves no time for the minute after which it would have been killed.
    ticks = int(inside(MANAGED, "cut -d ' ' -f 22 /proc/1/stat").stdout)
    assert ticks / os.sysconf("SC_CLK_TCK") - begun < 60
    assert inside(MANAGED, "test ! -e /run/volatile && test -e /root/kept").returncode == 0
    assert create(MANAGED)["address"] == managed["address"]
    assert ssh(managed, "systemctl is-system-running").stdout.strip() == "running"
    # Hosts that shared a control group tree would remove each other's groups here.
    assert inside(INSTALLER, "test -e /run/volatile && systemctl is-system-running").stdout.strip() == "running"


def test_commit_makes_hosts_of_the_same_state(managed: dict[str, Any]) -> None:
    inside(MANAGED, "echo state > /root/state")
    try:
        assert command("commit", MANAGED, IMAGE).returncode == 0
        copy = create(COPY, "--image", IMAGE)
        assert copy["address"] != managed["address"]
        assert ssh(copy, "sudo cat /root/state; hostname").stdout.split() == ["state", COPY]
        assert copy["address"] in ssh(copy, "cat /etc/network/interfaces").stdout
    finally:
        command("destroy", COPY)
        subprocess.run(["podman", "rmi", IMAGE], capture_output=True, timeout=60, check=False)
    assert MANAGED in command("list").stdout


def test_installer_host_is_as_the_installer_leaves_it(installer: dict[str, Any]) -> None:
    assert inside(INSTALLER, "command -v python3 || command -v sudo").returncode != 0
    assert inside(INSTALLER, "find / -xdev -name authorized_keys").stdout == ""
    assert ssh(installer, "true").returncode != 0
    interfaces = inside(INSTALLER, "cat /etc/network/interfaces").stdout
    assert "allow-hotplug eth0\niface eth0 inet static\n" in interfaces
    # It is ifupdown that brought the card up, so a role may rewrite the file and restart the service.
    restarted = inside(INSTALLER, "systemctl restart networking && ip -4 -o address show dev eth0")
    assert f" {installer['address']}/" in restarted.stdout, restarted.stderr


def test_installer_host_passwords(installer: dict[str, Any]) -> None:
    assert ssh_password(installer, installer["user"], installer["password"]).stdout.strip() == "user"
    assert ssh_password(installer, installer["user"], "wrong").returncode != 0
    assert ssh_password(installer, "root", installer["root_password"]).returncode != 0


def test_inventory_works_with_ansible(
    managed: dict[str, Any], installer: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    inventory = tmp_path / "inventory.ini"
    inventory.write_text(command("inventory", MANAGED, INSTALLER).stdout, encoding="utf-8")
    # The installer host becomes root with su and root's password; raw, as it has no Python.
    ansible = str(pathlib.Path(sys.executable).parent / "ansible")
    call = [ansible, "all", "-i", str(inventory), "-b", "-m", "raw", "-a", "id -un"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.split() if line == "root"] == ["root", "root"]


def test_problems_are_told_in_one_sentence() -> None:
    for arguments, told in (
        (("restart", "selftest-nobody"), "there is no host named selftest-nobody"),
        (("create", "Not_A_Name"), "is no host name"),
        (("create", "selftest-x", "--mount", "/nowhere:/x"), "/nowhere, which does not exist"),
        (("create", "selftest-x", "--image", "nothing"), "nothing does not exist"),
    ):
        done = command(*arguments)
        assert done.returncode == 1
        assert told in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
