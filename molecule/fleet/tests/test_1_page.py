# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person and their programs get at the one address: the page, its progress bar, pictures."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import pytest
from fleet import gradio_queue
from fleet.members import SERVERS
from waiting import wait_for


def test_it_says_where_everything_is(fleet: Any) -> None:
    described = fleet.described
    assert (described["schema"], described["https_port"], described["http_port"]) == (1, 443, 80)
    assert described["certificate"] == "self-signed" and described["url"].startswith("https://")
    assert [(server["name"], server["address"], server["port"]) for server in described["servers"]] == [
        (server, fleet.address(server), 7860) for server in SERVERS
    ]
    # Three processors of one kind: nobody is preferred.
    assert len({server["weight"] for server in described["servers"]}) == 1


def test_a_server_listens_where_its_gateway_reaches_it(fleet: Any) -> None:
    for server in SERVERS:
        engine = json.loads(fleet.on(server, "cat /etc/sd-webui/engine.json"))
        assert engine["address"] == fleet.address(server) and engine["auth_file"], engine


def test_the_page_stays_with_its_server(fleet: Any) -> None:
    us = fleet.client()
    page = us.ask("/")
    assert page.status == 200 and b"txt2img_prompt" in page.body
    given = page.headers.get_all("Set-Cookie") or []
    for cookie in given:
        assert {"secure", "httponly"} <= {part.strip().lower() for part in cookie.split(";")}, cookie
    cookies = {"Cookie": "; ".join(cookie.partition(";")[0] for cookie in given)}
    assert len({us.ask("/test/request", headers=cookies).json()["host"] for _time in range(6)}) == 1
    # And others get to others.
    assert len({us.ask("/test/request").json()["host"] for _time in range(30)}) == len(SERVERS)


def test_a_browser_logs_in_once(fleet: Any) -> None:
    """Not every browser sends name and password along with a websocket; what it was given instead has to do."""
    us = fleet.client()
    cookies = "; ".join(value.partition(";")[0] for value in us.ask("/").headers.get_all("Set-Cookie") or [])
    assert "sd_gateway=" in cookies
    assert us.ask("/config", login=False, headers={"Cookie": cookies}).status == 200
    assert us.upgrade("/queue/join", login=False, headers={"Cookie": cookies}) == 101
    name, _, value = next(part.strip() for part in cookies.split(";") if "sd_gateway=" in part).partition("=")
    for wrong in ("", "x", value[:-1], value[:-1] + ("0" if value[-1] != "0" else "1"), "0" * len(value)):
        assert us.ask("/config", login=False, headers={"Cookie": f"{name}={wrong}"}).status == 401, wrong


def test_the_progress_bar_moves(fleet: Any) -> None:
    cookies = fleet.page_of("sd-fleet-2")
    us, made_by = fleet.client(), []
    page = threading.Thread(target=lambda: made_by.append(fleet.press_button(cookies, "task(bar)", 60)))
    page.start()
    seen: set[float] = set()

    def asked() -> bool:
        answer = us.ask("/internal/progress", content={"id_task": "task(bar)"}, headers=cookies)
        assert answer.status == 200, answer.body
        if answer.json()["active"]:
            seen.add(answer.json()["progress"])
        return bool(answer.json()["completed"])

    wait_for(asked)
    page.join()
    assert made_by == ["sd-fleet-2"]
    # A machine that stands still sees fewer of the sixty.
    assert len(seen) >= 3 and all(0 <= step < 1 for step in seen)
    hint = us.ask("/internal/quicksettings-hint", headers=cookies)
    assert hint.status == 200 and hint.json()[0]["name"] == "sd_model_checkpoint"
    assert us.ask("/internal/pending-tasks", headers=cookies).status == 200
    assert us.ask("/internal/ping", headers=cookies).status == 200


def test_a_picture_of_the_api(fleet: Any) -> None:
    asked = {"prompt": "a", "steps": 1, "width": 64, "height": 64, "seed": 7, "sampler_name": "Euler"}
    for path in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img"):
        answer = fleet.client().ask(path, content=asked)
        assert answer.status == 200 and base64.b64decode(answer.json()["images"][0]).startswith(b"\x89PNG")


def test_an_engine_sees_the_gateway_s_login_and_nobody_else_s(fleet: Any) -> None:
    us = fleet.client()
    cookies = "; ".join(value.partition(";")[0] for value in us.ask("/").headers.get_all("Set-Cookie") or [])
    forged = {"X-Forwarded-For": "192.0.2.66", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    told = us.ask("/test/request", headers={"Cookie": f"{cookies}; own=kept", **forged}).json()
    headers: dict[str, list[str]] = {}
    for name, value in told["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    login = base64.b64decode(headers["authorization"][0].partition(" ")[2]).decode()
    assert login == fleet.on(told["host"], "cat /etc/sd-webui/login")
    assert "correct-horse" not in json.dumps(told)
    assert "own=kept" in headers["cookie"][0]
    assert "sd_gateway" not in headers["cookie"][0] and "SDSERVER" not in headers["cookie"][0]
    assert headers["x-forwarded-proto"] == ["https"]
    assert headers["x-forwarded-host"] == [fleet.client().url.removeprefix("https://")]
    assert len(headers["x-forwarded-for"]) == 1 and headers["x-forwarded-for"] != [forged["X-Forwarded-For"]]
    assert "evil.example" not in json.dumps(told)


def test_the_queue_of_the_page_is_for_its_own_site_only(fleet: Any) -> None:
    us = fleet.client()
    own, other = {"Origin": us.url}, {"Origin": "https://evil.example"}
    assert us.upgrade("/queue/join", headers=own) == 101
    assert us.upgrade("/queue/join", headers=other) == 403
    with pytest.raises(gradio_queue.Refused):
        gradio_queue.press_button(us.url, ["task(evil)", "a", 1], {**us.basic, **other}, us.tls)


def test_statistics_are_for_this_host_only(fleet: Any) -> None:
    place = fleet.described["stats"]
    assert place == "127.0.0.1:8405"
    script = f"import urllib.request as r; print(r.urlopen('http://{place}/metrics').read().decode())"
    metrics = fleet.on("sd-fleet-gateway", f'python3 -c "{script}"')
    assert "haproxy_backend_" in metrics
    # The job of the page has just ended.
    wait_for(lambda: all(fleet.state(server).startswith("UP") for server in SERVERS))


def test_the_access_log_is_in_the_journal(fleet: Any) -> None:
    fleet.client().ask("/config?needle=in-a-haystack")
    unit = fleet.described["unit"]
    said = fleet.on("sd-fleet-gateway", f"journalctl --quiet --output=cat --unit={unit} | grep -F /config")
    assert "200" in said
