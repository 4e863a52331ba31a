# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role nvidia_driver's looks make of packages, DKMS, the firmware, package sources and build logs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).parents[3] / "roles/nvidia_driver/files"


def load(name: str) -> Any:
    """A script of the role, loaded as a module."""
    spec = importlib.util.spec_from_file_location(f"nvidia_driver_{name}", FILES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOOK, APT_LOOK, BUILD_ERROR = load("look"), load("apt_look"), load("build_error")


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-kernel-dkms",
        "nvidia-tesla-470-smi",
        "libnvidia-legacy-390xx-cuda1",
        "libcuda1",
        "cuda-drivers-580",
        "cuda-keyring",
        "firmware-nvidia-gsp",
        "glx-alternative-nvidia",
        "xserver-xorg-video-nvidia",
        "libegl-nvidia0",
    ],
)
def test_a_package_of_the_driver(name: str) -> None:
    assert LOOK.DRIVER_PACKAGE.match(name)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-container-toolkit",
        "libnvidia-container1",
        "nvidia-texture-tools",
        "libxnvctrl0",
        "python3-pynvml",
        "barracuda",
        "linux-headers-amd64",
        "dkms",
    ],
)
def test_another_package(name: str) -> None:
    assert not LOOK.DRIVER_PACKAGE.match(name)


@pytest.mark.parametrize("name", ["nvidia.ko", "nvidia-current.ko", "nvidia-tesla-470.ko.xz", "nvidia-current-open.ko"])
def test_the_module_itself(name: str) -> None:
    assert LOOK.MODULE_FILE.match(name)


@pytest.mark.parametrize("name", ["nvidia-uvm.ko", "nvidia-current-drm.ko", "nvidia-modeset.ko.xz", "nvidiafb.ko"])
def test_a_module_beside_it(name: str) -> None:
    assert not LOOK.MODULE_FILE.match(name)


def test_dkms_of_each_debian() -> None:
    assert LOOK.dkms(
        "nvidia-current/535.309.01, 6.1.0-56-amd64, x86_64: installed\n"
        "nvidia-current, 470.256.02, 5.10.0-46-amd64, x86_64: installed\n"
        "nvidia/530.30.02, 6.1.0-9-amd64, x86_64: built\n"
        "nvidia-current/550.163.01: added\n"
        "r8168/8.051.02, 6.1.0-56-amd64, x86_64: installed\n"
    ) == {"6.1.0-56-amd64": "installed", "5.10.0-46-amd64": "installed", "6.1.0-9-amd64": "built"}


@pytest.mark.parametrize(("last", "on"), [(b"\1", True), (b"\0", False)])
def test_secure_boot(tmp_path: Path, last: bytes, on: bool) -> None:
    variable = tmp_path / LOOK.SECURE_BOOT
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\6\0\0\0" + last)
    assert LOOK.secure_boot(str(tmp_path)) is on


def test_a_machine_without_uefi_has_no_secure_boot(tmp_path: Path) -> None:
    assert LOOK.secure_boot(str(tmp_path)) is False


@pytest.mark.parametrize(
    ("running", "installed", "headers"),
    [
        ("6.1.0-56-amd64", {}, "linux-headers-amd64"),
        ("6.1.0-56-cloud-amd64", {}, "linux-headers-cloud-amd64"),
        ("6.1.0-56-rt-amd64", {}, "linux-headers-rt-amd64"),
        ("6.18.0-of-a-container", {"linux-image-cloud-amd64": "6.1"}, "linux-headers-cloud-amd64"),
    ],
)
def test_headers_are_of_the_kernels_own_kind(running: str, installed: dict[str, str], headers: str) -> None:
    assert LOOK.metapackage(running, installed) == headers


def test_a_program_that_hangs_is_not_waited_for() -> None:
    assert LOOK.run(["sleep", "60"], timeout=0.1) == ""


def test_the_key_of_a_one_line_source(tmp_path: Path) -> None:
    path = tmp_path / "debian.list"
    path.write_text("# a comment\ndeb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://m/debian bookworm main\n")
    assert APT_LOOK.signed_by(f"{path}:2", "http://m/debian/") == "/usr/share/keyrings/a.gpg"
    assert APT_LOOK.signed_by(f"{path}:1", "http://m/debian/") == ""


def test_the_key_of_a_source_in_stanzas(tmp_path: Path) -> None:
    path = tmp_path / "debian.sources"
    path.write_text(
        "Types: deb\nURIs: http://other/debian\nSuites: bookworm\nComponents: main\nSigned-By: /other.gpg\n\n"
        "Types: deb\nURIs: http://m/debian\nSuites: bookworm\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
    )
    assert APT_LOOK.signed_by(f"{path}:1", "http://other/debian/") == "/other.gpg"
    assert APT_LOOK.signed_by(f"{path}:2", "http://m/debian/").splitlines()[1:] == [
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " abc",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "/var/lib/dkms/nvidia-current/470/build/nvidia/nv-vm.c:36:10: fatal error: linux/vmalloc.h: No such file",
        "ERROR: modpost: GPL-incompatible module nvidia.ko uses GPL-only symbol 'rcu_read_lock'",
        "gcc-12: fatal error: Killed signal terminated program cc1",
    ],
)
def test_the_line_of_a_build_log_that_says_it(line: str) -> None:
    assert BUILD_ERROR.TELLING.search(line)
    assert not BUILD_ERROR.ECHO.search(line)


def test_a_compilers_option_is_no_error() -> None:
    assert not BUILD_ERROR.TELLING.search("gcc-12 -Wall -Werror=strict-prototypes -Werror=date-time -c nv.c")
