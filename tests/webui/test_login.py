"""The login in front of A1111 and Forge: every route of a running application, asked with and without one."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import ENGINES, HERE, LOGIN, ROLE_FILES, Server, basic, environment_of

# What answers before the login, and with what.
OPEN = {
    ("GET", "/"): 200,
    ("HEAD", "/"): 200,
    ("GET", "/internal/ping"): 200,
    ("GET", "/startup-events"): 200,
    # The form without a name and a password in it.
    ("POST", "/login"): 422,
    ("POST", "/login/"): 422,
}
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
# What the page does when its button is pressed; the client of Gradio 3 cannot log in.
SHOUT = {
    "automatic1111": """
import asyncio, json, sys, websockets
async def main():
    address = sys.argv[1].replace("http", "ws") + "queue/join"
    async with websockets.connect(address, extra_headers={"Cookie": sys.argv[3]}) as socket:
        job = {"fn_index": 0, "session_hash": "x"}
        async for message in socket:
            told = json.loads(message)
            if told["msg"] == "send_hash":
                await socket.send(json.dumps(job))
            elif told["msg"] == "send_data":
                await socket.send(json.dumps({**job, "data": ["quiet"], "event_data": None}))
            elif told["msg"] == "process_completed":
                return told["output"]["data"][0]
print(asyncio.run(main()))
""",
    "forge": """
import sys
from gradio_client import Client
user, _colon, password = sys.argv[2].partition(":")
print(Client(sys.argv[1], auth=(user, password), verbose=False).predict("quiet", api_name="/shout"))
""",
}


def filled(path: str) -> str:
    """A route's path with something in the place of its parameters."""
    return re.sub(r"\{[^}]*\}", "x", path) or "/"


def without_login(server: Server) -> dict[tuple[str, str], int]:
    """What every route of the application answers to somebody who has no login."""
    paths = {filled(route["path"]) for route in server.routes if route["kind"] not in ("Mount", "APIWebSocketRoute")}
    mounted = {filled(route["path"]) + "/" for route in server.routes if route["kind"] == "Mount"}
    sockets = {filled(route["path"]) for route in server.routes if route["kind"] == "APIWebSocketRoute"}
    asked = [(method, path) for path in sorted(paths | mounted) for method in METHODS]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = dict(zip(asked, pool.map(lambda what: server.ask(*what).status, asked)))
    for path in sockets | paths | mounted:
        answers["WEBSOCKET", path] = server.open_websocket(path)
    return answers


def test_only_what_is_listed_answers_without_a_login(server: Server) -> None:
    assert len(server.routes) > 50
    kinds = {route["kind"] for route in server.routes}
    assert {"APIRoute", "APIWebSocketRoute", "Mount", "Route"} <= kinds
    answers = without_login(server)
    refused = {what for what, status in answers.items() if status == (403 if what[0] == "WEBSOCKET" else 401)}
    assert {what: status for what, status in answers.items() if what not in refused} == OPEN


def test_nothing_is_open_while_the_web_ui_still_starts(server: Server) -> None:
    assert server.early[:3] == [401, 401, 200]


def test_a_request_in_the_middle_of_the_start_does_not_end_it(server: Server) -> None:
    # It was answered, and what came after it is there.
    assert server.early[3:] == [200]
    assert server.ask("GET", "/sdapi/v1/options", Authorization=basic()).status == 200


@pytest.mark.parametrize("engine", ENGINES)
def test_gradios_own_login_leaves_the_rest_open(engine: str, start: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    """Why there is a guard, and that the test above would see what is open."""
    (tmp_path / "gradio").write_text(LOGIN, encoding="utf-8")
    with start(engine, tmp_path, "--gradio-auth-path", str(tmp_path / "gradio"), login=None) as server:
        for path in ("/sdapi/v1/options", "/internal/sysinfo", "/docs", "/extension/any", "/extension/inner/"):
            assert server.ask("GET", path).status == 200, path
        assert server.open_websocket("/extension/socket") == 101
        assert server.ask("GET", "/config").status == 401


@pytest.mark.parametrize("path", ["/nowhere", "//sdapi/v1/options", "/internal/ping/", "/internal/ping%2f..%2fsysinfo"])
def test_other_spellings_do_not_help(server: Server, path: str) -> None:
    assert server.ask("GET", path).status == 401


def test_the_api_with_a_password(server: Server) -> None:
    for path in ("/sdapi/v1/options", "/internal/sysinfo", "/extension/any", "/extension/inner/", "/docs"):
        assert server.ask("GET", path, Authorization=basic()).status == 200, path
    assert server.ask("POST", "/sdapi/v1/txt2img", Authorization=basic()).status == 200
    assert server.open_websocket("/extension/socket", Authorization=basic()) == 101
    assert server.open_websocket("/extension/inner/socket", Authorization=basic()) == 101
    page_inside = server.ask("GET", "/extension/page/", Authorization=basic())
    assert page_inside.status == 200 and b"stand-in" in page_inside.body


def test_the_page_with_a_password(server: Server) -> None:
    """As it comes through a gateway, which logs people in itself and shows its own password here."""
    for cookie in ("", "access-token=old; theme=dark; access-token-unsecure=old"):
        known = {"Authorization": basic(), **({"Cookie": cookie} if cookie else {})}
        page = server.ask("GET", "/", **known)
        assert page.status == 200 and b"Shout" in page.body and b"auth_required" not in page.body
        assert server.ask("GET", "/config", **known).status == 200
        assert json.loads(server.ask("GET", "/user", **known).body) == LOGIN.partition(":")[0]
    # Nobody else has come in by that.
    assert server.ask("GET", "/config").status == 401


def test_the_page_and_its_api_after_the_login(server: Server) -> None:
    before = server.ask("GET", "/")
    assert b'name="password"' in before.body and b"gradio" not in before.body
    cookie = server.cookie()
    assert cookie.startswith("access-token")
    page = server.ask("GET", "/", Cookie=cookie)
    assert page.status == 200 and b"gradio" in page.body and b"Shout" in page.body
    for path in ("/config", "/theme.css", "/sdapi/v1/options", "/internal/sysinfo", "/extension/inner/"):
        assert server.ask("GET", path, Cookie=cookie).status == 200, path
    assert server.open_websocket("/extension/socket", Cookie=cookie) == 101
    for wrong in ("access-token=", "access-token=x", "token=" + cookie.partition("=")[2]):
        assert server.ask("GET", "/sdapi/v1/options", Cookie=wrong).status == 401


def test_the_queue_behind_the_page_works(server: Server, tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [server.python, "-c", SHOUT[server.engine], f"http://127.0.0.1:{server.port}/", LOGIN, server.cookie()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert done.stdout.strip() == "QUIET", done.stderr


@pytest.mark.parametrize(
    "header", ["Basic", "Basic %%%", "Bearer x", basic("späti:"), basic("späti:open sesame"), basic(LOGIN + "\n")]
)
def test_a_wrong_password(server: Server, header: str) -> None:
    answer = server.ask("GET", "/sdapi/v1/options", Authorization=header)
    assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Basic ")


def test_a_wrong_password_costs_time_and_nobody_elses(server: Server) -> None:
    cookie = server.cookie()
    # What others wait shows only while the wrong ones wait, which a machine that stands still may miss.
    for _time in range(10):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            started = time.monotonic()
            wrong = [pool.submit(server.ask, "GET", "/sdapi/v1/options", Authorization=basic("a:b")) for _ in range(8)]
            wrong += [pool.submit(server.log_in, "a:b") for _ in range(8)]
            time.sleep(0.2)
            assert server.ask("GET", "/sdapi/v1/options", Cookie=cookie).status == 200
            assert server.ask("GET", "/internal/ping").status == 200
            waited = time.monotonic() - started
            statuses = [answer.result().status for answer in wrong]
        elapsed = time.monotonic() - started
        assert elapsed > 1
        # A wrong password is a 401 over HTTP, and a 400 in Gradio's form; four at once have a turn of a second.
        assert set(statuses) <= {400, 401, 429} and 4 <= 16 - statuses.count(429) <= 4 * elapsed
        if waited < 1:
            break
    assert waited < 1
    assert server.ask("GET", "/sdapi/v1/options", Authorization=basic()).status == 200


def test_a_form_that_is_no_login(server: Server) -> None:
    assert server.ask("POST", "/login", {"username": "x" * 5000, "password": "x"}).status == 401
    chunked = {"Transfer_Encoding": "chunked"}
    assert server.ask("POST", "/login", iter([b"username=x"]), **chunked).status == 401
    # With both headers it is the chunks that count, however many come.
    assert server.ask("POST", "/login", iter([b"username=x"]), **chunked, Content_Length="10").status == 401


def test_a_browser_asks_for_a_password_only_when_a_person_opens_an_address(server: Server) -> None:
    browser = {"User_Agent": "Mozilla/5.0 (X11; Linux x86_64)"}
    opened = server.ask("GET", "/docs", **browser, Accept="text/html,application/xhtml+xml")
    loaded = server.ask("GET", "/file=script.js", **browser, Accept="*/*")
    assert (opened.status, loaded.status) == (401, 401)
    assert "www-authenticate" in opened.headers and "www-authenticate" not in loaded.headers


def test_a_page_of_another_site_cannot_use_the_session(server: Server) -> None:
    cookie = server.cookie()
    foreign = {"Cookie": cookie, "Sec_Fetch_Site": "cross-site"}
    assert server.ask("POST", "/sdapi/v1/txt2img", **foreign, Sec_Fetch_Mode="no-cors").status == 403
    assert server.ask("POST", "/sdapi/v1/txt2img", **foreign, Sec_Fetch_Mode="navigate").status == 403
    assert server.open_websocket("/extension/socket", **foreign, Sec_Fetch_Mode="websocket") == 403
    # A link to the web UI still works.
    assert server.ask("GET", "/", **foreign, Sec_Fetch_Mode="navigate").status == 200


def test_a_page_of_another_site_over_plain_http(server: Server) -> None:
    """Browsers send Sec-Fetch-Site to HTTPS and localhost only; what changes something still has an Origin."""
    known = {"Authorization": basic(), "Host": "192.0.2.2:7860"}
    assert server.ask("POST", "/sdapi/v1/txt2img", **known, Origin="http://evil.test").status == 403
    assert server.ask("POST", "/sdapi/v1/txt2img", **known, Origin="null").status == 403
    assert server.ask("POST", "/sdapi/v1/txt2img", **known, Origin="http://192.0.2.2:7860").status == 200
    assert server.open_websocket("/extension/socket", Cookie=server.cookie(), Origin="http://evil.test") == 403


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_login_pages_of_other_sites_are_kept_out(
    engine: str, start: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    with start(engine, tmp_path, login=None) as server:
        foreign = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
        assert server.ask("POST", "/sdapi/v1/txt2img", **foreign).status == 403
        assert server.ask("POST", "/sdapi/v1/txt2img", Origin="http://evil.test").status == 403
        assert server.ask("GET", "/sdapi/v1/options", **foreign).status == 403
        frame = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
        assert server.ask("GET", "/", **frame).status == 403
        assert server.ask("POST", "/sdapi/v1/txt2img").status == 200


def test_nothing_tells_the_password(server: Server) -> None:
    paths = ("/internal/sysinfo", "/docs", "/openapi.json")
    told = [server.ask("GET", path, Authorization=basic()).body for path in paths]
    told += [server.ask("GET", "/", Cookie=server.cookie()).body, server.log.read_bytes()]
    for text in told:
        assert b"sesame" not in text


@pytest.mark.parametrize("engine", ENGINES)
def test_an_api_without_a_page(engine: str, start: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    with start(engine, tmp_path, "--nowebui") as server:
        answers = without_login(server)
        refused = {what for what, status in answers.items() if status in (401, 403)}
        assert set(answers) == refused
        # There is no such route, and nothing else answers under its name.
        assert server.ask("GET", "/internal/ping").status == 404
        assert server.ask("GET", "/sdapi/v1/options", Authorization=basic()).status == 200
        assert server.ask("GET", "/sdapi/v1/options", Cookie="access-token=x").status == 401


def refusal(folder: pathlib.Path, **environment: str) -> str:
    """What serve.py says when it does not start."""
    done = subprocess.run(
        [environment_of("automatic1111"), "-B", ROLE_FILES / "host/webui/serve.py", HERE / "app"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], **environment},
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not hold one line user:password"),
        (b"word-only\n", "does not hold one line user:password"),
        (b":word\n", "does not hold one line user:password"),
        (b"me:\n", "does not hold one line user:password"),
        (b"me:word\nyou:word\n", "does not hold one line user:password"),
        (b"me:wo,rd\n", "holds a comma"),
        (b"me:word \n", "has blanks around the login"),
        (b"me:w\xf6rd\n", "is not UTF-8"),
    ],
)
def test_a_login_that_cannot_be_used_is_no_login(content: bytes, said: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "login").write_bytes(content)
    found = refusal(tmp_path, SD_WEBUI_LOGIN="required", CREDENTIALS_DIRECTORY=str(tmp_path))
    assert said in found and "word\n" not in found and "wo,rd" not in found


def test_a_login_that_is_wanted_and_not_there(tmp_path: pathlib.Path) -> None:
    assert "cannot be read" in refusal(tmp_path, SD_WEBUI_LOGIN="required", CREDENTIALS_DIRECTORY=str(tmp_path))
    assert "cannot be read" in refusal(tmp_path, SD_WEBUI_LOGIN="required")
    assert "neither empty nor required" in refusal(tmp_path, SD_WEBUI_LOGIN="yes")
