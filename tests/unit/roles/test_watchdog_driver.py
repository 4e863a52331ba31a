# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reload of the driver: a made-up /proc and /sys, and commands that write down what they are told."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from sd_watchdog import bounded, driver

PERSISTENCE = "0::/system.slice/nvidia-persistenced.service\n"
SD = "0::/system.slice/sd-webui.service\n"

# Answers what systemctl show would, and fails where a file of its name says so.
COMMAND = """#!/bin/sh
me=$(basename "$0")
here=$(dirname "$0")
echo "$me $*" >>"$here/told"
case "$me $1" in
  "systemctl show") cat "$here/units" ;;
esac
[ ! -e "$here/$me.$2" ] && [ ! -e "$here/$me.$1" ] || { echo "$me: ERROR: told so" >&2; exit 1; }
[ "$me" != nvidia-smi ] || echo "GPU 0: Quadro P600 (UUID: GPU-1)"
"""

UNITS = """Id=nvidia-persistenced.service
LoadState=loaded
ActiveState=active

Id=secondhand-nvidia-power-limit.service
LoadState=not-found
ActiveState=inactive

Id=secondhand-nvidia-devices.service
LoadState=loaded
ActiveState=inactive
"""


class Host:
    """A made-up PC with a card."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        for name in ("modprobe", "systemctl", "nvidia-smi"):
            (self.bin / name).write_text(COMMAND, encoding="utf-8")
            (self.bin / name).chmod(0o755)
        (self.bin / "units").write_text(UNITS, encoding="utf-8")
        (root / "proc/driver/nvidia/gpus/0000:03:00.0").mkdir(parents=True)
        (root / "dev").mkdir()
        (root / "dev/nvidiactl").touch()
        self.load("nvidia_uvm", "nvidia_drm", "nvidia_modeset", "nvidia", "i915")

    def load(self, *modules: str) -> None:
        """These modules are loaded."""
        lines = [f"{name} 1 0 - Live 0x0000000000000000 (POE)\n" for name in modules]
        (self.root / "proc/modules").write_text("".join(lines), encoding="utf-8")

    def process(self, pid: int, name: str, cgroup: str, opened: str = "/dev/null", mapped: str = "") -> None:
        """A process that has a file open, or mapped."""
        folder = self.root / f"proc/{pid}"
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(name, encoding="utf-8")
        (folder / "cgroup").write_text(cgroup, encoding="utf-8")
        (folder / "fd/3").symlink_to(opened)
        (folder / "maps").write_text(f"7f00-7f01 rw-s 00000000 00:06 5  {mapped}\n", encoding="utf-8")

    def card(self, name: str, vendor: str) -> None:
        """A node in /dev/dri."""
        folder = self.root / f"sys/class/drm/{name}/device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n", encoding="utf-8")

    def told(self) -> list[str]:
        """What was run."""
        path = self.bin / "told"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def reload(self) -> tuple[bool, str]:
        return driver.reload(self.root, "nvidia-smi")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


def test_a_card_that_nobody_uses(host: Host) -> None:
    host.process(50, "nvidia-persiste", PERSISTENCE, "/dev/nvidia0")
    host.process(60, "python3", SD)
    ok, said = host.reload()
    assert (ok, said) == (True, "the driver was reloaded, and the card answers: GPU 0: Quadro P600 (UUID: GPU-1)")
    assert host.told()[1:] == [
        "systemctl stop nvidia-persistenced.service",
        "modprobe -r nvidia_uvm nvidia_drm nvidia_modeset nvidia",
        "modprobe nvidia",
        "modprobe nvidia_modeset",
        "modprobe nvidia_drm",
        "modprobe nvidia_uvm",
        "systemctl restart nvidia-persistenced.service",
        "systemctl restart secondhand-nvidia-devices.service",
        "nvidia-smi -L",
    ]


@pytest.mark.parametrize(
    ("opened", "mapped"),
    [("/dev/nvidiactl", ""), ("/dev/nvidia-uvm", ""), ("/dev/dri/renderD129", ""), ("/dev/null", "/dev/nvidia0")],
)
def test_a_card_in_use_is_left_alone(host: Host, opened: str, mapped: str) -> None:
    host.card("card0", "0x8086")
    host.card("card1", "0x10de")
    host.card("renderD129", "0x10de")
    host.card("card1-HDMI-A-1", "0x10de")
    host.process(60, "python3", SD, opened, mapped)
    ok, said = host.reload()
    assert not ok and said.endswith("while the card is used by python3 (process 60, sd-webui.service)")
    assert host.told() == []


def test_another_card_may_be_in_use(host: Host) -> None:
    host.card("card0", "0x8086")
    host.card("card1", "0x10de")
    host.process(60, "Xorg", "0::/user.slice/user-1000.slice/session-2.scope\n", "/dev/dri/card0")
    assert host.reload()[0]


def test_many_users_are_not_all_named(host: Host) -> None:
    for pid in range(60, 70):
        host.process(pid, "blender", SD, "/dev/nvidia0")
    assert host.reload()[1].endswith(" and 5 more")


def test_a_driver_that_is_not_loaded(host: Host) -> None:
    host.load("i915", "nvidiafb")
    assert host.reload() == (False, "the driver of the card is not loaded; modprobe nvidia says why not")


def test_what_does_not_let_go_is_left_as_it_was(host: Host) -> None:
    (host.bin / "modprobe.-r").touch()
    ok, said = host.reload()
    assert (ok, said) == (False, "the driver did not let go: modprobe: ERROR: told so")
    told = host.told()
    assert "modprobe nvidia_uvm" in told and told[-1] == "systemctl restart secondhand-nvidia-devices.service"


def test_what_does_not_go_in_again(host: Host) -> None:
    (host.bin / "modprobe.nvidia").touch()
    ok, said = host.reload()
    assert not ok and said.startswith("the driver was taken out and does not go in again: modprobe: ERROR")


def test_a_card_that_is_gone_stays_gone(host: Host) -> None:
    (host.bin / "nvidia-smi.-L").touch()
    assert host.reload() == (
        False,
        "the driver was reloaded and the card still does not answer: nvidia-smi: ERROR: told so",
    )


def test_a_card_that_the_driver_does_not_find(host: Host) -> None:
    (host.root / "proc/driver/nvidia/gpus/0000:03:00.0").rmdir()
    assert host.reload() == (False, "the driver was reloaded and finds no card")


def test_in_a_sandbox_without_devices_the_driver_is_asked(host: Host) -> None:
    (host.root / "dev/nvidiactl").unlink()
    assert host.reload() == (True, "the driver was reloaded, and it has found the card")
    assert "nvidia-smi -L" not in host.told()


def test_only_what_was_loaded_is_loaded_again(host: Host) -> None:
    host.load("nvidia")
    (host.bin / "units").write_text("", encoding="utf-8")
    assert host.reload()[0]
    assert [line for line in host.told() if line.startswith("modprobe")] == ["modprobe -r nvidia", "modprobe nvidia"]


def test_a_command_that_hangs_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "MOST_SECONDS", 1.5)
    (host.bin / "modprobe").write_text("#!/bin/sh\nexec sleep 600\n", encoding="utf-8")
    host.load("nvidia")
    begun = time.monotonic()
    ok, said = host.reload()
    assert (ok, said) == (False, "the driver did not let go: it hangs")
    assert time.monotonic() - begun < 30


def test_a_process_left_behind_is_not_waited_for() -> None:
    begun = time.monotonic()
    done = bounded.run(["sh", "-c", "sleep 600 & echo $!"], 60)
    assert done.ok and time.monotonic() - begun < 30
    os.kill(int(done.output), 9)


def test_a_flood_is_cut() -> None:
    done = bounded.run(["sh", "-c", "exec yes"], 60, most=100000)
    assert done.status is None and len(done.output) == 100000


def test_what_a_command_says_is_one_clean_line() -> None:
    done = bounded.run(["sh", "-c", r"printf 'first\n\033[2Jlast\000 words\n \n'; exit 3"], 60)
    assert done.status == 3 and done.last_line() == "[2Jlast words"
    assert bounded.run(["/nonexistent"], 5).last_line() == "/nonexistent cannot be run (No such file or directory)"


def test_without_its_errors() -> None:
    assert bounded.run(["sh", "-c", "echo out; echo err >&2"], 60, errors=False).output == b"out\n"
