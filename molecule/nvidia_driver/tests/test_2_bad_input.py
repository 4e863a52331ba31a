# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wishes that cannot be granted are refused before anything is touched, each in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

testinfra_hosts = ["driver-none"]

CARD, NONE = "driver-card", "driver-none"
ROLE = "molecule/nvidia_driver/converge.yml"
LOOK = (ROLE, NONE, "--tags", "nvidia_driver_plan")
MADE_UP = "/usr/local/lib/made-up"
CARDS = {"gtx-750-ti": "0x1380", "tesla-k80": "0x102d", "quadro-p600": "0x1cb2", "rtx-3060": "0x2503"}
RUNFILE = "https://example.org/NVIDIA-Linux-x86_64-530.30.02.run"


@pytest.fixture(scope="module", autouse=True)
def cards(host: Any) -> Any:
    """More machines than one: each a PCI tree of its own."""
    for name, device in CARDS.items():
        slot = f"{MADE_UP}/{name}/bus/pci/devices/0000:01:00.0"
        host.check_output(f"mkdir -p {slot}")
        files = {"vendor": "0x10de", "device": device, "class": "0x030000"}
        for file, value in files.items():
            host.check_output(f"echo {value} >{slot}/{file}")
    yield
    host.check_output(f"rm -r {' '.join(f'{MADE_UP}/{name}' for name in CARDS)}")


def refusal(playbook: Any, card: str, **wish: Any) -> str:
    run = playbook(*LOOK, nvidia_driver_sysfs_path=f"{MADE_UP}/{card}", **wish)
    assert run.returncode != 0
    assert run.changed == 0
    return str(run.message)


def test_a_card_of_kepler_gets_no_driver_unless_asked(playbook: Any) -> None:
    run = playbook(*LOOK, nvidia_driver_sysfs_path=f"{MADE_UP}/tesla-k80")
    assert (run.returncode, run.changed) == (0, 0)
    assert "no NVIDIA driver is wanted here" in " ".join(run.output.split())


def test_a_card_of_kepler_that_is_asked_for_gets_its_last_driver(playbook: Any) -> None:
    run = playbook(*LOOK, nvidia_driver_sysfs_path=f"{MADE_UP}/tesla-k80", nvidia_driver_device="gpu")
    assert "driver 470 from debian with the proprietary kernel module" in " ".join(run.output.split())


@pytest.mark.parametrize(
    ("card", "wish", "words"),
    [
        ("gtx-750-ti", {"nvidia_driver_branch": "590", "nvidia_driver_source": "nvidia_repo"}, ["590", "580"]),
        ("gtx-750-ti", {"nvidia_driver_branch": "580"}, ["580", "535"]),
        ("quadro-p600", {"nvidia_driver_kernel_module": "open"}, ["open", "Turing"]),
        ("tesla-k80", {"nvidia_driver_device": "gpu", "nvidia_driver_branch": "535"}, ["535", "470"]),
        ("gtx-750-ti", {"nvidia_driver_gpu": "0000:09:00.0"}, ["0000:09:00.0", "0000:01:00.0"]),
    ],
    ids=["590 on Maxwell", "580 from Debian", "open module before Turing", "535 on Kepler", "a card that is not there"],
)
def test_a_driver_that_cannot_be_had(playbook: Any, card: str, wish: dict[str, str], words: list[str]) -> None:
    said = refusal(playbook, card, **wish)
    assert said.startswith("driver-none: ")
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({}, "nvidia_driver_source is runfile, but nvidia_driver_runfile is not set"),
        ({"nvidia_driver_runfile": RUNFILE}, "nvidia_driver_runfile is set without the file's SHA-256"),
        (
            {"nvidia_driver_runfile": RUNFILE.replace("https", "http"), "nvidia_driver_runfile_sha256": "a" * 64},
            "nvidia_driver_runfile is fetched without encryption; use an https URL or a path on the controller.",
        ),
        (
            {
                "nvidia_driver_runfile": RUNFILE,
                "nvidia_driver_runfile_sha256": "a" * 64,
                "nvidia_driver_cuda_toolkit": True,
            },
            "nvidia_driver_cuda_toolkit needs nvidia_driver_cuda_runfile with the source runfile",
        ),
    ],
    ids=["no file", "no sum", "no encryption", "no toolkit"],
)
def test_an_installer_that_cannot_be_trusted(playbook: Any, wish: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(playbook, "gtx-750-ti", nvidia_driver_source="runfile", **wish)


def test_an_installer_over_packages(playbook: Any) -> None:
    wish = {"nvidia_driver_runfile": RUNFILE, "nvidia_driver_runfile_sha256": "a" * 64}
    run = playbook(ROLE, CARD, nvidia_driver_source="runfile", **wish)
    assert run.returncode != 0
    assert "the driver is installed as Debian packages here (nvidia-kernel-dkms" in run.message
    assert run.changed == 0


def test_packages_over_an_installer(host: Any, playbook: Any) -> None:
    # What NVIDIA's installer leaves behind.
    library = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.530.30.02"
    host.check_output(f"touch {library} /usr/bin/nvidia-uninstall")
    said = refusal(playbook, "gtx-750-ti")
    host.check_output(f"rm {library} /usr/bin/nvidia-uninstall")
    assert "driver 530.30.02 was installed here with NVIDIA's installer, which packages must not be mixed with" in said


def test_too_little_disk(host: Any, playbook: Any) -> None:
    host.check_output("mount -t tmpfs -o size=100m none /var/cache")
    said = refusal(playbook, "gtx-750-ti")
    host.check_output("umount /var/cache")
    assert "100 MiB are free on the disk of /var/cache, and an installation of the driver needs 500 MiB there" in said


def test_a_power_limit_that_is_none(playbook: Any) -> None:
    assert "nvidia_driver_power_limit is -5" in refusal(playbook, "gtx-750-ti", nvidia_driver_power_limit=-5)


def test_another_archive_with_packages_of_the_same_names(host: Any, playbook: Any) -> None:
    """NVIDIA's own repository, for one: apt would take its newer driver for Debian's."""
    fields = (
        "Package: nvidia-kernel-dkms",
        "Version: 590.48.01-1",
        "Architecture: amd64",
        "Maintainer: m",
        "Description: d",
    )
    control = "".join(f"{field}\\n" for field in fields)
    host.check_output(
        "mkdir -p /opt/other/p/DEBIAN && cd /opt/other"
        f" && printf '{control}' >p/DEBIAN/control && dpkg-deb --build p . && rm -r p"
        " && { dpkg-deb --field *.deb; echo Filename: ./$(ls *.deb); echo Size: $(stat -c %s *.deb);"
        " echo SHA256: $(sha256sum *.deb | cut -d' ' -f1); } >Packages"
        " && echo 'deb [trusted=yes] file:/opt/other ./' >/etc/apt/sources.list.d/other.list && apt-get update"
    )
    run = playbook(ROLE, NONE, "--check", nvidia_driver_sysfs_path=f"{MADE_UP}/gtx-750-ti")
    host.check_output("rm -r /opt/other /etc/apt/sources.list.d/other.list && apt-get update")
    assert run.returncode != 0
    assert "apt would install nvidia-kernel-dkms 590.48.01-1, but the plan is Debian's driver 535" in run.message


def test_words_that_do_not_exist(playbook: Any) -> None:
    for name in ("nvidia_driver_state", "nvidia_driver_source", "nvidia_driver_kernel_module", "nvidia_driver_device"):
        run = playbook(*LOOK, "-e", f"{name}=nonsense")
        assert run.returncode != 0
        assert f"value of {name} must be one of" in run.output
