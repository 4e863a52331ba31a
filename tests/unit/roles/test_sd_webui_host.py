# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that role sd_webui puts on a host, run as processes in a made-up root with a real engine process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

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
    (tmp_path / "var/lib/sd-webui").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def unused_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


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


def test_launch_lets_the_hosts_environment_win(root: Path) -> None:
    edit_settings(root, environment={"VALUE": "from the host"})
    assert run(root, "launch").stdout.splitlines()[-1] == "VALUE=from the host"


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
        ({"profile": "gpu_full", "expires": time.time() + 600}, "gpu_full"),
        ({"profile": "gpu_full", "expires": time.time() - 1}, "cpu"),
        ({"profile": "gpu_gone", "expires": None}, "cpu"),
        ({"expires": None}, "cpu"),
        ({"profile": "gpu_full", "expires": "soon"}, "cpu"),
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
    assert late.returncode == 1 and f"http://127.0.0.1:{unused_port} did not answer." in late.stderr
    environment = {"PATH": os.environ["PATH"], "SD_WEBUI_ROOT": str(root), "SERVE": str(unused_port)}
    with subprocess.Popen(
        [sys.executable, "-BEs", str(HOST / "launch.py")], env=environment, stdout=subprocess.DEVNULL
    ) as engine:
        try:
            assert run(root, "wait_ready", "--timeout", "20").returncode == 0
        finally:
            engine.terminate()


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
