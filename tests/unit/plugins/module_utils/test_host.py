"""What the kernel's own files say about memory and processor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _host

# The guide's first machine: a Sandy Bridge has AVX and no more.
CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Core(TM) i5-2300 CPU @ 2.80GHz
cpu cores\t: 4
flags\t\t: fpu vme sse sse2 ssse3 sse4_1 sse4_2 aes xsave avx lahf_lm

processor\t: 1
model name\t: another
flags\t\t: fpu avx avx2
"""
MEMINFO = """\
MemTotal:        8031376 kB
MemFree:          123456 kB
SwapCached:            0 kB
SwapTotal:        999420 kB
HugePages_Total:       0
"""
NO_FLAGS = {"avx": False, "avx2": False, "avx512f": False, "f16c": False, "sha_ni": False}


def test_an_old_computer(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert _host.describe(str(tmp_path)) == {
        "memory_mib": 7843,
        "swap_mib": 975,
        "cpu_model": "Intel(R) Core(TM) i5-2300 CPU @ 2.80GHz",
        "cores": len(os.sched_getaffinity(0)),
        "flags": {**NO_FLAGS, "avx": True},
    }


@pytest.mark.parametrize("flag", sorted(NO_FLAGS))
def test_each_flag(tmp_path: Path, flag: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flag} avx512fx xavx f16cc sha\n")
    assert _host.describe(str(tmp_path))["flags"] == {**NO_FLAGS, flag: True}


def test_what_the_kernel_does_not_tell(tmp_path: Path) -> None:
    # An ARM kernel's cpuinfo has neither of these lines.
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\n")
    assert _host.describe(str(tmp_path)) == {
        "memory_mib": None,
        "swap_mib": None,
        "cpu_model": None,
        "cores": len(os.sched_getaffinity(0)),
        "flags": NO_FLAGS,
    }


def test_no_swap(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 2048 kB\nSwapTotal:             0 kB\n")
    assert _host.describe(str(tmp_path))["swap_mib"] == 0


def test_this_computer() -> None:
    # A container may be shown less than the computer has.
    computer = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024**2
    assert 0 < _host.describe()["memory_mib"] <= computer


@pytest.mark.parametrize(
    ("content", "release"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n', "12"),
        ('VERSION_ID="13"\nID=debian\n', "13"),
        ("VERSION_ID=11\nID='debian'\n", "11"),
        # Testing and unstable.
        ('PRETTY_NAME="Debian GNU/Linux forky/sid"\nVERSION_CODENAME=forky\nID=debian\n', "14"),
        ("ID=debian\n", ""),
        ('VERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n', ""),
        ("", ""),
    ],
)
def test_debian_release(tmp_path: Path, content: str, release: str) -> None:
    (tmp_path / "os-release").write_text(content)
    assert _host.debian_release(str(tmp_path / "os-release")) == release


def test_no_os_release(tmp_path: Path) -> None:
    assert _host.debian_release(str(tmp_path / "os-release")) == ""
