# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role base's probe makes of package sources, kernel logs and PCI devices."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

PROBE = Path(__file__).parents[3] / "roles/base/files/probe.py"


@pytest.fixture(scope="module")
def probe() -> Any:
    """The probe, loaded as a module."""
    spec = importlib.util.spec_from_file_location("base_probe", PROBE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "packages"),
    [
        ("r8169 0000:02:00.0: firmware: failed to load rtl_nic/rtl8168g-2.fw (-2)", ["firmware-realtek"]),
        (
            "r8169 0000:02:00.0: Direct firmware load for rtl_nic/rtl8168h-2.fw failed with error -2",
            ["firmware-realtek"],
        ),
        ("Missing firmware rtl8168e-3.fw", ["firmware-realtek"]),
        ("iwlwifi 0000:03:00.0: firmware: failed to load iwlwifi-6000g2a-6.ucode (-2)", ["firmware-iwlwifi"]),
        (
            "ath10k_pci 0000:02:00.0: firmware: failed to load ath10k/QCA9377/hw1.0/board-2.bin (-2)",
            ["firmware-atheros"],
        ),
        ("bnx2 0000:03:00.0: firmware: failed to load bnx2/bnx2-mips-09-6.2.1b.fw (-2)", ["firmware-bnx2"]),
        ("i915 0000:00:02.0: firmware: failed to load i915/kbl_dmc_ver1_04.bin (-2)", []),
        ("r8169 0000:02:00.0 eth0: Link is Up", []),
    ],
)
def test_firmware_from_the_kernel_log(probe: Any, tmp_path: Path, line: str, packages: list[str]) -> None:
    log = tmp_path / "kernel.log"
    log.write_text(f"something before\n{line}\nsomething after\n")
    assert list(probe.firmware(str(tmp_path / "no-pci"), f"cat {log}")) == packages


def test_a_kernel_log_that_cannot_be_read_is_no_error(probe: Any, tmp_path: Path) -> None:
    assert probe.firmware(str(tmp_path), "no-such-command --at-all") == {}
    assert probe.firmware(str(tmp_path), "") == {}


def test_cards(probe: Any, tmp_path: Path) -> None:
    """A Realtek network card wants firmware, Realtek's card reader does not; a graphics card is one of class 03."""
    for name, vendor, kind in (
        ("0000:02:00.0", "0x10ec", "0xff0000"),
        ("0000:03:00.0", "0x10de", "0x040300"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert probe.firmware(str(tmp_path), "") == {}
    assert not probe.has_gpu(str(tmp_path))
    (tmp_path / "0000:02:00.0/class").write_text("0x020000\n")
    (tmp_path / "0000:03:00.0/class").write_text("0x030200\n")
    assert list(probe.firmware(str(tmp_path), "")) == ["firmware-realtek"]
    assert probe.has_gpu(str(tmp_path))


def test_one_line_sources(probe: Any) -> None:
    text = """\
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian/ bookworm main contrib # a comment
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64,i386 signed-by=/usr/share/keyrings/x.gpg] https://mirror.example/debian bookworm-updates main
deb cdrom:[Debian GNU/Linux 12.5.0 _Bookworm_ - Official amd64 NETINST]/ bookworm main
"""
    entries = probe.one_line_entries(text)
    assert [entry["uris"] for entry in entries[:2]] == [
        ["http://mirror.example/debian/"],
        ["https://mirror.example/debian"],
    ]
    assert entries[0]["components"] == ["main", "contrib"]
    assert entries[1]["options"] == {"Architectures": "amd64 i386", "Signed-By": "/usr/share/keyrings/x.gpg"}
    assert entries[2]["uris"][0].startswith("cdrom:[")
    assert entries[2]["suites"] == ["bookworm"]


def test_deb822_sources(probe: Any) -> None:
    text = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS/xcRfwEQWzr
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: trixie
Components: main
"""
    entries = probe.deb822_entries(text)
    assert len(entries) == 1
    assert entries[0]["suites"] == ["trixie", "trixie-updates"]
    # A key in the file goes on over several lines, each with its space.
    assert entries[0]["options"]["Signed-By"].splitlines()[1:3] == [" -----BEGIN PGP PUBLIC KEY BLOCK-----", " ."]


def test_nearest_existing(probe: Any, tmp_path: Path) -> None:
    assert probe.nearest_existing(str(tmp_path / "not/there")) == tmp_path
    assert probe.free_mb(str(tmp_path / "not/there")) > 0
