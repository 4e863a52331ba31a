"""What the web UI is doing is told at once, also when nothing else answers any more, and only to who has a login."""

from __future__ import annotations

import concurrent.futures
import http.client
import importlib.util
import json
import pathlib
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import ENGINES, ROLE_FILES, Server, basic

PATH = "/secondhand/activity"
IDLE = {"job": False, "queue": 0, "page": 0, "name": "", "step": 0, "steps": 0, "job_number": 0}
# More than the threads that Starlette has for all requests together.
MANY = 45


def look(server: Server) -> dict[str, Any]:
    """What it tells, which must not take as long as what is waited for."""
    started = time.monotonic()
    answer = server.ask("GET", PATH, Authorization=basic())
    assert time.monotonic() - started < 30
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    told: dict[str, Any] = json.loads(answer.body)
    return told


def without_time(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "last_step_seconds"}


def look_until(server: Server, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first look that is right."""
    deadline = time.monotonic() + 60
    while True:
        told = look(server)
        if right(told):
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def test_it_needs_the_login(server: Server) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        assert server.ask(method, PATH).status == 401, method
    assert server.ask("GET", PATH, Authorization=basic("a:b")).status == 401
    cookie = server.cookie()
    assert server.ask("GET", PATH, Cookie=cookie).status == 200
    assert server.ask("GET", PATH, Cookie=cookie, Sec_Fetch_Site="cross-site").status == 403


def test_a_server_that_does_nothing(server: Server) -> None:
    told = look(server)
    assert without_time(told) == IDLE and told["last_step_seconds"] >= 0
    head = server.ask("HEAD", PATH, Authorization=basic())
    assert (head.status, head.body) == (200, b"") and int(head.headers["content-length"]) > 0
    # Only that path, and only to be read.
    for method, path in (("POST", PATH), ("GET", PATH + "/"), ("GET", "/extension/inner" + PATH)):
        assert server.ask(method, path, Authorization=basic()).status in (404, 405), (method, path)


def test_at_once_while_the_queue_fills_every_thread(server: Server) -> None:
    steps = [server.log.with_name(f"step{number}") for number in (1, 2, 3)]
    with concurrent.futures.ThreadPoolExecutor(MANY) as pool:
        try:
            jobs = [pool.submit(server.ask, "POST", "/sdapi/v1/img2img", Authorization=basic()) for _ in range(MANY)]
            told = look_until(server, lambda told: told["queue"] == MANY and told["job"])
            assert without_time(told) == {**IDLE, "job": True, "queue": MANY, "name": "Batch 1 out of 1", "steps": 3}
            # Why there is this route: nobody else gets a thread.
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=1)
            connection.request("GET", "/internal/ping")
            with pytest.raises(TimeoutError):
                connection.getresponse()
            connection.close()
            before = look(server)["last_step_seconds"]
            assert before >= 1
            begun = time.monotonic()
            steps[0].touch()
            told = look_until(server, lambda told: told["step"] == 1)
            assert told["last_step_seconds"] <= time.monotonic() - begun and told["queue"] == MANY
        finally:
            for step in steps:
                step.touch()
        assert {job.result().status for job in jobs} == {200}
    assert without_time(look_until(server, lambda told: not told["queue"])) == IDLE
    assert server.ask("GET", "/internal/ping").status == 200


def test_a_job_that_has_failed_is_no_job(server: Server) -> None:
    assert server.ask("POST", "/sdapi/v1/extra-single-image", Authorization=basic()).status == 500
    # It has been answered before it is over.
    assert without_time(look_until(server, lambda told: not told["queue"])) == IDLE


@pytest.mark.parametrize("engine", ENGINES)
def test_an_api_without_a_page(engine: str, start: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    with start(engine, tmp_path, "--nowebui") as server:
        assert server.ask("GET", PATH).status == 401
        assert without_time(look(server)) == IDLE


def test_without_a_login(start: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    with start("automatic1111", tmp_path, "--nowebui", login=None) as server:
        assert server.ask("GET", PATH).status == 200
        assert server.ask("GET", PATH, Sec_Fetch_Site="cross-site").status == 403


@pytest.fixture
def activity() -> Any:
    """The module itself, without a web server."""
    spec = importlib.util.spec_from_file_location("activity", ROLE_FILES / "host/webui/activity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Activity()


def with_modules(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)


def test_before_the_web_ui_has_loaded_anything(activity: Any) -> None:
    assert without_time(activity.look()) == {**IDLE, "page": None}


def test_a_web_ui_in_the_middle_of_its_start(activity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_modules(monkeypatch, shared={"state": None}, call_queue={})
    assert without_time(activity.look()) == {**IDLE, "page": None}


def test_values_that_an_extension_has_written(activity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = types.SimpleNamespace(job="x\n" * 500, job_count=None, job_no="3", sampling_step=1.5, sampling_steps=None)
    with_modules(monkeypatch, shared={"state": state}, call_queue={"queue_lock": object()})
    told = activity.look()
    assert without_time(told) == {**IDLE, "job": True, "page": None, "name": "x" * 100}
    json.dumps(told)


def test_a_job_of_the_page_without_a_name(activity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is the task's, and a page of an older version sends none."""
    lock = threading.Lock()
    state = types.SimpleNamespace(job=None, job_count=-1, job_no=0, sampling_step=0, sampling_steps=20)
    with_modules(monkeypatch, shared={"state": state}, call_queue={"queue_lock": lock})
    with lock:
        assert without_time(activity.look()) == {**IDLE, "job": True, "queue": 1, "page": 1, "steps": 20}
    assert without_time(activity.look()) == IDLE


def test_a_second_job_of_the_same_name_is_a_change(activity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = types.SimpleNamespace(job="a", job_count=1, job_no=0, sampling_step=0, sampling_steps=0, time_start=1.0)
    with_modules(monkeypatch, shared={"state": state})
    activity.look()
    time.sleep(0.3)
    assert activity.look()["last_step_seconds"] >= 0.3
    state.time_start = 2.0
    assert activity.look()["last_step_seconds"] == 0
