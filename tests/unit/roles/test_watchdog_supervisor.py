# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor as a real process in a made-up root: a real engine process, real signals, a real notify socket.

Its times are a tenth of a host's, but for those that a machine which stands still for a moment would exceed. What
systemd does around it is tested in molecule/watchdog.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ports
import pytest

LIB = Path(__file__).resolve().parents[3] / "roles/watchdog/files/lib"

# Does what files in its folder say: hang, crash, exit78, slow; and prints what is in the file `say`.
ENGINE = """
import http.server, os, pathlib, sys, threading, time
port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
print("loading", os.environ.get("SD_WEBUI_CANDIDATE", "-"), flush=True)
if (folder / "exit78").exists():
    print("error: the checkpoint is missing; put it there.", flush=True)
    sys.exit(78)
if (folder / "crash").exists():
    sys.exit(1)
if (folder / "slow").exists():
    end = time.time() + float((folder / "slow").read_text())
    while time.time() < end:
        pass
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        while (folder / "hang").exists():
            time.sleep(0.05)
        body = b"{}"
        if self.path == "/activity":
            body = (folder / "activity").read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
def talk():
    while True:
        with open(folder / "say") as lines:
            for line in lines:
                print(line, end="", flush=True)
        if (folder / "quit").exists():
            os._exit(0)
os.mkfifo(folder / "say") if not (folder / "say").exists() else None
threading.Thread(target=talk, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

TIMES = {
    "health_interval": 0.2,
    "health_timeout": 30,
    "stopped_seconds": 1,
    "start_stall_seconds": 60,
    "healthy_seconds": 60,
    "disk_low_mib": 0,
}


class Host:
    """A root with an engine, and one supervisor after the other."""

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
            "srv/sd/outputs",
            "srv/sd/models",
            "faults",
        ):
            (root / folder).mkdir(parents=True)
        (root / "engine.py").write_text(ENGINE, encoding="utf-8")
        (root / "etc/sd-webui/profile").write_text("cpu\n", encoding="utf-8")
        self.held = ports.hold()
        self.port = ports.number(self.held)
        self.configure()
        self.works(False)
        self.write(
            "etc/sd-webui/engine.json",
            {
                "schema": 1,
                "engine": "test",
                "version": "1",
                "release": "test-1",
                "unit": "sd-webui.service",
                "address": "127.0.0.1",
                "port": self.port,
                "health_path": "/health",
                "readiness_path": "/ready",
                "progress_path": None,
                "activity_path": "/activity",
                "profiles": ["cpu"],
                "minimum_memory_mib": 1,
                "models_dir": str(root / "srv/sd/models"),
                "outputs_dir": str(root / "srv/sd/outputs"),
                "data_dir": str(root / "srv/sd"),
                "user": "nobody",
                "start_timeout": 60,
                "state_dir": "/var/lib/sd-webui",
                "profile_file": "/etc/sd-webui/profile",
                "release_link": "/opt/sd-webui/current",
                "start_command": [sys.executable, "-BE", str(root / "engine.py"), str(self.port), str(root / "faults")],
            },
        )
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(root / "notify"))
        self.notices.settimeout(0.05)
        self.heard: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, path: str, content: Any) -> None:
        (self.root / path).write_text(json.dumps(content), encoding="utf-8")

    def read(self, path: str) -> dict[str, Any]:
        return dict(json.loads((self.root / path).read_text(encoding="utf-8")))

    def configure(self, **settings: Any) -> None:
        self.write("etc/sd-watchdog/config.json", {"schema": 1, "alerts": True, "host": "closet", **TIMES, **settings})

    def on_card(self) -> None:
        """The engine computes on a card."""
        self.write("etc/sd-webui/engine.json", {**self.read("etc/sd-webui/engine.json"), "profiles": ["gpu_full"]})
        (self.root / "etc/sd-webui/profile").write_text("gpu_full\n", encoding="utf-8")

    def fault(self, name: str, content: str = "") -> None:
        (self.root / "faults" / name).write_text(content, encoding="utf-8")

    def mend(self, name: str) -> None:
        (self.root / "faults" / name).unlink()

    def works(self, job: bool) -> None:
        """What the engine tells of its work."""
        said = {"job": job, "queue": int(job), "name": "a", "step": 1, "steps": 9, "job_number": 0}
        self.fault("activity", json.dumps({**said, "last_step_seconds": 0}))

    def say(self, line: str) -> None:
        """Have the engine print a line."""
        with (self.root / "faults/say").open("w", encoding="utf-8") as lines:
            lines.write(line + "\n")

    def start(self, *, until: str = "READY=1", **environment: str) -> None:
        """Start a supervisor, as systemd does, and wait for what it tells."""
        self.heard.clear()
        log = (self.root / "journal").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-BEs", str(LIB / "supervise.py")],
            env={
                "PATH": os.environ["PATH"],
                "SD_WATCHDOG_ROOT": str(self.root),
                "NOTIFY_SOCKET": str(self.root / "notify"),
                **environment,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        if until:
            self.hear(until)

    def hear(self, text: str, seconds: float = 60) -> None:
        """Until systemd has been told this."""
        deadline = time.monotonic() + seconds
        while not any(text in notice for notice in self.heard):
            assert time.monotonic() < deadline, (self.heard[-5:], self.output() if self.ended else "it lives")
            self.listen()

    def listen(self) -> None:
        """systemd reads all the time: a moment of that."""
        with contextlib.suppress(TimeoutError):
            self.heard.append(self.notices.recv(65536).decode())

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def end(self, seconds: float = 60) -> int:
        """How the supervisor ends by itself."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.status()
            self.listen()
        return int(self.process.returncode)

    def output(self) -> str:
        """What it has printed in this life."""
        return (self.root / "journal").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.end()

    def status(self) -> dict[str, Any]:
        return self.read("run/sd-watchdog/status.json")

    def until(self, **wanted: Any) -> dict[str, Any]:
        """Until its status says so."""
        deadline = time.monotonic() + 60
        while True:
            found = self.status()
            if all(found[key] == value for key, value in wanted.items()):
                return found
            assert time.monotonic() < deadline, found
            self.listen()

    @property
    def engine(self) -> int:
        return int(self.status()["engine_pid"])

    @property
    def state(self) -> dict[str, Any]:
        return self.read("var/lib/sd-watchdog/state.json")

    def events(self) -> list[dict[str, Any]]:
        folder = self.root / "var/lib/sd-watchdog/outbox"
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    process = made.process
    if process is not None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            os.killpg(made.engine, signal.SIGKILL)
        process.kill()
        process.wait()
    made.notices.close()
    made.held.close()


def is_gone(pid: int) -> bool:
    """Ended, whether or not somebody has taken note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def go(pids: list[int]) -> bool:
    """Do they end? What was killed needs the processor once more for that."""
    deadline = time.monotonic() + 60
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return all(map(is_gone, pids))


def test_ready_means_answers(host: Host) -> None:
    host.fault("slow", "1.5")
    begun = time.monotonic()
    host.start()
    assert time.monotonic() - begun >= 1.5
    # While it loads, systemd hears that it may take longer; it hears of its health as well.
    assert any(notice.startswith("EXTEND_TIMEOUT_USEC=") for notice in host.heard)
    host.hear("WATCHDOG=1")
    found = host.until(state="ready")
    assert found["profile"] == "cpu" and found["ready_after"] >= 1.5
    metrics = (host.root / "run/sd-watchdog/metrics.prom").read_text(encoding="utf-8")
    assert "sd_watchdog_up" in metrics


def test_a_disk_that_is_slow_is_no_loop_that_stands_still(host: Host) -> None:
    """Keeping the state may take longer than systemd's watchdog waits, so that is told before; then the loop is."""
    host.start()
    host.heard.clear()
    host.hear("EXTEND_TIMEOUT_USEC=120000000")
    host.heard.clear()
    host.hear("WATCHDOG=1")


def test_an_engine_that_writes_no_log_is_watched_as_well(host: Host) -> None:
    """It closes its output, as one with a log file of its own; systemd's words are not for it."""
    engine = host.root / "engine.py"
    quiet = "import os\nfolder = os.open('/dev/null', os.O_WRONLY)\nos.dup2(folder, 1)\nos.dup2(folder, 2)\n"
    engine.write_text(f"{quiet}assert 'NOTIFY_SOCKET' not in os.environ\n{ENGINE}", encoding="utf-8")
    host.start()
    for _beat in range(2):
        host.heard.clear()
        host.hear("WATCHDOG=1")


def test_stop_is_respected(host: Host) -> None:
    host.start()
    engine = host.engine
    assert host.stop() == 0
    assert is_gone(engine)
    assert host.state["automatic"] is False and host.state["restarts_total"] == {}
    assert host.status()["state"] == "stopped"
    assert host.events() == []


def test_a_killed_engine(host: Host) -> None:
    host.start()
    os.kill(host.engine, signal.SIGKILL)
    killed = time.monotonic()
    assert host.end() == 1
    assert time.monotonic() - killed < 30
    assert "killed: it ended by SIGKILL, sent by somebody else" in host.output()
    assert host.state["restarts_total"] == {"killed": 1} and host.state["failures"] == 1
    host.start()
    assert time.monotonic() - killed >= 1
    host.until(state="ready")
    assert [event["event"] for event in host.events()] == ["outage", "recovered"]
    assert host.events()[1]["seconds"] >= 1
    assert host.status()["restarts"][-1]["ready_after"] >= 1


def test_what_the_engine_has_started_goes_with_it(host: Host) -> None:
    """A child that holds the port or the log open."""
    engine = host.root / "engine.py"
    child = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    engine.write_text(child + ENGINE, encoding="utf-8")
    host.start()
    children = Path(f"/proc/{host.engine}/task/{host.engine}/children").read_text(encoding="ascii").split()
    assert host.stop() == 0
    assert children and go([int(pid) for pid in children])


def test_a_stopped_engine(host: Host) -> None:
    host.start()
    engine = host.engine
    os.kill(engine, signal.SIGSTOP)
    assert host.end() == 1
    assert host.state["reason"] == "stopped" and is_gone(engine)


def test_an_engine_that_hangs_and_does_nothing(host: Host) -> None:
    host.configure(health_timeout=0.5)
    host.start()
    engine = host.engine
    host.fault("hang")
    assert host.end() == 1
    assert host.state["reason"] == "hung" and is_gone(engine)
    assert "health requests in a row had no answer" in host.state["said"]
    assert any(line.startswith("process state ") for line in host.state["history"][-1]["evidence"])


def test_a_hang_that_ends_by_itself(host: Host) -> None:
    host.configure(health_timeout=0.5, health_failures=60)
    host.start()
    host.fault("hang")
    host.until(state="unhealthy")
    host.mend("hang")
    host.until(state="ready")
    assert not host.ended and host.state["restarts_total"] == {}


def test_crashes_at_the_start(host: Host) -> None:
    """It ends at once, so that systemctl says so; the next starts wait one second, then two."""
    host.fault("crash")
    ends = []
    for _start in range(3):
        host.start(until="")
        assert host.end() == 1
        # What it has written down: on a busy machine the end is noticed later.
        ends.append(host.state["ended"])
    assert not any("READY" in notice for notice in host.heard)
    assert host.state["failures"] == 3 and host.state["failed_starts"] == 3
    assert ends[1] - ends[0] >= 1 and ends[2] - ends[1] >= 2


def test_a_restart_by_hand_ends_the_waiting(host: Host) -> None:
    host.fault("crash")
    for _start in range(3):
        host.start(until="")
        assert host.end() == 1
    # As after many more: it would wait for five minutes.
    host.write("var/lib/sd-watchdog/state.json", {**host.state, "failures": 12})
    host.start(until="EXTEND")
    host.until(state="waiting", failures=12)
    assert host.stop() == 0
    host.mend("crash")
    begun = time.monotonic()
    host.start()
    assert time.monotonic() - begun < 30
    assert host.state["restarts_total"] == {"exited": 3}


def test_settings_that_cannot_work(host: Host) -> None:
    host.fault("exit78")
    host.start(until="")
    assert host.end() == 1
    said = "it cannot start with these settings: error: the checkpoint is missing; put it there."
    assert host.state["reason"] == "config" and host.state["said"] == said


def test_a_candidate_is_nobodys_fault(host: Host) -> None:
    """The switch of role sd_webui wants its answer at once, and takes the release back by itself."""
    host.fault("crash")
    state = host.root / "var/lib/sd-watchdog/state.json"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    ended = time.clock_gettime(time.CLOCK_BOOTTIME)
    # With the faults of the release before, for which another start would wait for five minutes; and without.
    for before in ({"boot_id": boot_id, "automatic": True, "failures": 12, "ended": ended}, None):
        if before is not None:
            host.write("var/lib/sd-watchdog/state.json", before)
        host.start(until="", SD_WEBUI_CANDIDATE="yes")
        begun = time.monotonic()
        assert host.end() == 1
        assert time.monotonic() - begun < 30
        if before is not None:
            assert host.state == before
            state.unlink()
    assert not state.exists()
    assert host.events() == []
    host.mend("crash")
    host.start(SD_WEBUI_CANDIDATE="yes")
    # It has proven itself: from here on it is like any other.
    os.kill(host.engine, signal.SIGKILL)
    assert host.end() == 1
    assert host.state["restarts_total"] == {"killed": 1}


def test_a_candidate_ends_what_was_before(host: Host) -> None:
    """An outage of the release that it replaces, or a state of another boot."""
    state = {"boot_id": "another", "running": "1", "outage": 5.0, "failed_starts": 3, "failures": 4, "automatic": True}
    host.write("var/lib/sd-watchdog/state.json", state)
    host.start(SD_WEBUI_CANDIDATE="yes")
    host.until(state="ready")
    found = host.state
    assert (found["outage"], found["failed_starts"], found["failures"], found["automatic"]) == (None, 0, 0, False)
    assert found["boot_id"] != "another"


def test_a_candidate_has_its_own_description(host: Host) -> None:
    """An update may bring another engine, with other paths."""
    candidate = {**host.read("etc/sd-webui/engine.json"), "release": "test-2", "readiness_path": "/other"}
    host.write("candidate.json", candidate)
    host.start(SD_WEBUI_CANDIDATE="yes", SD_WEBUI_ENGINE_FILE=str(host.root / "candidate.json"))
    assert host.status()["release"] == "test-2"


def test_a_cuda_error_is_worth_a_new_process(host: Host) -> None:
    """But not while a picture is being made."""
    host.on_card()
    host.works(True)
    host.start()
    host.until(state="busy")
    host.say("RuntimeError: CUDA error: an illegal memory access was encountered")
    with pytest.raises(AssertionError):
        host.end(2.5)
    host.works(False)
    assert host.end() == 1
    assert host.state["reason"] == "cuda_error"
    assert "CUDA error: an illegal memory access was encountered" in host.output()


def test_words_about_a_card_that_is_not_used(host: Host) -> None:
    """After the last rung an engine on the processor still looks for the card, and says each time that it is lost."""
    engine = host.root / "engine.py"
    noise = "import sys\nprint('RuntimeError: No CUDA GPUs are available', flush=True)\n"
    engine.write_text(noise + ENGINE, encoding="utf-8")
    host.start()
    host.say("CUDA error: unknown error")
    with pytest.raises(AssertionError):
        host.end(2)


def test_an_engine_that_is_asked_to_end_by_its_page(host: Host) -> None:
    """Every deliberate exit of A1111 is 0; so soon after the start it is one like any other."""
    host.start()
    host.fault("quit")
    host.say("bye")
    assert host.end() == 1
    assert host.state["reason"] == "exited"


def test_a_killed_supervisor_is_found_out(host: Host) -> None:
    host.start()
    assert host.process is not None
    engine = host.engine
    # It sees nothing any more.
    host.process.send_signal(signal.SIGSTOP)
    os.killpg(engine, signal.SIGKILL)
    host.process.kill()
    host.process.wait()
    assert go([engine])
    host.start()
    host.until(state="ready")
    assert host.state["restarts_total"] == {"supervisor": 1}
    assert "supervisor" in host.events()[0]["key"]


def xid(host: Host, number: int, boottime: float, verdict: str = "restart") -> None:
    """What the root part tells of the card."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    entry = {"number": number, "xid": 31, "boottime": boottime, "verdict": verdict, "said": "Xid 31: a page fault"}
    found = {"schema": 1, "boot_id": boot_id, "xids": [entry], "counts": {"31": number}}
    part = host.root / "run/sd-watchdog-root/gpu.json.part"
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(part.with_name("gpu.json"))


def test_an_xid_is_of_the_engine_that_ran_then(host: Host) -> None:
    """The kernel log is read each 15 s: by then the next engine runs, which has done nothing."""
    host.on_card()
    crashed = time.clock_gettime(time.CLOCK_BOOTTIME)
    host.start()
    xid(host, 1, crashed)
    with pytest.raises(AssertionError):
        host.end(2)
    xid(host, 2, time.clock_gettime(time.CLOCK_BOOTTIME))
    assert host.end() == 1
    assert host.state["reason"] == "cuda_error" and host.state["xid_number"] == 2


def test_maintenance(host: Host) -> None:
    """Hands off: what ends stays ended until it is over, and is no fault."""
    host.start()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    path = "var/lib/sd-watchdog-root/maintenance.json"
    host.write(path, {"schema": 1, "until_boottime": None, "boot_id": boot_id, "reason": "a new fan"})
    host.until(state="maintenance")
    os.kill(host.engine, signal.SIGKILL)
    with pytest.raises(AssertionError):
        host.end(2)
    (host.root / path).unlink()
    assert host.end() == 0
    assert host.state["failures"] == 0 and host.events() == []


@pytest.mark.parametrize("environment", [{}, {"SD_WEBUI_CANDIDATE": "yes"}])
def test_a_start_that_fails_in_maintenance(host: Host, environment: dict[str, str]) -> None:
    """Whoever has started it, by hand or by a playbook, waits for what systemctl says."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    path = "var/lib/sd-watchdog-root/maintenance.json"
    host.write(path, {"schema": 1, "until_boottime": None, "boot_id": boot_id, "reason": "a new fan"})
    host.fault("crash")
    host.start(until="", **environment)
    assert host.end() == 1


def test_maintenance_of_another_boot_is_over(host: Host) -> None:
    host.write("var/lib/sd-watchdog-root/maintenance.json", {"schema": 1, "until_boottime": None, "boot_id": "another"})
    host.start()
    host.until(state="ready")


def test_a_port_that_somebody_else_has(host: Host) -> None:
    """No loop: the start waits, says who it is, and goes on when the port is free."""
    host.start()
    os.kill(host.engine, signal.SIGKILL)
    assert host.end() == 1
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", host.port))
        stranger.listen()
        host.start(until="")
        deadline = time.monotonic() + 60
        while not (host.root / "run/sd-watchdog/request.json").exists():
            assert time.monotonic() < deadline
            host.listen()
        asked = host.read("run/sd-watchdog/request.json")
        assert (asked["action"], asked["port"]) == ("name_port_owner", host.port)
        data = {"owner": "nginx (process 123, nginx.service)"}
        host.write("run/sd-watchdog-root/answer.json", {"id": asked["id"], "ok": True, "said": "", "data": data})
        said = f"port {host.port} is taken by another program: nginx (process 123, nginx.service)"
        host.until(state="waiting", said=said)
    host.hear("READY=1")
    assert host.state["restarts_total"] == {"killed": 1}


def test_a_step_up_waits_for_a_picture_that_was_begun_meanwhile(host: Host) -> None:
    """The root part needs a moment for the profile, in which somebody may ask for a picture."""
    host.configure(step_up_seconds=0)
    host.write("etc/sd-webui/engine.json", {**host.read("etc/sd-webui/engine.json"), "profiles": ["gpu_full", "cpu"]})
    (host.root / "etc/sd-webui/profile").write_text("gpu_full\n", encoding="utf-8")
    override = {"profile": "cpu", "expires": None, "set_by": "watchdog", "reason": ""}
    host.write("var/lib/sd-webui/profile-override.json", override)
    host.start(until="goes back to profile gpu_full")
    host.works(True)
    host.until(state="busy")
    asked = host.read("run/sd-watchdog/request.json")
    host.write("run/sd-watchdog-root/answer.json", {"id": asked["id"], "ok": True, "said": "done", "data": {}})
    with pytest.raises(AssertionError):
        host.end(2.5)
    host.works(False)
    assert host.end() == 0
    assert host.state["reason"] == "step_up"


def test_a_damaged_state_does_not_keep_it_from_starting(host: Host) -> None:
    (host.root / "var/lib/sd-watchdog/state.json").write_text("{", encoding="utf-8")
    host.start()
    host.until(state="ready")


@pytest.mark.parametrize("path", ["etc/sd-watchdog/config.json", "etc/sd-webui/engine.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"port": "x", "health_interval": []}'])
def test_a_damaged_file_of_the_role(host: Host, path: str, content: str) -> None:
    (host.root / path).write_text(content, encoding="utf-8")
    host.start(until="")
    deadline = time.monotonic() + 60
    while not host.output().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # It waits: systemd would start it each second.
    time.sleep(0.3)
    assert not host.ended and host.stop() == 78
    said = host.output()
    assert said.startswith("error: ") and said.count("\n") == 1 and "run site.yml for this host again" in said


def test_a_journal_that_is_gone(host: Host) -> None:
    """The engine runs on, and so does who watches it."""
    os.mkfifo(host.root / "journal")
    reader = os.open(host.root / "journal", os.O_RDONLY | os.O_NONBLOCK)
    host.start()
    os.close(reader)
    (host.root / "journal").unlink()
    (host.root / "journal").touch()
    host.configure(host="attic")
    os.utime(host.root / "etc/sd-watchdog/config.json", (1, 1))
    host.hear("has read its settings again")
    host.say("a line that nobody reads")
    assert not host.ended and host.stop() == 0


def test_settings_are_read_again(host: Host) -> None:
    host.start()
    host.configure(host="attic")
    os.utime(host.root / "etc/sd-watchdog/config.json", (1, 1))
    host.heard.clear()
    host.hear("has read its settings again")
    # Each ten seconds, should systemd have missed it.
    host.hear("READY=1")


def test_a_full_pipe_of_lines(host: Host) -> None:
    """Bars that redraw themselves, a hundred thousand of them: all pass, and nothing stops."""
    engine = host.root / "engine.py"
    noise = (
        "import sys\nfor number in range(100000):\n    sys.stderr.write(f'\\r {number}%|####|')\nsys.stderr.flush()\n"
    )
    engine.write_text(noise + ENGINE, encoding="utf-8")
    host.start()
    # It answers as soon as the last of them are in the pipe.
    deadline = time.monotonic() + 60
    while "99999%|####|" not in host.output():
        assert time.monotonic() < deadline
        host.listen()
    assert len(host.output()) > 1_000_000
