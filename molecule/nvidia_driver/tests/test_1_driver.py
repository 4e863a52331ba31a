# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role nvidia_driver leaves on a host with a (made-up) GTX 750 Ti, and on one without a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

testinfra_hosts = ["driver-card"]

CARD, NONE = "driver-card", "driver-none"
ROLE = "molecule/nvidia_driver/converge.yml"
SNAPSHOT = Path(__file__).parents[2] / "base/snapshot.sh"
SYSFS = "/usr/local/lib/made-up/sys"


def words(run: Any) -> str:
    """What a playbook said, whatever way its lines are folded."""
    return " ".join(run.output.split())


def kernels(host: Any) -> list[str]:
    """The kernels that have headers on the host."""
    return [line.split("/")[3] for line in host.check_output("ls -d /lib/modules/*/build").split()]


def driver_version(host: Any) -> str:
    """The driver's own part of the version of Debian's package."""
    return str(host.package("nvidia-kernel-dkms").version).partition("-")[0]


def test_the_module_is_built_for_every_kernel_with_headers(host: Any) -> None:
    version = driver_version(host)
    assert version.startswith("535.")
    assert kernels(host) != []
    for kernel in kernels(host):
        status = host.check_output(f"dkms status -m nvidia-current -k {kernel}")
        assert status.startswith(f"nvidia-current/{version}, {kernel}, x86_64: installed"), status
        assert host.check_output(f"modinfo -k {kernel} -F version nvidia-current") == version


def test_the_next_kernel_gets_a_module_too(host: Any) -> None:
    assert host.package("linux-headers-amd64").is_installed


def test_the_whole_driver_is_of_one_version(host: Any) -> None:
    version = host.package("nvidia-kernel-dkms").version
    for name in ("libcuda1", "libnvidia-ml1", "nvidia-smi", "libnvidia-ptxjitcompiler1"):
        assert host.package(name).version == version, name
    assert host.package("firmware-nvidia-gsp").is_installed


def test_nothing_for_a_screen_is_installed(host: Any) -> None:
    unwanted = ["xserver-xorg-core", "xserver-xorg-video-nvidia", "libgl1-nvidia-glvnd-glx", "nvidia-settings"]
    assert [name for name in unwanted if host.package(name).is_installed] == []


def test_the_real_nvidia_smi_finds_no_running_driver(host: Any) -> None:
    said = host.run("nvidia-smi")
    assert said.rc != 0
    assert "couldn't communicate with the NVIDIA driver" in said.stdout


def test_the_real_nvml_finds_no_running_driver(host: Any) -> None:
    said = host.run("python3 -c 'import pynvml; pynvml.nvmlInit()'")
    assert "NVMLError_DriverNotLoaded" in said.stderr


def test_no_unit_has_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


def test_the_device_files_come_before_the_web_ui_at_each_boot(host: Any) -> None:
    unit = "secondhand-nvidia-devices.service"
    assert host.check_output(f"systemctl is-enabled {unit}") == "enabled"
    assert "sd-webui.service" in host.check_output(f"systemctl show --property=Before {unit}")
    # Without a card that answers, it is skipped and does not fail.
    host.check_output(f"systemctl start {unit}")
    assert host.run(f"systemctl is-active {unit}").stdout.strip() == "inactive"
    assert host.file("/usr/bin/nvidia-modprobe").exists
    assert unit in host.check_output("systemctl show --property=After nvidia-persistenced.service")
    host.check_output("systemctl start nvidia-persistenced.service")
    assert host.check_output("systemctl show --property=ConditionResult nvidia-persistenced") == "ConditionResult=no"


def test_nouveau_is_kept_away(host: Any) -> None:
    assert "blacklist nouveau" in host.check_output("modprobe --showconfig").splitlines()


def test_apt_is_told_to_leave_the_driver_alone(host: Any) -> None:
    listed = host.check_output("apt-config dump --format %v%n Unattended-Upgrade::Package-Blacklist").splitlines()
    assert {".*nvidia", "libcuda", "cuda-"} <= set(listed)


def test_package_index_is_read_without_a_warning(host: Any) -> None:
    done = host.run("apt-get update")
    assert done.rc == 0
    assert "W:" not in done.stderr, done.stderr


def test_the_record_tells_the_driver_from_what_was_there(host: Any) -> None:
    record = json.loads(host.file("/var/lib/secondhand-diffusion/nvidia_driver.json").content_string)
    assert (record["installed"], record["source"], record["branch"]) == (True, "debian", 535)
    assert {"nvidia-kernel-dkms", "dkms", "linux-headers-amd64", "gcc"} <= set(record["packages"])
    assert not {"pci.ids", "sudo"} & set(record["packages"])


def test_without_a_card_nothing_is_touched(playbook: Any, request: Any) -> None:
    run = playbook(ROLE, NONE)
    assert (run.returncode, run.changed) == (0, 0)
    assert "no NVIDIA driver is wanted here, so nothing is changed." in words(run)
    assert "There is no NVIDIA card, so the CPU." in words(run)


def test_in_a_container_the_host_of_the_container_has_to_act(host: Any, playbook: Any) -> None:
    before = host.check_output("systemctl show --property=UserspaceTimestampMonotonic")
    # Consent or not: it is never the controller's own kernel that is rebooted.
    run = playbook(ROLE, CARD, "-e", "nvidia_driver_reboot_ok=true")
    assert (run.returncode, run.changed) == (0, 0)
    assert "is installed, but a container has no kernel of its own, so its host has to load the module" in words(run)
    assert "Until then the CPU does the work." in words(run)
    assert host.check_output("systemctl show --property=UserspaceTimestampMonotonic") == before


def test_a_power_limit_is_set_at_each_boot(host: Any, playbook: Any) -> None:
    unit = "/etc/systemd/system/secondhand-nvidia-power-limit.service"
    assert playbook(ROLE, CARD, "-e", "nvidia_driver_power_limit=30").returncode == 0
    assert "--id=0000:01:00.0 --power-limit=30" in host.file(unit).content_string
    assert host.check_output("systemctl is-enabled secondhand-nvidia-power-limit.service") == "enabled"
    assert playbook(ROLE, CARD).returncode == 0
    assert not host.file(unit).exists


def test_secure_boot_is_told_how_to_take_the_module(host: Any, playbook: Any) -> None:
    # The last byte of the firmware's variable says that signatures are checked.
    variable = f"{SYSFS}/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    host.check_output(f"mkdir -p {SYSFS}/firmware/efi/efivars && printf '\\006\\000\\000\\000\\001' >{variable}")
    run = playbook(ROLE, CARD)
    assert run.returncode == 0
    assert 'run "mokutil --import /var/lib/dkms/mok.pub" there as root' in words(run).replace("\\", "")
    # Both are there: the command and the key.
    assert host.file("/usr/bin/mokutil").exists
    host.check_output("openssl x509 -inform der -in /var/lib/dkms/mok.pub -noout -fingerprint")
    host.check_output(f"rm -r {SYSFS}/firmware")


def test_a_kernel_that_lost_its_module_gets_it_back(host: Any, playbook: Any) -> None:
    kernel, version = kernels(host)[0], driver_version(host)
    host.check_output(f"dkms uninstall nvidia-current/{version} -k {kernel}")
    assert playbook(ROLE, CARD).returncode == 0
    assert "installed" in host.check_output(f"dkms status -m nvidia-current -k {kernel}")


def test_a_build_that_fails_is_one_sentence(host: Any, playbook: Any) -> None:
    # A kernel of which nothing but a makefile is there.
    host.check_output("mkdir -p /lib/modules/6.1.0-99-amd64/build && touch /lib/modules/6.1.0-99-amd64/build/Makefile")
    run = playbook(ROLE, CARD)
    host.check_output("rm -r /lib/modules/6.1.0-99-amd64")
    assert run.returncode != 0
    assert run.message.startswith("driver-card: DKMS ")
    assert "6.1.0-99-amd64" in run.message
