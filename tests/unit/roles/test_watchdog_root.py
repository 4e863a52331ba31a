# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root part as a process in a made-up root: what it does when asked, and what nobody can make it do."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

LIB = Path(__file__).resolve().parents[3] / "roles/watchdog/files/lib"
HOST = Path(__file__).resolve().parents[3] / "roles/sd_webui/files/host"
ID = "0123456789abcdef"

# Writes down its arguments, one a line.
TOLD = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0")" "$@" >>{folder}/told\n'


class Host:
    """A made-up host with a web UI and its watchdog."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run/sd-watchdog"
        self.request = self.run / "request.json"
        self.answers = root / "run/sd-watchdog-root/answer.json"
        self.gpu = root / "run/sd-watchdog-root/gpu.json"
        self.book = root / "var/lib/sd-watchdog-root/root.json"
        for name in ("run/sd-watchdog", "etc/sd-watchdog", "etc/sd-webui", "var/lib/sd-webui", "bin", "proc/net"):
            (root / name).mkdir(parents=True)
        self.boot("boot-1", 5000)
        for name in ("sd-profile", "roll-back", "reboot", "nvidia-smi", "modprobe", "systemctl"):
            self.command(name, TOLD.format(folder=root))
        self.log = root / "kern.log"
        self.log.touch()
        self.configure()
        self.engine()

    def boot(self, boot_id: str, uptime: float) -> None:
        """The host runs since so many seconds."""
        folder = self.root / "proc/sys/kernel/random"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "boot_id").write_text(boot_id + "\n", encoding="utf-8")
        (self.root / "proc/uptime").write_text(f"{uptime:.2f} 1.0\n", encoding="utf-8")

    def command(self, name: str, script: str) -> Path:
        """A command of this host."""
        path = self.root / "bin" / name
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
        return path

    def configure(self, **values: Any) -> None:
        """The watchdog's settings."""
        config = {
            "schema": 1,
            "gpu": False,
            "kernel_log": str(self.log),
            "reboot_command": [str(self.root / "bin/reboot")],
            "nvidia_smi": str(self.root / "bin/nvidia-smi"),
            **values,
        }
        (self.root / "etc/sd-watchdog/config.json").write_text(json.dumps(config), encoding="utf-8")

    def engine(self, **values: Any) -> None:
        """What role sd_webui tells."""
        contract = {
            "engine": "engine",
            "version": "1",
            "release": "engine-1",
            "unit": "sd-webui.service",
            "address": "127.0.0.1",
            "port": 7860,
            "health_path": "/",
            "readiness_path": "/",
            "progress_path": None,
            "activity_path": None,
            "profiles": ["gpu_full", "cpu"],
            "minimum_memory_mib": 1,
            "models_dir": "/m",
            "outputs_dir": "/o",
            "data_dir": "/d",
            "user": "sd",
            "start_timeout": 600,
            "state_dir": "/var/lib/sd-webui",
            "profile_file": "/etc/sd-webui/profile",
            "release_link": "/opt/sd-webui/current",
            "start_command": ["true"],
            "profile_command": [str(self.root / "bin/sd-profile")],
            "roll_back_command": [str(self.root / "bin/roll-back")],
            **values,
        }
        (self.root / "etc/sd-webui/engine.json").write_text(json.dumps(contract), encoding="utf-8")

    def ask(self, action: str, **values: Any) -> dict[str, Any]:
        """Leave a request, run the root part and return its answer."""
        self.request.write_text(json.dumps({"id": ID, "action": action, "reason": "why", **values}), encoding="utf-8")
        self.work()
        assert not os.path.lexists(self.request)
        answer = dict(json.loads(self.answers.read_text(encoding="utf-8")))
        assert answer["id"] == ID and str(answer["said"]).isprintable()
        return answer

    def work(self) -> subprocess.CompletedProcess[str]:
        """One run of the root part."""
        return subprocess.run(
            [sys.executable, "-BEs", str(LIB / "root.py")],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", "SD_WATCHDOG_ROOT": str(self.root)},
        )

    def told(self) -> list[str]:
        """What was run."""
        path = self.root / "told"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def maintain(self, boot_id: str, until: float | None) -> None:
        """A person works on the host."""
        self.book.parent.mkdir(parents=True, exist_ok=True)
        data = {"schema": 1, "boot_id": boot_id, "until_boottime": until}
        (self.book.parent / "maintenance.json").write_text(json.dumps(data), encoding="utf-8")

    def say(self, *lines: str) -> None:
        """The kernel says something."""
        with open(self.log, "a", encoding="utf-8") as file:
            file.writelines(f"Nov 22 10:00:00 closet kernel: {line}\n" for line in lines)

    def xids(self) -> list[tuple[int, int, str]]:
        """Number, Xid and verdict of what is published."""
        data = json.loads(self.gpu.read_text(encoding="utf-8"))
        return [(entry["number"], entry["xid"], entry["verdict"]) for entry in data["xids"]]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files below a folder."""
    return {
        str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
        for path in folder.rglob("*")
    }


# What is asked for


def test_a_profile(host: Host) -> None:
    assert host.ask("profile", profile="cpu", reason="3 faults; at last a hang")["ok"] is True
    wanted = ["sd-profile", "cpu", "--no-restart", "--by=watchdog", "--for=10080m", "--reason=3 faults; at last a hang"]
    assert host.told() == wanted


def test_a_profile_with_the_real_command(host: Host) -> None:
    release = host.root / "opt/sd-webui/releases/engine-1"
    release.mkdir(parents=True)
    recipe = {"id": "engine-1", "profiles": {"cpu": {}, "gpu_full": {}}}
    (release / "release.json").write_text(json.dumps(recipe), encoding="utf-8")
    (host.root / "opt/sd-webui/current").symlink_to(release)
    (host.root / "etc/sd-webui/profile").write_text("gpu_full\n", encoding="utf-8")
    host.command(
        "sd-profile", f'#!/bin/sh\nSD_WEBUI_ROOT={host.root} exec {sys.executable} -B {HOST}/sd_profile.py "$@"\n'
    )
    override = host.root / "var/lib/sd-webui/profile-override.json"
    assert host.ask("profile", profile="cpu", reason="--help") == {
        "id": ID,
        "ok": True,
        "said": "profile cpu is set",
        "data": {},
    }
    laid = json.loads(override.read_text(encoding="utf-8"))
    assert (laid["profile"], laid["reason"], laid["set_by"]) == ("cpu", "--help", "watchdog")
    assert abs(laid["expires"] - time.time() - 604800) < 60
    assert host.ask("clear_profile")["ok"] and not override.exists()
    # A person's own waits below it.
    override.write_text('{"profile": "gpu_full", "set_by": "sd-profile"}', encoding="utf-8")
    assert host.ask("profile", profile="cpu", reason="")["ok"]
    assert json.loads(override.read_text(encoding="utf-8"))["profile"] == "cpu"
    assert host.ask("clear_profile")["ok"]
    assert json.loads(override.read_text(encoding="utf-8")) == {"profile": "gpu_full", "set_by": "sd-profile"}
    # Nobody has restarted anything.
    assert host.told() == []


def test_a_persons_profile_is_not_cleared(host: Host) -> None:
    override = host.root / "var/lib/sd-webui/profile-override.json"
    assert host.ask("clear_profile")["said"] == "no profile is laid over the desired one"
    override.write_text('{"profile": "cpu", "set_by": "sd-profile"}', encoding="utf-8")
    answer = host.ask("clear_profile")
    assert not answer["ok"] and "was set by sd-profile, not by the watchdog" in answer["said"]
    assert host.told() == []
    override.write_text("damaged", encoding="utf-8")
    assert host.ask("clear_profile")["ok"] and host.told() == ["sd-profile", "clear", "--no-restart", "--by=watchdog"]


def test_roll_back(host: Host) -> None:
    host.command("roll-back", "#!/bin/sh\necho engine-1 is the current release again\n")
    assert host.ask("roll_back")["said"] == "engine-1 is the current release again"
    host.command("roll-back", "#!/bin/sh\necho error: there is no earlier release >&2\nexit 1\n")
    answer = host.ask("roll_back")
    assert (answer["ok"], answer["said"]) == (False, "error: there is no earlier release")
    host.engine(roll_back_command=[])
    assert "run site.yml" in host.ask("roll_back")["said"]


def test_the_owner_of_the_port(host: Host) -> None:
    head = "sl local rem st tx:rx tr:tm retr uid timeout inode\n"
    row = "0: 00000000:1EB4 00000000:0000 0A 0:0 0:0 0 33 0 77 1\n"
    (host.root / "proc/net/tcp").write_text(head + row, encoding="utf-8")
    (host.root / "proc/123/fd").mkdir(parents=True)
    (host.root / "proc/123/fd/5").symlink_to("socket:[77]")
    (host.root / "proc/123/comm").write_text("nginx\n", encoding="utf-8")
    (host.root / "proc/123/cgroup").write_text("0::/system.slice/nginx.service\n", encoding="utf-8")
    answer = host.ask("name_port_owner", port=7860)
    assert answer["ok"] and answer["data"] == {"owner": "nginx (process 123, nginx.service)"}
    assert answer["said"] == "port 7860 is taken by nginx (process 123, nginx.service)"
    assert "the web UI's (7860)" in host.ask("name_port_owner", port=22)["said"]
    # A release that proves itself may have another port.
    (host.root / "run/sd-webui-candidate").mkdir()
    (host.root / "run/sd-webui-candidate/engine.json").write_text('{"port": 8000}', encoding="utf-8")
    assert host.ask("name_port_owner", port=8000)["said"] == "nobody listens on port 8000"


def test_the_driver(host: Host) -> None:
    host.configure(driver_reload=False)
    assert "watchdog_driver_reload: true" in host.ask("reload_driver")["said"]
    host.configure()
    assert "is not loaded" in host.ask("reload_driver")["said"]
    assert "less than 10 minutes ago" in host.ask("reload_driver")["said"]
    (host.root / "proc/modules").write_text("nvidia 1 0 - Live 0x0\n", encoding="utf-8")
    (host.root / "proc/driver/nvidia/gpus/0000:03:00.0").mkdir(parents=True)
    host.boot("boot-1", 5700)
    assert host.ask("reload_driver")["said"] == "the driver was reloaded, and it has found the card"
    assert host.told().count("modprobe") == 2


def test_a_reboot(host: Host) -> None:
    answer = host.ask("reboot")
    assert not answer["ok"] and "watchdog_reboot: true" in answer["said"]
    host.configure(reboot=True)
    answer = host.ask("reboot", reason="the card is gone")
    assert (answer["ok"], answer["said"], answer["data"]) == (True, "the host restarts now", {"reboots_total": 1})
    assert host.told() == ["reboot"]
    assert json.loads(host.book.read_text(encoding="utf-8"))["reboots"][0]["reason"] == "the card is gone"
    # Not again, neither in this boot nor in the next one.
    assert not host.ask("reboot")["ok"]
    host.boot("boot-2", 900)
    assert "900 s ago" in host.ask("reboot")["said"] and host.told() == ["reboot"]
    host.boot("boot-2", 22000)
    assert host.ask("reboot")["data"] == {"reboots_total": 2}


def test_no_reboot_without_a_note_of_it(host: Host) -> None:
    host.configure(reboot=True)
    host.work()
    (host.book.parent / "root.json.part").mkdir()
    answer = host.ask("reboot")
    assert not answer["ok"] and "cannot be written" in answer["said"] and host.told() == []


def test_no_reboot_when_the_notes_are_lost(host: Host) -> None:
    host.configure(reboot=True)
    host.work()
    host.book.write_text("\x00\x00\x00", encoding="utf-8")
    answer = host.ask("reboot")
    assert not answer["ok"] and "was damaged" in answer["said"] and host.told() == []


@pytest.mark.parametrize(
    ("boot_id", "until", "over"), [("boot-1", None, False), ("boot-1", 9000.0, False), ("x", None, True)]
)
def test_maintenance_leaves_the_host_alone(host: Host, boot_id: str, until: float | None, over: bool) -> None:
    host.configure(reboot=True)
    host.maintain(boot_id, until)
    assert host.ask("reboot")["ok"] is over
    assert ("maintenance is on" in host.ask("reload_driver")["said"]) is not over


def test_damaged_settings_are_said_and_do_not_start_it_again(host: Host) -> None:
    host.request.write_text(json.dumps({"id": ID, "action": "reboot"}), encoding="utf-8")
    (host.root / "etc/sd-watchdog/config.json").write_text("{", encoding="utf-8")
    done = host.work()
    assert done.returncode == 1 and "run site.yml for this host again" in done.stdout and not done.stderr
    assert not host.request.exists()
    host.configure()
    (host.root / "etc/sd-webui/engine.json").write_text("{", encoding="utf-8")
    assert "run site.yml" in host.ask("profile", profile="cpu")["said"]


# What somebody could try who has broken into the web UI


@pytest.mark.parametrize(
    "values",
    [
        {"action": "profile", "profile": "gpu_lowvram"},
        {"action": "profile", "profile": "clear"},
        {"action": "profile", "profile": "--reason=x"},
        {"action": "profile", "profile": "cpu; reboot"},
        {"action": "sh", "command": "reboot"},
        {"action": "reboot", "reboot_command": ["sh"]},
        {"action": "profile", "profile": "cpu", "reason": "x\n\x1b[2J"},
        {"action": "profile", "profile": "cpu", "reason": "x" * 5000},
    ],
)
def test_what_is_not_allowed_is_answered_and_not_done(host: Host, values: dict[str, Any]) -> None:
    host.configure(reboot=True)
    answer = host.ask(**values)
    assert answer["ok"] is False and host.told() == []


def test_no_number_no_answer(host: Host) -> None:
    host.request.write_text('{"id": "../../x", "action": "reboot"}', encoding="utf-8")
    done = host.work()
    assert done.returncode == 0 and "refused" in done.stdout and not host.answers.exists()


def place_link(host: Host, secret: Path) -> None:
    host.request.symlink_to(secret)


def place_hard_link(host: Host, secret: Path) -> None:
    os.link(secret, host.request)


def place_pipe(host: Host, secret: Path) -> None:
    os.mkfifo(host.request)


def place_folder(host: Host, secret: Path) -> None:
    (host.request / "x").mkdir(parents=True)
    (host.request / "x/link").symlink_to(secret)


def place_giant(host: Host, secret: Path) -> None:
    with open(host.request, "wb") as file:
        file.truncate(2**40)


def place_deep(host: Host, secret: Path) -> None:
    host.request.write_text("[" * 60000, encoding="utf-8")


@pytest.mark.parametrize("place", [place_link, place_hard_link, place_pipe, place_folder, place_giant, place_deep])
def test_what_lies_there_leads_nowhere(host: Host, place: Any) -> None:
    secret = host.root / "etc/shadow"
    secret.write_text(json.dumps({"id": ID, "action": "profile", "profile": "cpu", "word": "hidden"}), encoding="utf-8")
    secret.chmod(0o600)
    host.work()
    before = state(host.root / "etc"), state(host.root / "var")
    place(host, secret)
    begun = time.monotonic()
    done = host.work()
    assert time.monotonic() - begun < 30 and done.returncode == 0 and not done.stderr
    assert "is no request" in done.stdout and "hidden" not in done.stdout
    assert (state(host.root / "etc"), state(host.root / "var")) == before
    assert not os.path.lexists(host.request) and not host.answers.exists() and host.told() == []
    # The next one is served.
    assert host.ask("profile", profile="cpu")["ok"]


def test_a_race_for_the_name(host: Host) -> None:
    """While requests come and go, their name leads to a secret every other moment."""
    secret = host.root / "etc/shadow"
    secret.write_text("hidden", encoding="utf-8")
    stop = threading.Event()

    def swap() -> None:
        other = host.run / "other"
        while not stop.is_set():
            for make in (
                lambda: other.symlink_to(secret),
                lambda: os.link(secret, other),
                lambda: os.mkfifo(other),
                lambda: other.write_text(json.dumps({"id": ID, "action": "profile", "profile": "cpu"})),
            ):
                # A name put in the place of another one of the same file stays where it was.
                other.unlink(missing_ok=True)
                make()
                os.replace(other, host.request)
                for name in os.listdir(host.run):
                    if name.startswith(".request"):
                        # The name that was just taken, too.
                        other.unlink(missing_ok=True)
                        make()
                        os.replace(other, host.run / name)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _run in range(12):
            done = host.work()
            assert done.returncode == 0 and not done.stderr and "hidden" not in done.stdout
    finally:
        stop.set()
        thread.join()
    assert secret.read_text(encoding="utf-8") == "hidden"
    assert set(host.told()) <= {"sd-profile", "cpu", "--no-restart", "--by=watchdog", "--for=10080m", "--reason="}


def test_nothing_is_written_in_the_users_folders(host: Host) -> None:
    """Whatever stands there under the names that the root part writes elsewhere."""
    victim = host.root / "etc/victim"
    victim.write_text("mine", encoding="utf-8")
    (host.root / "var/lib/sd-watchdog").mkdir()
    for name in ("answer.json", "answer.json.part", "gpu.json", "gpu.json.part", "root.json", "lock", "outbox"):
        (host.run / name).symlink_to(victim)
        (host.root / "var/lib/sd-watchdog" / name).symlink_to(victim)
    before = state(host.run), state(host.root / "var/lib/sd-watchdog")
    host.configure(gpu=True)
    assert host.ask("profile", profile="cpu")["ok"]
    assert (state(host.run), state(host.root / "var/lib/sd-watchdog")) == before
    assert victim.read_text(encoding="utf-8") == "mine"


def test_what_is_written_is_roots_and_for_everybody_to_read(host: Host) -> None:
    host.configure(gpu=True)
    host.ask("profile", profile="cpu")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (host.answers, host.gpu, host.book)}
    assert set(modes.values()) == {0o644}
    # Whoever can open a lock can hold it.
    assert (host.answers.parent / "lock").stat().st_mode & 0o777 == 0o600


def test_two_at_a_time_are_one(host: Host) -> None:
    host.work()
    with open(host.answers.parent / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        host.request.write_text(json.dumps({"id": ID, "action": "reboot"}), encoding="utf-8")
        assert "another one is at work" in host.work().stdout and host.request.exists()


# The kernel log


def test_xids_are_published(host: Host) -> None:
    host.configure(gpu=True)
    host.say("[ 4000.0] NVRM: Xid (PCI:0000:03:00): 79, before the watchdog came")
    host.work()
    assert host.xids() == []
    host.say(
        "[ 4990.5] NVRM: Xid (PCI:0000:03:00): 31, pid=99, name=python3, Ch 00000008",
        "[ 4991.0] NVRM: Xid (PCI:0000:03:00): 45, pid=99, name=python3, Ch 00000008",
        "[ 4992.0] usb 1-1: new device",
    )
    host.work()
    assert host.xids() == [(1, 31, "restart"), (2, 45, "ignore")]
    data = json.loads(host.gpu.read_text(encoding="utf-8"))
    assert data["boot_id"] == "boot-1" and data["counts"] == {"31": 1, "45": 1} and data["schema"] == 1
    assert data["xids"][0]["boottime"] == 4990.5 and data["xids"][0]["said"].startswith("Xid 31: page fault")
    # Read once; what did not change is not written again.
    before = host.gpu.stat().st_mtime_ns, host.book.stat().st_mtime_ns
    host.work()
    assert (host.gpu.stat().st_mtime_ns, host.book.stat().st_mtime_ns) == before


def test_numbers_and_counts_go_on_in_the_next_boot(host: Host) -> None:
    host.configure(gpu=True)
    host.work()
    host.say("[ 4990.0] NVRM: Xid (PCI:0000:03:00): 79, pid=99, GPU has fallen off the bus.")
    host.work()
    assert host.xids() == [(1, 79, "cpu_then_reboot")]
    host.boot("boot-2", 50)
    host.gpu.unlink()
    host.work()
    assert host.xids() == []
    host.say("[   45.0] NVRM: GPU 0000:03:00.0: GPU has fallen off the bus.")
    host.work()
    assert host.xids() == [(2, 79, "cpu_then_reboot")]
    assert json.loads(host.gpu.read_text(encoding="utf-8"))["counts"] == {"79": 2}


def test_an_error_of_another_program_is_not_the_web_uis(host: Host) -> None:
    host.configure(gpu=True)
    host.work()
    for pid, unit in ((98, "user@1000.service"), (99, "sd-webui.service")):
        (host.root / f"proc/{pid}").mkdir()
        (host.root / f"proc/{pid}/comm").write_text("blender\n", encoding="utf-8")
        (host.root / f"proc/{pid}/cgroup").write_text(f"0::/system.slice/{unit}\n", encoding="utf-8")
    host.say(
        "[ 4980.0] NVRM: Xid (PCI:0000:03:00): 31, pid=99, x",
        "[ 4995.0] NVRM: Xid (PCI:0000:03:00): 13, pid=98, x",
        "[ 4996.0] NVRM: Xid (PCI:0000:03:00): 62, pid=98, x",
    )
    host.work()
    assert host.xids() == [(1, 31, "restart"), (2, 13, "ignore"), (3, 62, "reset")]
    said = json.loads(host.gpu.read_text(encoding="utf-8"))["xids"][1]["said"]
    assert said.endswith("(of blender (process 98, user@1000.service), not of the web UI)")


def test_what_is_read_late_restarts_nothing(host: Host) -> None:
    host.configure(gpu=True)
    host.work()
    host.say("[ 1000.0] NVRM: Xid (PCI:0000:03:00): 31, x", "[ 1000.0] NVRM: Xid (PCI:0000:03:00): 79, x")
    host.work()
    assert host.xids() == [(1, 31, "ignore"), (2, 79, "cpu_then_reboot")]


def test_a_log_that_cannot_be_read_is_said_once(host: Host) -> None:
    host.configure(gpu=True, kernel_log=str(host.root))
    assert "is no file; correct watchdog_kernel_log" in host.work().stdout
    assert host.work().stdout == ""
    assert "is no file" in json.loads(host.gpu.read_text(encoding="utf-8"))["problem"]


def test_without_a_card_nobody_reads_the_log(host: Host) -> None:
    host.say("[ 1.0] NVRM: Xid (PCI:0000:03:00): 79, x")
    host.work()
    assert not host.gpu.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"xids": [1, {"xid": "x"}], "counts": [], "number": "1", "place": 5}'])
def test_a_damaged_book_stops_nothing(host: Host, content: str) -> None:
    host.configure(gpu=True)
    host.work()
    host.book.write_text(content, encoding="utf-8")
    assert host.work().stderr == ""
    host.say("[ 4999.0] NVRM: Xid (PCI:0000:03:00): 31, x")
    assert host.work().stderr == "" and [entry[1:] for entry in host.xids()] == [(31, "restart")]
