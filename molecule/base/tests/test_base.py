# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role base leaves on a host, and what it takes away again. The tests run in the order of this file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

testinfra_hosts = ["base-server"]

SERVER, POOR = "base-server", "base-poor"
ROLE, RESET = "molecule/base/converge.yml", "molecule/base/reset.yml"


def words(run: Any) -> str:
    """What a playbook said, whatever way its lines are folded."""
    return " ".join(run.output.split())


def test_packages(host: Any) -> None:
    installed = ["git", "git-lfs", "wget", "python3-venv", "libgl1", "libglib2.0-0", "pciutils", "btop"]
    # From contrib and non-free-firmware, for the cards that are made up.
    installed += ["nvtop", "firmware-realtek"]
    assert [name for name in installed if not host.package(name).is_installed] == []


def test_package_index_is_read_without_a_warning(host: Any) -> None:
    done = host.run("apt-get update")
    assert done.rc == 0
    assert "W:" not in done.stderr, done.stderr


def test_service_user_and_data_directory(host: Any) -> None:
    user = host.user("sd")
    assert (user.home, user.shell, user.group) == ("/nonexistent", "/usr/sbin/nologin", "sd")
    assert user.uid < 1000
    data = host.file("/srv/sd")
    assert (data.user, data.group, data.mode) == ("sd", "sd", 0o2775)


def test_the_admin_users_own_key_and_shell_stay(host: Any) -> None:
    lines = host.file("/home/keeper/.ssh/authorized_keys").content_string.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("restrict,command=")
    assert lines[1].endswith(" new")
    assert host.user("keeper").shell == "/bin/sh"
    assert "sudo" in host.user("keeper").groups
    assert host.check_output("runuser -u keeper -- sudo -n id -u") == "0"


def test_does_not_sleep(host: Any) -> None:
    targets = ("sleep", "suspend", "hibernate", "hybrid-sleep")
    assert {host.run(f"systemctl is-enabled {target}.target").stdout.strip() for target in targets} == {"masked"}
    assert host.check_output("systemctl get-default") == "multi-user.target"
    assert "HandleLidSwitch=ignore" in host.check_output("systemd-analyze cat-config systemd/logind.conf")


def test_unattended_upgrades_leave_nvidia_alone(host: Any) -> None:
    """Match names as unattended-upgrades does, with the list that apt reads from all its files."""
    refused = ["nvidia-driver", "libnvidia-ml1", "libcuda1", "xserver-xorg-video-nvidia", "firmware-nvidia-gsp"]
    question = (
        "import apt_pkg, re; apt_pkg.init(); "
        "patterns = apt_pkg.config.value_list('Unattended-Upgrade::Package-Blacklist'); "
        f"print([name for name in {[*refused, 'openssl']} if any(re.match(pattern, name) for pattern in patterns)])"
    )
    assert host.check_output("python3 -c %s", question) == str(refused)
    assert host.check_output("apt-config shell value Unattended-Upgrade::Automatic-Reboot").strip() == "value='false'"
    assert host.run("unattended-upgrade --dry-run").rc == 0


def test_a_small_data_disk_is_refused(playbook: Any) -> None:
    run = playbook(ROLE, POOR)
    assert run.returncode != 0
    assert words(run).count(
        "base-poor has 0.1 GB free on the volume of /srv and needs 2 GB: "
        "free some space, or set base_data_dir to a bigger volume."
    )


def test_little_memory_is_reported_with_its_consequence(playbook: Any) -> None:
    run = playbook(ROLE, POOR, "--tags", "base_preflight", base_min_free_gb=0)
    assert run.returncode == 0
    assert "WARNING: less than 12 GB of RAM: only small models fit" in run.output
    assert "No swap file is made: a container uses the swap of its host." in run.output


def test_wrong_settings_are_refused(playbook: Any) -> None:
    refusals = {
        "base_data_dir /home/keeper is the home of user keeper on base-server: set it to a directory of its own.": {
            "base_data_dir": "/home/keeper"
        },
        "base_data_dir is '/srv' for base-server, which is not an absolute path of two levels or more": {
            "base_data_dir": "/srv"
        },
        "base_data_dir is '/srv/../etc/sd' for base-server, which is not an absolute path": {
            "base_data_dir": "/srv/../etc/sd"
        },
        "base_data_dir is '/srv/my models' for base-server, which is not an absolute path": {
            "base_data_dir": "/srv/my models"
        },
        "base_data_dir is in /home/sd on base-server, which belongs to the system or is hidden from services": {
            "base_data_dir": "/home/sd"
        },
        # A link of Debian's own to /run.
        "base_data_dir is in /run/sd on base-server": {"base_data_dir": "/var/run/sd"},
        "base_data_dir is in /var/lib on base-server": {"base_data_dir": "/var/lib"},
        "base_service_user keeper is an account of a person on base-server (uid 1": {"base_service_user": "keeper"},
        "base_service_user root is an account of a person on base-server (uid 0)": {"base_service_user": "root"},
        "base_swap_size_mb is '8G' for base-server: set it to auto, 0 or a number of megabytes.": {
            "base_swap_size_mb": "8G"
        },
        "base_admin_user is not: name the user who shall own these keys.": {"base_admin_user": ""},
    }
    said = words(playbook("molecule/base/refuse.yml", SERVER, wrong_settings=list(refusals.values())))
    assert "ACCEPTED" not in said
    assert [sentence for sentence in refusals if sentence.replace("'", "") not in said.replace("'", "")] == []


def test_values_may_be_text(host: Any, playbook: Any) -> None:
    """An INI inventory and ``-e name=value`` give nothing but strings."""
    settings = (
        "base_monitors=false",
        "base_disable_sleep=true",
        "base_min_free_gb=20",
        "base_unattended_upgrades=true",
    )
    texts = [word for setting in settings for word in ("-e", setting)]
    assert playbook(ROLE, SERVER, "--check", *texts).returncode == 0
    # Here nothing is installed yet, so that the space counts.
    preflight = (ROLE, POOR, "--check", "--tags", "base_preflight", "-e")
    assert playbook(*preflight, "base_min_free_gb=0").returncode == 0
    assert playbook(*preflight, "base_min_free_gb=20").returncode != 0
    # And false is false.
    awake = playbook(ROLE, SERVER, "--check", "--tags", "base_server", "-e", "base_disable_sleep=false")
    assert awake.returncode == 0
    assert "Unmask what was not masked before" in awake.output


def test_an_account_that_is_there_keeps_its_home_and_shell(host: Any, playbook: Any) -> None:
    host.check_output("usermod --home /srv --shell /bin/sh sd")
    assert playbook(ROLE, SERVER, "--tags", "base_accounts").changed == 0
    assert (host.user("sd").home, host.user("sd").shell) == ("/srv", "/bin/sh")
    host.check_output("usermod --home /nonexistent --shell /usr/sbin/nologin sd")


def test_firmware_from_a_file_on_the_controller(host: Any, playbook: Any, tmp_path: Path) -> None:
    control = tmp_path / "build/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: firmware-made-up\nVersion: 1\nArchitecture: all\nMaintainer: test\nDescription: test\n"
    )
    package = tmp_path / "firmware-made-up_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(control.parents[1]), str(package)], check=True, capture_output=True)
    arguments = (ROLE, SERVER, "--tags", "base_install")
    assert playbook(*arguments, base_firmware_deb=str(package)).returncode == 0
    assert host.package("firmware-made-up").is_installed
    assert playbook(*arguments, base_firmware_deb=str(package)).changed == 0


def test_another_mirror_and_back(host: Any, playbook: Any) -> None:
    mirror, security = (
        host.check_output(f"sed -n 's/^deb \\(\\S*\\) {suite} .*/\\1/p' /etc/apt/sources.list")
        for suite in ("bookworm", "bookworm-security")
    )
    arguments = (ROLE, SERVER, "--tags", "base_install")
    asked = {"base_apt_mirror": mirror, "base_apt_security_mirror": security}
    assert playbook(*arguments, **asked).returncode == 0
    assert not host.file("/etc/apt/sources.list").exists
    assert "non-free-firmware" in host.check_output("apt-cache policy firmware-realtek")
    assert playbook(*arguments, **asked).changed == 0
    assert playbook(*arguments).returncode == 0
    assert host.file("/etc/apt/sources.list").exists


def interfaces(host: Any, address: str) -> str:
    """The host's own settings, in our words, with another address."""
    gateway = host.check_output("ip route show default").split()[2]
    return f"allow-hotplug eth0\niface eth0 inet static\n  address {address}/24\n  gateway {gateway}\n  metric 50\n"


def test_network_settings_that_work_stay(host: Any, playbook: Any) -> None:
    address = host.check_output("hostname -I").split()[0]
    arguments: Any = (ROLE, SERVER, "--tags", "base_network")
    settings = {"base_network_interfaces": interfaces(host, address), "base_network_revert_seconds": 40}
    assert playbook(*arguments, **settings).returncode == 0
    assert "metric 50" in host.check_output("ip route show default")
    assert "metric 50" in host.file("/etc/network/interfaces").content_string
    assert playbook(*arguments, **settings).changed == 0


def test_network_settings_that_cut_the_host_off_are_taken_back(host: Any, playbook: Any) -> None:
    before = host.file("/etc/network/interfaces").content_string
    # An address of a network that is reserved for documentation.
    settings = {"base_network_interfaces": interfaces(host, "192.0.2.7"), "base_network_revert_seconds": 20}
    run = playbook(ROLE, SERVER, "--tags", "base_network", **settings)
    assert run.returncode != 0
    assert "so it went back to its old network settings: correct the stanza and run again." in words(run)
    assert host.file("/etc/network/interfaces").content_string == before
    assert "192.0.2.7" not in host.check_output("ip address show")


def test_network_settings_that_are_not_valid_change_nothing(playbook: Any) -> None:
    settings = {"base_network_interfaces": "iface eth0 inet nonsense\n"}
    run = playbook(ROLE, SERVER, "--tags", "base_network", **settings)
    assert "base_network_interfaces for base-server is not valid (ifup: " in words(run)


def test_reset_leaves_the_data_and_nothing_else(host: Any, playbook: Any) -> None:
    host.check_output("install -o sd -g sd -D /dev/null /srv/sd/outputs/picture.png")
    host.check_output("install -o keeper -g sd -D /dev/null /srv/sd/models/checkpoint/model.safetensors")
    # As text, which is what the command line gives: a word that says no must not be taken for a yes.
    assert playbook(RESET, SERVER, "-e", "base_purge_data=false").returncode == 0
    snapshot = (Path(__file__).parents[1] / "snapshot.sh").read_text()
    host.check_output("sh -c %s - /run/after", snapshot)
    lines = host.run("diff /run/before /run/after").stdout.splitlines()
    data = [line for line in lines if line.startswith("> /srv/sd")]
    assert len(data) == 6
    assert [line for line in data if re.search(" sd( |$)", line)] == []
    kept = ("/srv/sd", "/etc/network/interfaces", "/etc/sudoers.d/secondhand-diffusion-keeper")
    # The two ways in, which reset keeps: the network settings and the admin user.
    left = [line for line in lines if line[:1] in "<>" and not line[2:].startswith((*kept, "sudo:x:"))]
    assert left == []


def test_the_data_is_taken_over_again(host: Any, playbook: Any) -> None:
    # Somebody else gets the number in the meantime.
    host.check_output("useradd --system --uid %s other", str(host.file("/srv/sd").uid))
    assert playbook(ROLE, SERVER, "--tags", "base_accounts").returncode == 0
    assert host.file("/srv/sd/outputs/picture.png").user == "sd"
    assert host.file("/srv/sd/models/checkpoint/model.safetensors").user == "keeper"
    assert host.file("/srv/sd/models/checkpoint/model.safetensors").group == "sd"


def test_reset_removes_no_user_that_the_record_does_not_name(host: Any, playbook: Any) -> None:
    host.check_output("mv /var/lib/secondhand-diffusion/base.json /run/base.json")
    assert playbook(RESET, SERVER).returncode == 0
    assert host.user("sd").exists
    host.check_output("install -D /run/base.json /var/lib/secondhand-diffusion/base.json")
    assert playbook(RESET, SERVER, base_service_user="keeper").returncode == 0
    assert host.user("keeper").exists
    assert host.user("sd").exists


def test_reset_removes_the_data_when_it_is_told_to(host: Any, playbook: Any) -> None:
    host.check_output("install -D /run/base.json /var/lib/secondhand-diffusion/base.json")
    run = playbook(RESET, SERVER, "-e", "base_purge_data=true", base_data_dir="/var/lib")
    assert run.returncode != 0
    assert "which is not a directory of its own" in words(run)
    assert host.file("/srv/sd/outputs/picture.png").exists
    assert playbook(RESET, SERVER, "-e", "base_purge_data=true").returncode == 0
    assert not host.file("/srv/sd").exists
    assert not host.user("sd").exists
