# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command sd-watchdog, run as a process in a made-up root, with a systemctl that says what it is told to."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).resolve().parents[3] / "roles/watchdog/files"
COMMAND = FILES / "lib/command.py"

ENGINE = {
    "schema": 1,
    "engine": "automatic1111",
    "version": "1.10.1",
    "release": "automatic1111-1.10.1",
    "unit": "sd-webui.service",
    "address": "127.0.0.1",
    "port": 7860,
    "health_path": "/internal/ping",
    "readiness_path": "/internal/ping",
    "progress_path": None,
    "activity_path": None,
    "profiles": ["cpu", "gpu_full"],
    "minimum_memory_mib": 4096,
    "models_dir": "/srv/sd/models",
    "outputs_dir": "/srv/sd/outputs",
    "data_dir": "/srv/sd",
    "user": "sd",
    "start_timeout": 600,
    "state_dir": "/var/lib/sd-webui",
    "profile_file": "/etc/sd-webui/profile",
    "release_link": "/opt/sd-webui/current",
    "start_command": ["/usr/bin/python3"],
}


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Host:
    """A made-up root with a watchdog in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (
            "etc/sd-watchdog",
            "etc/sd-webui",
            "run/sd-watchdog",
            "run/sd-watchdog-root",
            "var/lib/sd-watchdog/outbox",
            "var/lib/sd-watchdog-root",
            "var/lib/sd-webui",
            "bin",
        ):
            (root / folder).mkdir(parents=True)
        self.write("etc/sd-watchdog/config.json", {"schema": 1})
        self.write("etc/sd-webui/engine.json", ENGINE)
        self.unit_is("inactive")

    def write(self, path: str, content: dict[str, Any]) -> None:
        (self.root / path).write_text(json.dumps(content), encoding="utf-8")

    def unit_is(self, state: str, load: str = "loaded") -> None:
        """What systemctl says from now on."""
        fake = self.root / "bin/systemctl"
        fake.write_text(
            f'#!/bin/sh\necho "$*" > {self.root}/asked\necho LoadState={load}\necho ActiveState={state}\n',
            encoding="utf-8",
        )
        fake.chmod(0o755)

    def status(self, **facts: Any) -> None:
        """As the supervisor writes it; this test stands in for its process."""
        content = {
            "schema": 1,
            "host": "closet",
            "release": "automatic1111-1.10.1",
            "state": "ready",
            # Told in minutes: a few seconds more or less are none.
            "since": time.time() - 3 * 3600,
            "said": "it answers",
            "profile": "gpu_full",
            "desired_profile": "gpu_full",
            "supervisor_pid": os.getpid(),
            "engine_pid": os.getpid(),
            "uptime": 60.0,
            "ready_after": 12.0,
            "restarts": [],
            "restarts_total": {"killed": 3},
            "written_boottime": boottime(),
            **facts,
        }
        self.write("run/sd-watchdog/status.json", content)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-BEs", str(COMMAND), *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "SD_WATCHDOG_ROOT": str(self.root),
                "LC_ALL": "C.UTF-8",
                "COLUMNS": "80",
                **environment,
            },
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("words", [[], ["status"]])
def test_status_of_a_server_that_is_well(host: Host, words: list[str]) -> None:
    host.status()
    done = host.run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The web UI on closet is ready, for 3 h.\n")
    # systemd is asked only when the supervisor says nothing.
    assert not (host.root / "asked").exists()


@pytest.mark.parametrize(
    "facts", [{"written_boottime": boottime() - 61}, {"written_boottime": boottime() + 9e6}, {"written_boottime": None}]
)
def test_a_status_that_is_not_of_now_is_not_believed(host: Host, facts: dict[str, Any]) -> None:
    host.status(**facts)
    host.unit_is("active")
    done = host.run("status")
    assert done.returncode == 1
    assert done.stdout.startswith("The watchdog ")
    assert "is ready" not in done.stdout
    assert "--property=ActiveState -- sd-webui.service" in (host.root / "asked").read_text(encoding="utf-8")


@pytest.mark.parametrize("pid", [-1, 0, 1 << 40, "1", None])
def test_nor_that_of_a_dead_supervisor(host: Host, pid: Any) -> None:
    host.status(supervisor_pid=pid)
    assert host.run("status").returncode == 3
    ended = subprocess.Popen(["true"])
    ended.wait()
    host.status(supervisor_pid=ended.pid)
    done = host.run("status")
    assert (done.returncode, done.stdout.partition("\n")[0]) == (3, "The web UI on closet has been stopped.")


def test_no_watchdog_and_no_systemd(host: Host) -> None:
    (host.root / "etc/sd-watchdog/config.json").unlink()
    (host.root / "bin/systemctl").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    done = host.run("status")
    assert (done.returncode, done.stderr) == (1, "")
    assert "there is no\n" in done.stdout or "there is no " in done.stdout
    host.unit_is("inactive", load="not-found")
    assert host.run("status").stdout.startswith("There is no sd-webui.service on this host.")


def test_status_for_programs(host: Host) -> None:
    host.status(state="waiting", engine_pid=None)
    done = host.run("status", "--json")
    data = json.loads(done.stdout)
    assert (done.returncode, data["exit_status"], data["alive"], data["state"]) == (1, 1, True, "waiting")
    (host.root / "run/sd-watchdog/status.json").unlink()
    done = host.run("status", "--json")
    data = json.loads(done.stdout)
    assert (done.returncode, data) == (
        3,
        {"alive": False, "unit_state": "inactive", "maintenance": None, "exit_status": 3},
    )


def test_why_it_is_down_and_since_when(host: Host) -> None:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    host.status(state="starting", said="it has been loading for 20 s", ready_after=None)
    host.write("var/lib/sd-watchdog/state.json", {"boot_id": boot_id, "outage": boottime() - 12 * 60})
    assert "is starting; the last answer is 12 min ago.\n" in host.run("status").stdout
    host.write("var/lib/sd-watchdog/state.json", {"boot_id": "another", "outage": boottime() - 12 * 60})
    assert "is starting, for 3 h.\n" in host.run("status").stdout


def test_the_override_says_why(host: Host) -> None:
    host.status(profile="cpu", rung="cpu")
    override = {"schema": 1, "profile": "cpu", "reason": "xid: fell off the bus", "expires": None, "set_by": "watchdog"}
    host.write("var/lib/sd-webui/profile-override.json", override)
    assert "cpu instead of gpu_full, set by the watchdog: xid: fell off" in host.run("status").stdout


@pytest.mark.parametrize("kind", ["link", "pipe", "giant", "folder", "binary", "list", "deep", "hard link"])
def test_nothing_that_the_web_ui_puts_there_is_shown_or_waited_for(host: Host, kind: str) -> None:
    secret = host.root / "secret"
    secret.write_text(json.dumps({"said": "the secret", "host": "the secret"}), encoding="utf-8")
    status = host.root / "run/sd-watchdog/status.json"
    if kind == "link":
        status.symlink_to(secret)
    elif kind == "hard link":
        status.hardlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(status)
    elif kind == "folder":
        status.mkdir()
    else:
        content = {
            "giant": b'{"a": "' + b"x" * 70_000 + b'"}',
            "binary": b"\xff\x00",
            "list": b"[1]",
            "deep": b"[" * 60_000,
        }
        status.write_bytes(content[kind])
    for words in (["status"], ["status", "--json"], ["metrics"], ["history"]):
        done = host.run(*words)
        assert done.returncode in (1, 3)
        assert "secret" not in done.stdout.replace(str(host.root), "") and "Traceback" not in done.stderr
    assert os.path.lexists(status)


def test_colours_and_titles_of_others_reach_no_terminal(host: Host) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07"
    restart = {"wall": time.time(), "reason": evil, "said": evil, "evidence": [evil], "ready_after": None}
    host.status(said=evil, host=evil, state="waiting", restarts=[restart], problems=[evil], gpu={"said": evil})
    for words in (["status"], ["status", "--json"], ["history"], ["metrics"]):
        assert "\x1b" not in host.run(*words).stdout


def test_a_terminal_without_the_letters(host: Host) -> None:
    host.status(gpu={"temperature": 71.0})
    done = host.run(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "71 " in done.stdout


def test_a_reader_that_has_seen_enough(host: Host) -> None:
    restart = {"wall": time.time(), "reason": "killed", "said": "x", "evidence": ["y" * 300] * 50}
    host.write("var/lib/sd-watchdog/state.json", {"history": [restart] * 50})
    with subprocess.Popen(
        [sys.executable, "-BEs", str(COMMAND), "history"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "SD_WATCHDOG_ROOT": str(host.root)},
    ) as command:
        if command.stdout is None or command.stderr is None:
            pytest.fail("no pipes")
        command.stdout.read(10)
        command.stdout.close()
        assert command.stderr.read() == b""
        assert command.wait() == 0


def test_history_knows_more_than_the_status(host: Host) -> None:
    restarts = [
        {"wall": 1e9 + number, "reason": f"r{number}", "said": "x" * 300, "evidence": ["y" * 300] * 7}
        for number in range(50)
    ]
    # More than a file of another kind may hold.
    host.write("var/lib/sd-watchdog/state.json", {"history": restarts})
    assert (host.root / "var/lib/sd-watchdog/state.json").stat().st_size > 65536
    done = host.run("history")
    assert done.returncode == 0
    assert done.stdout.index("r49") < done.stdout.index("r0:")
    (host.root / "var/lib/sd-watchdog/state.json").unlink()
    assert host.run("history").returncode == 1
    host.status(restarts=restarts[:1])
    assert "r0: xxx" in host.run("history").stdout


def test_metrics(host: Host) -> None:
    host.status(probe_seconds=0.02)
    done = host.run("metrics")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nsd_watchdog_ready 1\n" in done.stdout
    assert '\nsd_watchdog_restarts_total{reason="killed"} 3\n' in done.stdout
    # A dead supervisor's last words would say that all is well.
    host.status(probe_seconds=0.02, written_boottime=boottime() - 100)
    text = host.run("metrics").stdout
    assert "\nsd_watchdog_ready 0\n" in text and "\nsd_watchdog_up 0\n" in text and "probe" not in text
    assert '\nsd_watchdog_restarts_total{reason="killed"} 3\n' in text


def maintenance_file(host: Host) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(
        (host.root / "var/lib/sd-watchdog-root/maintenance.json").read_text(encoding="utf-8")
    )
    return data


def test_maintenance(host: Host) -> None:
    host.status()
    assert host.run("maintenance", "status").stdout == "There is no maintenance.\n"
    done = host.run("maintenance", "on", "--for", "90m", "--reason", "new\x1b card", SUDO_USER="anna")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The watchdog restarts nothing for 1 h 30 min more, until ")
    assert "asked for by anna: new card.\n" in done.stdout
    data = maintenance_file(host)
    assert data["until_boottime"] == pytest.approx(boottime() + 5400, abs=30)
    assert (data["schema"], data["by"], data["reason"]) == (1, "anna", "new card")
    assert data["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    assert (host.root / "var/lib/sd-watchdog-root/maintenance.json").stat().st_mode & 0o777 == 0o644
    # Everybody may know of it.
    done = host.run("maintenance", "status")
    assert "restarts nothing for 1 h 30 min more" in done.stdout
    assert "Watchdog   restarts nothing" in host.run("status").stdout
    assert host.run("maintenance", "off").stdout == "Maintenance is over: the watchdog acts again.\n"
    assert host.run("maintenance", "off").stdout == "There was no maintenance.\n"
    assert host.run("maintenance", "status").stdout == "There is no maintenance.\n"


def test_maintenance_is_two_hours_unless_said(host: Host) -> None:
    assert host.run("maintenance", "on").returncode == 0
    assert maintenance_file(host)["until_boottime"] == pytest.approx(boottime() + 7200, abs=30)
    assert host.run("maintenance", "on", "--no-end").returncode == 0
    assert maintenance_file(host)["until_boottime"] is None
    assert "restarts nothing until it is switched off" in host.run("maintenance", "status").stdout


@pytest.mark.parametrize("change", [{"boot_id": "another"}, {"until_boottime": 1.0}])
def test_maintenance_ends_with_its_time_and_with_the_boot(host: Host, change: dict[str, Any]) -> None:
    host.run("maintenance", "on")
    host.write("var/lib/sd-watchdog-root/maintenance.json", {**maintenance_file(host), **change})
    assert host.run("maintenance", "status").stdout == "There is no maintenance.\n"


@pytest.mark.parametrize("length", ["2", "2 h", "0m", "31d", "-1h", "99999999d"])
def test_durations(host: Host, length: str) -> None:
    done = host.run("maintenance", "on", f"--for={length}")
    assert done.returncode == 2
    assert "write 90m, 2h or 1d" in done.stderr


@pytest.mark.parametrize("words", [["maintenance", "on"], ["maintenance", "off"], ["test-alert"]])
def test_what_only_root_may_do(host: Host, words: list[str]) -> None:
    # The files of a test may be where another user cannot even look.
    code = "import os, runpy, sys; os.geteuid = lambda: 1000; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import sys; sys.path.insert(0, {str(COMMAND.parent)!r}); sys.argv.pop(0); {code}"
    done = subprocess.run(
        [sys.executable, "-BEs", "-c", code, str(COMMAND), *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "SD_WATCHDOG_ROOT": str(host.root)},
    )
    assert done.returncode == 1
    assert done.stderr == f"error: only root may do that; run: sudo sd-watchdog {' '.join(words)}.\n"


def test_the_watchdog_is_not_set_up(host: Host) -> None:
    (host.root / "var/lib/sd-watchdog-root").rmdir()
    done = host.run("maintenance", "on")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("run site.yml for this host again.\n")
    done = host.run("test-alert")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("again.\n")


def test_an_alert_that_nobody_would_get(host: Host) -> None:
    host.write("etc/sd-watchdog/alerts.json", {"schema": 1, "ntfy": {"url": ""}, "mail": {"to": []}})
    done = host.run("test-alert")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no alerts are set up; set watchdog_ntfy_url")
    host.write("etc/sd-watchdog/alerts.json", {"ntfy": {"url": "http://127.0.0.1:9/topic", "token": "tk_secret"}})
    done = host.run("test-alert")
    assert (done.returncode, done.stderr) == (
        1,
        "error: ntfy: 127.0.0.1:9 cannot be reached (Connection refused).\n",
    )


def test_what_is_installed_as_the_command() -> None:
    script = FILES / "sd-watchdog"
    assert script.stat().st_mode & 0o111
    assert "/usr/local/lib/sd-watchdog/command.py" in script.read_text(encoding="utf-8")


def test_the_terminals_width_is_used(host: Host) -> None:
    host.status(gpu={"said": "word " * 40})
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-BEs", str(COMMAND)],
        stdout=terminal,
        env={"PATH": os.environ["PATH"], "SD_WATCHDOG_ROOT": str(host.root), "COLUMNS": "100", "LC_ALL": "C.UTF-8"},
    ) as command:
        assert command.wait(timeout=60) == 0
        text = os.read(main, 65536).decode()
    os.close(main)
    os.close(terminal)
    assert 90 < max(map(len, text.splitlines())) <= 100
