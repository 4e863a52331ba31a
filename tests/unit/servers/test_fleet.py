# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The light web UI, started as the role starts it; the load; and that the judge of a fleet sees what it looks for."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ports
import pytest
from fleet import gradio_queue, made
from waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]
FLEET = ROOT / "tests/servers/fleet"
SERVE = ROOT / "roles/sd_webui/files/host/webui/serve.py"
LOGIN = "sd:open-sesame-1"
BASIC = {"Authorization": "Basic " + base64.b64encode(LOGIN.encode()).decode()}


class Light:
    """One that runs."""

    def __init__(self, url: str, data: Path) -> None:
        self.url = url
        self.data = data

    def ask(self, path: str, asked: Any = None, login: bool = True) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        body = None if asked is None else json.dumps(asked).encode()
        request = urllib.request.Request(self.url + path, body, BASIC if login else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, None

    def jobs(self) -> list[made.Job]:
        """What it has made."""
        return made.read_jobs("light", (self.data / "jobs.jsonl").read_text(encoding="utf-8"))


def unpacked(folder: Path) -> Path:
    """The first release, as the role has it on a host."""
    said = subprocess.run(
        [sys.executable, "-B", FLEET / "build.py", folder], check=True, capture_output=True, text=True
    )
    (folder / "release").mkdir()
    archive = json.loads(said.stdout)["1.10.1"]["path"]
    subprocess.run(["tar", "-xzf", archive, "-C", folder / "release"], check=True)
    return folder / "release"


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Light]:
    folder = tmp_path_factory.mktemp("light")
    release = unpacked(folder)
    held = ports.hold()
    port = ports.number(held)
    (folder / "login").write_text(f"{LOGIN}\n", encoding="utf-8")
    python = next((release / "venv/lib").glob(f"python3.{sys.version_info[1]}"), release / "venv/lib/python3.11")
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(python / "site-packages"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SD_WEBUI_LOGIN": "required",
        "CREDENTIALS_DIRECTORY": str(folder),
    }
    flags = ["--skip-prepare-environment", "--data-dir", str(folder), "--server-name", "127.0.0.1", "--port", str(port)]
    with held, subprocess.Popen([sys.executable, SERVE, release / "webui", *flags], env=variables) as process:
        started = Light(f"http://127.0.0.1:{port}", folder)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.URLError):
                if started.ask("/internal/ping")[0] == 200:
                    break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield started
        process.terminate()


def test_a_picture_and_what_is_said_about_it(light: Light) -> None:
    status, told = light.ask("/sdapi/v1/txt2img", {"prompt": "a", "steps": 1, "width": 64, "height": 64, "seed": 7})
    assert status == 200 and base64.b64decode(told["images"][0]).startswith(b"\x89PNG")
    info = json.loads(told["info"])
    assert info["host"] == socket.gethostname() and info["version"] == "v1.10.1"


def test_the_role_s_login_stands_in_front(light: Light) -> None:
    listed = light.ask("/openapi.json")[1]["paths"]
    assert "/sdapi/v1/txt2img" in listed and "/queue/join" in listed
    refused = [path for path in listed if light.ask(path.replace("{path}", "x"), login=False)[0] == 401]
    assert set(listed) - set(refused) == {"/internal/ping"}
    with pytest.raises(gradio_queue.Refused, match="403"):
        gradio_queue.press_button(light.url, ["task(none)", "a", 1], {})


def test_a_job_of_the_page_has_upstream_s_name_and_a_progress(light: Light) -> None:
    shown: list[Any] = []
    # It does not end by itself before all has been seen.
    page = threading.Thread(
        target=lambda: shown.extend(gradio_queue.press_button(light.url, ["task(abc)", "p", 10_000], BASIC))
    )
    page.start()
    try:
        wait_for(lambda: light.ask("/secondhand/activity")[1]["name"] == "task(abc)")
        wait_for(lambda: light.ask("/internal/progress", {"id_task": "task(abc)"})[1]["progress"])
        # Another one waits, and is seen to wait.
        other = threading.Thread(target=light.ask, args=("/sdapi/v1/txt2img", {"prompt": "q", "steps": 1}))
        other.start()
        wait_for(lambda: light.ask("/secondhand/activity")[1]["queue"] == 2)
    finally:
        light.ask("/sdapi/v1/interrupt", {})
    page.join()
    other.join()
    assert json.loads(shown[0])["host"] == socket.gethostname()
    assert light.ask("/internal/progress", {"id_task": "task(abc)"})[1]["completed"] is True
    jobs = {job.prompt: job for job in light.jobs()}
    assert jobs["p"].name == "task(abc)" and jobs["q"].name == "scripts_txt2img"
    assert jobs["q"].arrived < jobs["p"].ended <= (jobs["q"].begun or 0)
    assert [second.job.prompt for second in made.second_jobs(light.jobs(), ["light", "idle"])] == ["q"]
    assert made.second_jobs(light.jobs(), ["light"]) == []


def test_a_load(light: Light, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command: list[str | Path] = [
        sys.executable,
        "-B",
        FLEET / "load.py",
        light.url,
        "--login-file",
        light.data / "login",
    ]
    options: list[str | Path] = [
        "--requests",
        "7",
        "--concurrency",
        "3",
        "--steps",
        "1",
        "--out",
        out,
        "--count",
        tmp_path / "count",
    ]
    subprocess.run([*command, *options], check=True)
    told = made.summary(json.loads(out.read_text(encoding="utf-8")), light.jobs())
    assert (told["requests"], told["lost"], told["again"]) == (7, [], 0)
    assert told["servers"]["light"]["served"] == 0 and len(light.jobs()) >= 7
    assert (tmp_path / "count").read_text(encoding="ascii") == "7\n"


def test_a_load_says_what_it_did_not_get(light: Light, tmp_path: Path) -> None:
    (tmp_path / "login").write_text("sd:wrong", encoding="ascii")
    command: list[str | Path] = [sys.executable, "-B", FLEET / "load.py", light.url, "--login-file", tmp_path / "login"]
    done = subprocess.run([*command, "--requests", "1"], check=True, capture_output=True, text=True)
    told = made.summary(json.loads(done.stdout), light.jobs())
    assert [answer["status"] for answer in told["lost"]] == [401]


def test_the_same_sources_make_the_same_archives(tmp_path: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-B", FLEET / "build.py", tmp_path / name], check=True, capture_output=True
        ).stdout
        for name in ("one", "two")
    ]
    sums = [{version: each["sha256"] for version, each in json.loads(text).items()} for text in said]
    assert sums[0] == sums[1] and len(set(sums[0].values())) == 2


def lines(*events: tuple[int, str, int, float]) -> str:
    """Process, event, job, time."""
    return "\n".join(
        json.dumps(
            {"pid": pid, "event": event, "job": job, "at": at, "name": "scripts_txt2img", "prompt": f"load {job}"}
        )
        for pid, event, job, at in events
    )


def test_a_killed_process_has_ended_its_jobs() -> None:
    jobs = made.read_jobs(
        "a", lines((1, "arrived", 0, 1), (1, "begun", 0, 1), (2, "arrived", 0, 5), (2, "ended", 0, 6))
    )
    assert [(job.arrived, job.ended, job.is_done) for job in jobs] == [(1, 5, False), (5, 6, True)]


def test_a_second_job_while_another_server_is_idle_is_seen() -> None:
    busy = made.read_jobs(
        "a", lines((1, "arrived", 0, 1), (1, "arrived", 1, 2), (1, "ended", 0, 4), (1, "ended", 1, 8))
    )
    idle = made.read_jobs("b", lines((1, "arrived", 2, 3), (1, "ended", 2, 9)))
    found = made.second_jobs(busy + idle, ["a", "b"])
    assert [(second.job.prompt, second.running.prompt, second.idle) for second in found] == [("load 1", "load 0", "b")]
    # But not where the other one was away, or had only just ended a job.
    assert made.second_jobs(busy + idle, ["a", "b"], away={"b": [(0, 2.5)]}) == []
    assert made.second_jobs(busy + idle, ["a", "b"], settled=1.5) == []
    # Nor where it had work as well.
    early = made.read_jobs("b", lines((1, "arrived", 2, 1), (1, "ended", 2, 9)))
    assert made.second_jobs(busy + early, ["a", "b"]) == []


def test_the_table_says_who_served_and_what_was_sent_again() -> None:
    jobs = made.read_jobs("a", lines((1, "arrived", 0, 1.5), (2, "arrived", 9, 20), (2, "ended", 9, 21)))
    jobs += made.read_jobs("b", lines((1, "arrived", 0, 3), (1, "ended", 0, 4)))
    answer = {"number": 0, "prompt": "load 0", "sent": 1.0, "answered": 4.0, "status": 200, "host": "b"}
    told = made.summary({"begun": 1.0, "ended": 4.0, "results": [answer]}, jobs)
    assert (told["again"], told["lost"], told["wait_longest"]) == (1, [], 2.0)
    text = made.table(told, {"a": "killed"})
    assert "| a | killed | 0 | 1 | 0.0 s | 0.0 s |" in text and "| b |  | 1 | 0 | 3.0 s | 3.0 s |" in text
    assert "1 pictures in 3 s, 0 lost, 1 sent again" in text
