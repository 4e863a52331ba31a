# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that role sd_webui puts on a host, run as processes in a made-up root with a real engine process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ports
import pytest
from webui import serve

HOST = Path(__file__).resolve().parents[3] / "roles/sd_webui/files/host"

# An engine that says how it was started and then serves its own folder.
ENGINE = """#!/bin/sh
printf '%s\\n' "$@" "VALUE=$VALUE"
[ -z "$SERVE" ] || exec {python} -m http.server --bind 127.0.0.1 "$SERVE"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with settings, a release of two profiles and a checkpoint."""
    release = tmp_path / "opt/sd-webui/releases/engine-1"
    (release / "bin").mkdir(parents=True)
    (release / "bin/engine").write_text(ENGINE.format(python=sys.executable), encoding="utf-8")
    (release / "bin/engine").chmod(0o755)
    (tmp_path / "opt/sd-webui/current").symlink_to(release)
    recipe: dict[str, Any] = {
        "schema": 1,
        "id": "engine-1",
        "command": ["{release}/bin/engine", "--model", "{checkpoint}", "--port", "{port}"],
        "profiles": {
            "cpu": {"arguments": ["--slow"], "environment": {"VALUE": "from the profile"}},
            "gpu_full": {"arguments": ["--fast"], "environment": {}},
        },
        "paths": {"readiness": "/", "health": "/", "progress": None, "txt2img": "/"},
    }
    (release / "release.json").write_text(json.dumps(recipe), encoding="utf-8")
    config = tmp_path / "etc/sd-webui"
    config.mkdir(parents=True)
    (config / "profile").write_text("cpu\n", encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    settings = {
        "schema": 1,
        "address": "127.0.0.1",
        "port": 7860,
        "models_dir": "/models",
        "outputs_dir": "/outputs",
        "checkpoint": str(tmp_path / "model.safetensors"),
        "extra_args": ["--extra {not a placeholder}"],
        "environment": {},
    }
    (config / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (config / "webui_settings.json").write_text(json.dumps({"schema": 1, "files": {}}), encoding="utf-8")
    (tmp_path / "var/lib/sd-webui").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A TCP port that nobody listens on."""
    with ports.hold() as held:
        yield ports.number(held)


def run(root: Path, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the commands in the made-up root."""
    return subprocess.run(
        [sys.executable, "-BEs", str(HOST / f"{command}.py"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "SD_WEBUI_ROOT": str(root), **environment},
    )


def override(root: Path, **data: Any) -> None:
    """Lay an override over the desired profile."""
    (root / "var/lib/sd-webui/profile-override.json").write_text(json.dumps(data), encoding="utf-8")


def edit_settings(root: Path, **data: Any) -> None:
    """Change this host's settings."""
    path = root / "etc/sd-webui/settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **data}), encoding="utf-8")


def test_launch_fills_the_command_and_adds_profile_and_extra_arguments(root: Path) -> None:
    lines = run(root, "launch").stdout.splitlines()
    assert lines[0] == "starting engine-1 with profile cpu"
    model = str(root / "model.safetensors")
    assert lines[1:7] == ["--model", model, "--port", "7860", "--slow", "--extra {not a placeholder}"]
    assert lines[7] == "VALUE=from the profile"


def edit_release(root: Path, **data: Any) -> None:
    """Change the recipe of the current release."""
    path = root / "opt/sd-webui/current/release.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **data}), encoding="utf-8")


def test_launch_fills_every_placeholder(root: Path) -> None:
    names = (
        "release",
        "libexec",
        "checkpoint",
        "models_dir",
        "outputs_dir",
        "data_dir",
        "address",
        "port",
        "credentials",
    )
    edit_settings(root, data_dir="/srv/sd")
    edit_release(root, command=["{release}/bin/engine", *(f"{name}={{{name}}}" for name in names)])
    lines = run(root, "launch", CREDENTIALS_DIRECTORY="/run/credentials/x").stdout.splitlines()
    assert lines[1:10] == [
        f"release={root}/opt/sd-webui/releases/engine-1",
        f"libexec={HOST}",
        f"checkpoint={root}/model.safetensors",
        "models_dir=/models",
        "outputs_dir=/outputs",
        "data_dir=/srv/sd",
        "address=127.0.0.1",
        "port=7860",
        "credentials=/run/credentials/x",
    ]


@pytest.mark.parametrize("part", ["{credentials}/login", "{data_dir}", "{unknown}", "{", "{0}"])
def test_launch_says_what_has_no_value(root: Path, part: str) -> None:
    edit_release(root, command=["{release}/bin/engine", part])
    done = run(root, "launch")
    assert (done.returncode, done.stdout) == (78, "")
    assert f"the recipe has {part}, and this host tells no value for it" in done.stderr


def test_launch_adds_the_login_when_there_is_one(root: Path) -> None:
    edit_release(root, command_when_login=["--auth-path", "{credentials}/login"])
    assert "--auth-path" not in run(root, "launch").stdout
    # Whatever a person sets, a login that is wanted stays wanted.
    edit_settings(root, login=True, environment={"SD_WEBUI_LOGIN": ""})
    engine = root / "opt/sd-webui/current/bin/engine"
    engine.write_text('#!/bin/sh\nprintf \'%s\\n\' "$@" "$SD_WEBUI_LOGIN"\n', encoding="utf-8")
    lines = run(root, "launch", CREDENTIALS_DIRECTORY="/run/credentials/x").stdout.splitlines()
    assert lines[5:8] == ["--auth-path", "/run/credentials/x/login", "--slow"] and lines[-1] == "required"


@pytest.mark.parametrize(
    ("broken", "profile", "added"), [(True, "gpu_full", True), (True, "cpu", False), (False, "gpu_full", False)]
)
def test_launch_minds_broken_half_precision_on_a_card(root: Path, broken: bool, profile: str, added: bool) -> None:
    both = {"arguments": ["--fast"], "environment": {}, "broken_fp16_arguments": ["--precise"]}
    edit_release(root, profiles={"cpu": both, "gpu_full": both})
    edit_settings(root, broken_fp16=broken)
    (root / "etc/sd-webui/profile").write_text(profile, encoding="utf-8")
    lines = run(root, "launch").stdout.splitlines()
    assert lines[5:7] == ["--fast", "--precise" if added else "--extra {not a placeholder}"]


def test_launch_fills_the_releases_environment_and_not_the_hosts(root: Path) -> None:
    profiles: dict[str, Any] = {"cpu": {"arguments": [], "environment": {}}}
    edit_release(root, environment={"VALUE": "{release}/hub"}, profiles=profiles)
    assert run(root, "launch").stdout.splitlines()[-1] == f"VALUE={root}/opt/sd-webui/releases/engine-1/hub"
    edit_settings(root, environment={"VALUE": "{release}"})
    assert run(root, "launch").stdout.splitlines()[-1] == "VALUE={release}"


def test_launch_lets_the_hosts_environment_win(root: Path) -> None:
    edit_settings(root, environment={"VALUE": "from the host"})
    assert run(root, "launch").stdout.splitlines()[-1] == "VALUE=from the host"


def test_launch_brings_the_web_uis_own_files_up_to_date(root: Path) -> None:
    wanted = {
        "schema": 1,
        "files": {name: str(root / f"{name}.json") for name in ("settings", "ui_settings", "styles")},
        "settings": {"live_previews_enable": False},
        "ui_settings": {},
        "styles": [],
        "managed_extensions": [],
        "disabled_extensions": [],
    }
    path = root / "etc/sd-webui/webui_settings.json"
    path.write_text(json.dumps(wanted), encoding="utf-8")
    lines = run(root, "launch").stdout.splitlines()
    assert lines[:2] == [
        f"{root}/settings.json: brought up to date with the inventory",
        "starting engine-1 with profile cpu",
    ]
    assert json.loads((root / "settings.json").read_text(encoding="utf-8")) == {"live_previews_enable": False}
    # Rather not at all than with other settings than the inventory wants.
    path.write_text("{", encoding="utf-8")
    done = run(root, "launch")
    assert (done.returncode, done.stdout) == (78, "")
    assert f"{path} cannot be read" in done.stderr and "run site.yml for this host again." in done.stderr


def test_launch_takes_the_candidate(root: Path) -> None:
    candidate = root / "opt/sd-webui/releases/engine-2"
    (root / "opt/sd-webui/current").resolve().rename(candidate)
    assert "starting engine-1" in run(root, "launch", SD_WEBUI_RELEASE=str(candidate)).stdout
    refused = run(root, "launch")
    assert refused.returncode == 78 and "run site.yml for this host again" in refused.stderr


@pytest.mark.parametrize(
    ("data", "profile"),
    [
        ({"profile": "gpu_full", "expires": None}, "gpu_full"),
        ({"profile": "gpu_full", "expires": time.time() + 86400}, "gpu_full"),
        ({"profile": "gpu_full", "expires": time.time() - 1}, "cpu"),
        ({"profile": "gpu_gone", "expires": None}, "cpu"),
        ({"expires": None}, "cpu"),
        ({"profile": "gpu_full", "expires": "soon"}, "cpu"),
        # One that lies over another: it counts for its time, then the lower one.
        ({"profile": "cpu", "expires": None, "over": {"profile": "gpu_full"}}, "cpu"),
        ({"profile": "cpu", "expires": 1, "over": {"profile": "gpu_full", "expires": None}}, "gpu_full"),
        ({"profile": "gpu_full", "expires": 1, "over": {"profile": "gpu_full", "expires": 2}}, "cpu"),
        ({"profile": "gpu_full", "expires": 1, "over": ["gpu_full"]}, "cpu"),
    ],
)
def test_active_profile(root: Path, data: dict[str, Any], profile: str) -> None:
    override(root, **data)
    assert f"with profile {profile}" in run(root, "launch").stdout
    assert f"active:   {profile}" in run(root, "sd_profile", "status").stdout


def test_a_damaged_override_does_not_stop_the_server(root: Path) -> None:
    (root / "var/lib/sd-webui/profile-override.json").write_text("{", encoding="utf-8")
    assert "with profile cpu" in run(root, "launch").stdout


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda root: (root / "model.safetensors").unlink(), "is missing or not readable by this service"),
        (
            lambda root: (root / "etc/sd-webui/profile").write_text("gpu_gone"),
            "has no profile gpu_gone; set sd_webui_profile",
        ),
        (lambda root: (root / "etc/sd-webui/settings.json").write_text("[]"), "is not a JSON object; run site.yml"),
        (lambda root: (root / "etc/sd-webui/profile").unlink(), "cannot be read"),
    ],
)
def test_launch_says_what_is_wrong(root: Path, break_it: Any, sentence: str) -> None:
    break_it(root)
    done = run(root, "launch")
    assert done.returncode == 78
    assert sentence in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_launch_refuses_a_release_of_a_better_cpu(root: Path) -> None:
    build = root / "opt/sd-webui/current/build.json"
    build.write_text(json.dumps({"cpu_features": ["sse2", "quantum9"]}), encoding="utf-8")
    refused = run(root, "launch")
    assert refused.returncode == 78 and "a CPU with quantum9, which this one lacks" in refused.stderr
    build.write_text(json.dumps({"cpu_features": ["sse2"]}), encoding="utf-8")
    assert run(root, "launch").returncode == 0


def test_wait_ready(root: Path, unused_port: int) -> None:
    edit_settings(root, port=unused_port)
    late = run(root, "wait_ready", "--timeout", "1")
    assert late.returncode == 1 and late.stderr.count("\n") == 1
    assert "within 1 s (at last: [Errno 111] Connection refused)" in late.stderr
    assert late.stderr.endswith(f"http://127.0.0.1:{unused_port} did not answer.\n")
    environment = {"PATH": os.environ["PATH"], "SD_WEBUI_ROOT": str(root), "SERVE": str(unused_port)}
    with subprocess.Popen(
        [sys.executable, "-BEs", str(HOST / "launch.py")], env=environment, stdout=subprocess.DEVNULL
    ) as engine:
        try:
            assert run(root, "wait_ready", "--timeout", "50").returncode == 0
        finally:
            engine.terminate()


def serve_a1111(root: Path, server: Any) -> None:
    """Make the stand-in the server of this root."""
    paths = {"readiness": "/sdapi/v1/options", "health": "/internal/ping", "txt2img": "/sdapi/v1/txt2img"}
    edit_release(root, paths={**paths, "progress": "/sdapi/v1/progress?skip_current_image=true"})
    edit_settings(root, port=server.server_address[1])


def test_ready_is_when_the_api_answers(root: Path) -> None:
    with serve(kind="automatic1111", misbehave="no_api") as server:
        serve_a1111(root, server)
        late = run(root, "wait_ready", "--timeout", "1")
        # A machine that stands still may leave no time for a single question.
        said = "HTTP 404" if server.requests else "nothing"
        assert late.returncode == 1 and f"/sdapi/v1/options had no answer within 1 s (at last: {said})" in late.stderr


def test_waiting_ends_with_the_process(root: Path, unused_port: int) -> None:
    edit_settings(root, port=unused_port)
    started = time.monotonic()
    ended = run(root, "wait_ready", "--timeout", "50", MAINPID="4194999")
    assert ended.returncode == 1 and "before its process ended (at last: nothing)" in ended.stderr
    assert time.monotonic() - started < 30


def test_the_login_is_sent_and_nowhere_said(root: Path, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    with serve(kind="automatic1111", auth="me:open sesame", busy=True) as server:
        serve_a1111(root, server)
        # Not known: that it is asked for is an answer, and what it would say is not known.
        assert run(root, "wait_ready", "--timeout", "50").returncode == 0
        assert run(root, "drain", "--timeout", "0", PATH=fake_systemctl(tmp_path)).stdout == ""
        (root / "etc/sd-webui/login").write_text("me:wrong word\n", encoding="utf-8")
        # The stand-in is in this very process.
        refused = run(root, "wait_ready", "--timeout", "1", MAINPID=str(os.getpid()))
        assert refused.returncode == 1 and "(at last: HTTP 401)" in refused.stderr and "word" not in refused.stderr
        # systemd's copy goes before the file, which the service may not read.
        (credentials / "login").write_text("me:open sesame\n", encoding="utf-8")
        known = {"CREDENTIALS_DIRECTORY": str(credentials), "MAINPID": str(os.getpid())}
        assert run(root, "wait_ready", "--timeout", "50", **known).returncode == 0
        assert "still being made" in run(root, "drain", "--timeout", "0", **known).stdout
        assert all("?skip_current_image=true?" not in request["path"] for request in server.requests)


def test_the_login_is_not_told_to_a_stranger_on_the_port(root: Path, tmp_path: Path) -> None:
    with serve(kind="automatic1111", busy=True) as server:
        serve_a1111(root, server)
        (root / "etc/sd-webui/login").write_text("me:open sesame\n", encoding="utf-8")
        # Whoever listens there, it is not the service: that has no process.
        run(root, "drain", "--timeout", "0", PATH=fake_systemctl(tmp_path))
        assert server.requests and all(request["login"] is None for request in server.requests)


def fake_systemctl(folder: Path, pid: int = 0) -> str:
    """A PATH with a systemctl that knows the service's process and writes down what it is told to do."""
    command = folder / "bin/systemctl"
    command.parent.mkdir(exist_ok=True)
    command.write_text(
        f'#!/bin/sh\necho "$@" >>{folder}/systemctl.log\n[ "$1" != show ] || echo {pid}\n', encoding="utf-8"
    )
    command.chmod(0o755)
    return f"{command.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("answer", "busy"),
    [
        ({"state": {"job_count": 0, "job": ""}, "current_task": None}, False),
        ({"state": {"job_count": 0, "job": ""}}, False),
        ({"state": {"job_count": -1, "job": ""}}, True),
        ({"state": {"job_count": 1, "job": "task(1)"}}, True),
        ({"state": {"job_count": 0, "job": "scripts_txt2img"}}, True),
        ({"state": {"job_count": 0, "job": ""}, "current_task": "task(1)"}, True),
        ({"job": False, "queue": 0}, False),
        ({"job": False, "queue": 2}, True),
        ({"state": None}, None),
        ([], None),
        ("<html>", None),
    ],
)
def test_what_progress_means(answer: Any, busy: bool | None) -> None:
    body = answer if isinstance(answer, str) else json.dumps(answer)
    code = "import server, sys; print(server.says_busy(sys.stdin.buffer.read()))"
    done = subprocess.run(
        [sys.executable, "-Bc", code], cwd=HOST, input=body, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str(busy)


def test_check_running(root: Path, tmp_path: Path) -> None:
    # An interpreter from elsewhere with a file of the release in its memory, as a virtualenv's Python is.
    library = root / "opt/sd-webui/current/venv/lib/part.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"x")
    hold = f"import mmap, time\nfile = open({str(library)!r}, 'rb')\n"
    hold += "mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
    hold += "print(flush=True)\ntime.sleep(600)"

    def problem(**options: str) -> str:
        return run(root, "check_running", **{"PATH": fake_systemctl(tmp_path, engine.pid), **options}).stderr

    with (
        serve(kind="automatic1111", auth="me:open sesame") as server,
        serve(kind="automatic1111") as open_server,
        subprocess.Popen([sys.executable, "-Ec", hold], stdout=subprocess.PIPE) as engine,
    ):
        try:
            assert engine.stdout is not None and engine.stdout.readline()
            serve_a1111(root, server)
            edit_settings(root, login=True)
            assert "login is missing, empty or not readable; run site.yml again" in problem()
            login = root / "etc/sd-webui/login"
            login.write_text("me:another\n", encoding="utf-8")
            assert "the server takes another login than that in" in problem()
            login.write_text("me:open sesame\n", encoding="utf-8")
            assert problem() == ""
            edit_settings(root, port=open_server.server_address[1])
            assert "does not ask for a login (HTTP 404)" in problem()
            edit_settings(root, login=False)
            assert problem() == ""
            other = root / "opt/sd-webui/releases/engine-2"
            other.mkdir()
            (other / "release.json").write_bytes((root / "opt/sd-webui/current/release.json").read_bytes())
            (root / "opt/sd-webui/current").unlink()
            (root / "opt/sd-webui/current").symlink_to(other)
            assert f"the processes [{engine.pid}] do not run from {other}; restart sd-webui.service." in problem()
        finally:
            engine.terminate()
    assert "has no process" in run(root, "check_running", PATH=fake_systemctl(tmp_path)).stderr


CGROUP_TREES = {"v2": "", "v1": "systemd", "hybrid": "unified"}


@pytest.mark.parametrize("tree", CGROUP_TREES.values(), ids=CGROUP_TREES)
def test_the_processes_of_the_service_are_those_of_its_cgroup(tmp_path: Path, tree: str) -> None:
    systemctl = tmp_path / "bin/systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(
        '#!/bin/sh\ncase "$2" in *MainPID) echo 41 ;; *ControlGroup) echo /system.slice/sd-webui.service ;; esac\n',
        encoding="utf-8",
    )
    systemctl.chmod(0o755)
    code = "import server; print(server.processes())"

    def processes() -> str:
        environment = {"PATH": f"{systemctl.parent}:{os.environ['PATH']}", "SD_WEBUI_ROOT": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-Bc", code],
            cwd=HOST,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    group = tmp_path / "sys/fs/cgroup" / tree / "system.slice/sd-webui.service"
    (group / "part").mkdir(parents=True)
    assert processes() == "[41]"
    (group / "cgroup.procs").write_text("41\n42\n", encoding="ascii")
    (group / "part/cgroup.procs").write_text("43\n", encoding="ascii")
    assert processes() == "[41, 42, 43]"


def test_an_engine_behind_another_main_process_is_seen_to_be_busy(root: Path, tmp_path: Path) -> None:
    # Four, so that others who want the processor leave them enough of it.
    keep = "import subprocess, sys; spin = [sys.executable, '-c', 'while True: pass'];"
    keep += "engine = [subprocess.Popen(spin) for _ in range(4)];"
    keep += "print(*(one.pid for one in engine), flush=True); engine[0].wait()"
    with subprocess.Popen([sys.executable, "-c", keep], start_new_session=True, stdout=subprocess.PIPE) as keeper:
        try:
            assert keeper.stdout is not None
            engine = keeper.stdout.readline().split()
            # The made-up systemctl answers with the number alone, so that is the name of the cgroup as well.
            group = root / "sys/fs/cgroup" / str(keeper.pid)
            group.mkdir(parents=True)
            (group / "cgroup.procs").write_bytes(b"\n".join([b"%d" % keeper.pid, *engine, b""]))
            done = run(root, "drain", "--timeout", "0", PATH=fake_systemctl(tmp_path, keeper.pid))
            assert "a picture was still being made after 0 s" in done.stdout
        finally:
            os.killpg(keeper.pid, 9)


def test_drain_of_a_server_that_was_never_installed(tmp_path: Path) -> None:
    done = run(tmp_path, "drain", "--timeout", "1")
    assert (done.returncode, done.stdout) == (0, "")


def test_sd_profile_lists_and_refuses(root: Path) -> None:
    assert run(root, "sd_profile", "list").stdout.split() == ["cpu", "gpu_full"]
    refused = run(root, "sd_profile", "gpu_lowvram")
    assert refused.returncode == 2 and "choose cpu, gpu_full" in refused.stderr
    assert "write 90m, 6h or 2d" in run(root, "sd_profile", "cpu", "--for", "soon").stderr


def test_sd_profile_keeps_reason_and_end(root: Path) -> None:
    # "cpu" is active already, so nothing is restarted.
    done = run(root, "sd_profile", "cpu", "--for", "2h", "--reason", "a large ControlNet")
    assert done.returncode == 0 and "a large ControlNet" in done.stdout
    written = json.loads((root / "var/lib/sd-webui/profile-override.json").read_text(encoding="utf-8"))
    assert written["schema"] == 1 and 7000 < written["expires"] - time.time() <= 7200
    cleared = run(root, "sd_profile", "clear")
    assert cleared.returncode == 0 and "override" not in cleared.stdout


def test_sd_profile_of_a_program_lies_over_a_persons(root: Path) -> None:
    """What a person has chosen is in force again when the program takes its own away, or its time is over."""
    path = root / "var/lib/sd-webui/profile-override.json"

    def profile(*arguments: str) -> str:
        done = run(root, "sd_profile", *arguments, "--no-restart")
        assert done.returncode == 0, done.stderr
        return done.stdout

    profile("gpu_full", "--reason", "by hand")
    chosen = json.loads(path.read_text(encoding="utf-8"))
    assert "active:   cpu" in profile("cpu", "--by", "watchdog", "--for", "6h")
    # Again, as one rung after the other.
    profile("cpu", "--by", "watchdog", "--for", "12h")
    assert json.loads(path.read_text(encoding="utf-8"))["over"] == chosen
    assert "not from other, so it stays" in profile("clear", "--by", "other")
    assert "active:   gpu_full" in profile("clear", "--by", "watchdog")
    assert json.loads(path.read_text(encoding="utf-8")) == chosen

    profile("cpu", "--by", "watchdog", "--for", "6h")
    lying = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**lying, "expires": 1}), encoding="utf-8")
    assert "by hand" in profile("status")
    profile("expire")
    assert json.loads(path.read_text(encoding="utf-8")) == chosen

    # A person's word ends all of it.
    profile("cpu", "--by", "watchdog", "--for", "6h")
    profile("clear")
    assert not path.exists()


def test_sd_profile_switches_in_one_restart(root: Path, tmp_path: Path) -> None:
    edit_settings(root, port=9)
    path = fake_systemctl(tmp_path)
    done = run(root, "sd_profile", "gpu_full", PATH=path)
    assert done.returncode == 0 and "active:   gpu_full" in done.stdout
    told = (tmp_path / "systemctl.log").read_text(encoding="utf-8").splitlines()
    assert [line for line in told if not line.startswith("show")] == ["restart sd-webui.service"]
    assert "with profile gpu_full" in run(root, "launch").stdout


def test_sd_profile_takes_back_what_does_not_start(root: Path, tmp_path: Path) -> None:
    edit_settings(root, port=9)
    path = fake_systemctl(tmp_path)
    command = tmp_path / "bin/systemctl"
    override = root / "var/lib/sd-webui/profile-override.json"
    # A server that starts with the desired profile only.
    command.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/systemctl.log\n[ "$1" = show ] || ! test -e {override}\n', encoding="utf-8"
    )
    done = run(root, "sd_profile", "gpu_full", PATH=path)
    assert done.returncode != 0 and "does not start with the profile gpu_full, so it goes back to cpu" in done.stderr
    assert "active:   cpu" in done.stdout and not override.exists()
    told = (tmp_path / "systemctl.log").read_text(encoding="utf-8").splitlines()
    assert [line for line in told if not line.startswith("show")] == ["restart sd-webui.service"] * 2


@pytest.mark.parametrize(
    ("torch", "line"),
    [
        ({"version": "2.1.2", "build": "cpu", "xformers": None}, "pytorch:  2.1.2, for the CPU only"),
        (
            {"version": "2.1.2", "build": "cu121", "xformers": "0.0.23.post1"},
            "pytorch:  2.1.2, for graphics cards (cu121), with xformers 0.0.23.post1",
        ),
        ({"version": "2.1.2", "build": "none"}, None),
        (None, None),
        ("2.1.2", None),
    ],
)
def test_sd_profile_tells_the_releases_pytorch(root: Path, torch: Any, line: str | None) -> None:
    (root / "opt/sd-webui/current/build.json").write_text(json.dumps({"torch": torch}), encoding="utf-8")
    lines = run(root, "sd_profile", "status").stdout.splitlines()
    assert [found for found in lines if found.startswith("pytorch")] == ([line] if line else [])
