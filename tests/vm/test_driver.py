# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role nvidia_driver on a machine with a kernel of its own: nouveau really gives way, the module is really loaded, and
the reboot happens once and only by consent. The card is a made-up PCI tree, the driver a stand-in that has a real
kernel module (tests/servers/nvidia); kernel, DKMS, modprobe, initramfs and reboot are real. Each step of the story is
a fixture, which needs the one before it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from nvidia import runfiles

from .conftest import HERE, ROOT, Machine, Run

VERSION = "580.95.05"
# What the kernel says of a GTX 750 Ti when it finds one, and udev hands to modprobe.
MODALIAS = "pci:v000010DEd00001380sv00001458sd0000362Dbc03sc00i00"
BLACKLIST = "etc/modprobe.d/secondhand-diffusion-nouveau.conf"
TREE = "/usr/local/lib/made-up/sys"
CARD = f"""set -eu
card={TREE}/bus/pci/devices/0000:03:00.0
mkdir -p "$card"
echo 0x10de >"$card/vendor"
echo 0x1380 >"$card/device"
echo 0x030000 >"$card/class"
echo 0x1458 >"$card/subsystem_vendor"
echo 0x362d >"$card/subsystem_device"
"""
LOOK = f"""
cat /proc/sys/kernel/random/boot_id
last reboot | grep -c '^reboot '
modprobe --show-depends {MODALIAS} 2>/dev/null | sed -n 's,^insmod .*/\\([^/ ]*\\)[.]ko.*,\\1,p' | paste -sd' '
cut -d' ' -f1 /proc/modules | tr _ - | paste -sd' '
lsinitramfs "/boot/initrd.img-$(uname -r)" | paste -sd' '
"""


@dataclass(frozen=True)
class Look:
    """What a machine is like at one moment."""

    boot_id: str
    boots: int
    # What modprobe would load for the card.
    for_the_card: list[str]
    loaded: list[str]
    initramfs: list[str]


@dataclass(frozen=True)
class Step:
    """A run of the role, and the machine after it."""

    run: Run
    look: Look


def look(machine: Machine) -> Look:
    boot_id, boots, for_the_card, loaded, initramfs = machine.shell(LOOK).splitlines()
    return Look(boot_id, int(boots), for_the_card.split(), loaded.split(), initramfs.split())


def reboot_required(run: Run) -> bool:
    """The fact as the play shows it."""
    told = [line for line in run.output.splitlines() if "fact nvidia_driver_reboot_required: " in line]
    assert len(told) == 1, run.output
    return "required: true" in told[0]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A made-up card, and an installer beside the controller."""
    folder = tmp_path_factory.mktemp("runfile")
    runfiles.driver(folder, VERSION)
    installer = folder / f"NVIDIA-Linux-x86_64-{VERSION}.run"
    return {
        "nvidia_driver_sysfs_path": TREE,
        "nvidia_driver_source": "runfile",
        "nvidia_driver_runfile": str(installer),
        "nvidia_driver_runfile_sha256": hashlib.sha256(installer.read_bytes()).hexdigest(),
    }


@pytest.fixture(scope="module")
def before(machine: Machine) -> Look:
    """A PC with that card, on which nouveau has started."""
    machine.shell(CARD)
    machine.shell("modprobe nouveau")
    return look(machine)


@pytest.fixture(scope="module")
def without_consent(machine: Machine, before: Look, settings: dict[str, object]) -> Step:
    run = machine.play("driver.yml", **settings)
    return Step(run, look(machine))


@pytest.fixture(scope="module")
def run_there(
    machine: Machine, without_consent: Step, settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Step:
    """The machine is its own controller, and gives its consent."""
    folder = tmp_path_factory.mktemp("there")
    version = importlib.metadata.version("ansible-core")
    # For the machine's Python, which need not be this one's.
    command = ["uv", "pip", "install", "--quiet", "--target", str(folder / "ansible"), "--python-version", "3.11"]
    subprocess.run([*command, "--only-binary", ":all:", "--compile-bytecode", f"ansible-core=={version}"], check=True)
    shutil.rmtree(folder / "ansible/ansible_test")
    for name in ("meta", "plugins", "roles"):
        target = folder / "collections/ansible_collections/secondhand/diffusion" / name
        shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "plays/driver.yml", folder)
    installer = Path(str(settings["nvidia_driver_runfile"]))
    shutil.copy(installer, folder)
    there = {"nvidia_driver_runfile": f"/root/there/{installer.name}", "nvidia_driver_reboot_ok": True}
    (folder / "variables.json").write_text(json.dumps({**settings, **there, "target": "localhost"}), encoding="utf-8")
    packed = subprocess.run(["tar", "--create", "--gzip", "--directory", folder, "."], capture_output=True, check=True)
    unpack = "mkdir /root/there && tar --extract --gzip --directory /root/there"
    subprocess.run([HERE / "vm", "exec", machine.name, "--", unpack], input=packed.stdout, check=True, timeout=600)
    done = machine.vm(
        "exec",
        machine.name,
        "--",
        "cd /root/there && LC_ALL=C.UTF-8 PYTHONPATH=ansible ANSIBLE_COLLECTIONS_PATH=collections ANSIBLE_NOCOLOR=1 "
        "python3 -m ansible playbook --inventory localhost, --connection local --extra-vars @variables.json driver.yml",
        timeout=1500,
    )
    print(done.stdout, done.stderr)
    return Step(Run(done.returncode, done.stdout), look(machine))


@pytest.fixture(scope="module")
def with_consent(machine: Machine, run_there: Step, settings: dict[str, object]) -> Step:
    run = machine.play("driver.yml", nvidia_driver_reboot_ok=True, **settings)
    return Step(run, look(machine))


@pytest.fixture(scope="module")
def again(machine: Machine, with_consent: Step, settings: dict[str, object]) -> Step:
    run = machine.play("driver.yml", nvidia_driver_reboot_ok=True, **settings)
    return Step(run, look(machine))


@pytest.fixture(scope="module")
def absent(machine: Machine, again: Step, settings: dict[str, object]) -> Step:
    run = machine.play("driver.yml", nvidia_driver_state="absent", **settings)
    return Step(run, look(machine))


def test_nouveau_has_the_card_before_the_role(before: Look) -> None:
    assert before.for_the_card[-1] == "nouveau"
    assert "nouveau" in before.loaded
    assert BLACKLIST not in before.initramfs


def test_without_consent_the_driver_is_installed_and_nothing_is_rebooted(before: Look, without_consent: Step) -> None:
    assert without_consent.run.returncode == 0
    assert reboot_required(without_consent.run)
    assert (without_consent.look.boot_id, without_consent.look.boots) == (before.boot_id, before.boots)
    assert "nouveau" in without_consent.look.loaded


def test_nouveau_is_kept_from_the_card_and_out_of_the_next_start(without_consent: Step) -> None:
    assert without_consent.look.for_the_card == ["nvidia"]
    assert BLACKLIST in without_consent.look.initramfs


def test_dkms_built_the_module_for_the_running_kernel(machine: Machine, without_consent: Step) -> None:
    status = machine.shell("dkms status nvidia; modinfo --field=version nvidia; uname -r").splitlines()
    assert status[:2] == [f"nvidia/{VERSION}, {status[2]}, x86_64: installed", VERSION]


def test_a_machine_that_runs_the_playbook_itself_is_never_rebooted(without_consent: Step, run_there: Step) -> None:
    assert run_there.run.returncode == 0
    assert reboot_required(run_there.run)
    assert "reboot this machine and run the playbook again" in " ".join(run_there.run.output.split())
    assert (run_there.look.boot_id, run_there.look.boots) == (without_consent.look.boot_id, without_consent.look.boots)


def test_with_consent_it_is_rebooted_once_and_the_play_goes_on(with_consent: Step, without_consent: Step) -> None:
    assert with_consent.run.returncode == 0
    assert with_consent.look.boot_id != without_consent.look.boot_id
    assert with_consent.look.boots == without_consent.look.boots + 1
    assert not reboot_required(with_consent.run)


def test_after_the_reboot_nvidia_is_loaded_and_nouveau_is_not(machine: Machine, with_consent: Step) -> None:
    assert "nvidia" in with_consent.look.loaded
    assert "nouveau" not in with_consent.look.loaded
    versions = machine.shell(
        "cat /sys/module/nvidia/version; modinfo --field=version nvidia; "
        "nvidia-smi --query-gpu=driver_version --format=csv,noheader"
    )
    assert versions.split() == [VERSION] * 3


def test_device_files_are_there_for_services_that_cannot_make_them(machine: Machine, with_consent: Step) -> None:
    machine.shell("systemctl is-active secondhand-nvidia-devices.service nvidia-persistenced.service")
    machine.shell("test -c /dev/nvidia0 && test -c /dev/nvidiactl && test -c /dev/nvidia-uvm")


def test_the_next_run_changes_nothing(with_consent: Step, again: Step) -> None:
    assert (again.run.returncode, again.run.changed) == (0, 0)
    assert again.look.boot_id == with_consent.look.boot_id
    assert not reboot_required(again.run)


def test_absent_gives_nouveau_back(machine: Machine, absent: Step) -> None:
    assert absent.run.returncode == 0
    # The module itself stays until then.
    assert reboot_required(absent.run)
    assert absent.look.for_the_card[-1] == "nouveau"
    assert BLACKLIST not in absent.look.initramfs
    assert machine.shell("ls -d /usr/src/nvidia-* /usr/bin/nvidia-* /var/lib/nvidia 2>/dev/null; true") == ""
    assert (
        machine.shell("find /lib/modules -name nvidia.ko -o -name nvidia-uvm.ko; find /var/lib/dkms -name nvidia") == ""
    )
