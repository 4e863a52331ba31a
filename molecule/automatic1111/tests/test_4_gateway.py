# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway in front of Gradio itself: every route that the server has, its queue, and the progress bar."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from fleet import client, gradio_queue

testinfra_hosts = ["sd-a1111"]

TARGET = "sd-a1111"
LOGIN = "keeper:correct-horse-battery"


@pytest.fixture(scope="module")
def gateway(host: Any, playbook: Any, tmp_path_factory: pytest.TempPathFactory) -> client.Client:
    """As site.yml has it by default: the web UI on loopback, and HAProxy with the login in front."""
    user, _, password = LOGIN.partition(":")
    wanted = {"sd_webui_address": "127.0.0.1", "gateway_users": [{"name": user, "password": password}]}
    run = playbook("playbooks/site.yml", TARGET, "--tags", "sd_webui,gateway", **wanted)
    assert run.returncode == 0, run.output
    assert password not in run.output
    cafile = tmp_path_factory.mktemp("gateway") / "gateway.pem"
    cafile.write_text(host.check_output("openssl x509 -in /etc/sd-gateway/certificate.pem"), encoding="ascii")
    address = host.check_output("hostname -I").split()[0]
    return client.Client(f"https://{address}", LOGIN, str(cafile))


def test_the_web_ui_itself_is_on_loopback(host: Any, gateway: client.Client) -> None:
    listeners = host.check_output("ss -Hltn 'sport = :7860'").splitlines()
    assert [line.split()[3] for line in listeners] == ["127.0.0.1:7860"]
    page = gateway.ask("/")
    assert page.status == 200 and b"txt2img_prompt" in page.body


def test_no_route_answers_without_the_login(gateway: client.Client) -> None:
    listed = gateway.ask("/openapi.json").json()["paths"]
    assert {"/sdapi/v1/txt2img", "/internal/sysinfo", "/secondhand-test/hello", "/login"} <= set(listed)
    filled = {path.replace("{", "").replace("}", "") for path in listed}
    stranger = client.Client(gateway.url, cafile=gateway.cafile)
    assert stranger.without_login(sorted(filled | set(client.AUTOMATIC1111_ROUTES))) == {}
    assert stranger.without_login([*client.DENIED, *client.STRANGE], ("GET",)) == {}
    for path in ("/queue/join", "/", "/nowhere"):
        assert stranger.upgrade(path) == 401, path


def test_what_leaks_or_controls_is_denied(gateway: client.Client) -> None:
    for path in client.DENIED:
        for method, content in (("GET", None), ("POST", {})):
            assert gateway.ask(path, method, content).status == 403, (method, path)
    for path in client.STRANGE:
        assert b"Commandline" not in gateway.ask(path).body, path


def test_the_queue_and_the_progress_bar(gateway: client.Client) -> None:
    """A picture from the page, over Gradio's websocket, seen on its way."""
    shown: list[Any] = []
    # It does not end by itself before it was seen.
    data = ["task(gateway)", "a lighthouse", "", 10_000, 64, 64, 7]
    headers = {**gateway.basic, "Origin": gateway.url}
    page = threading.Thread(
        target=lambda: shown.extend(gradio_queue.press_button(gateway.url, data, headers, gateway.tls))
    )
    page.start()
    seen: set[float] = set()
    deadline = time.monotonic() + 300
    while len(seen) < 3:
        assert page.is_alive() and time.monotonic() < deadline
        told = gateway.ask("/internal/progress", content={"id_task": "task(gateway)"}).json()
        if told["active"]:
            seen.add(told["progress"])
        time.sleep(0.1)
    assert gateway.ask("/sdapi/v1/interrupt", content={}).status == 200
    page.join()
    assert str(shown[0]).startswith("data:image/png")
    assert gateway.ask("/internal/progress", content={"id_task": "task(gateway)"}).json()["completed"] is True


def test_the_agent_check_sees_a_job_of_the_page(host: Any, gateway: client.Client) -> None:
    """HAProxy is told to send nobody else here, and to go on afterwards."""
    port = 7861
    question = (
        f"import socket; s = socket.create_connection(('127.0.0.1', {port}), 60); print(s.makefile().read().split()[2])"
    )
    ask = f'python3 -c "{question}"'
    deadline = time.monotonic() + 300
    while host.check_output(ask) != "100%":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    data = ["task(agent)", "a lighthouse", "", 10_000, 64, 64, 7]
    arguments = (gateway.url, data, gateway.basic, gateway.tls)
    page = threading.Thread(target=gradio_queue.press_button, args=arguments)
    page.start()
    while host.check_output(ask) != "0%":
        assert page.is_alive() and time.monotonic() < deadline, "the job was not seen"
        time.sleep(0.2)
    assert gateway.ask("/sdapi/v1/interrupt", content={}).status == 200
    page.join()
    while host.check_output(ask) != "100%":
        assert time.monotonic() < deadline
        time.sleep(0.5)
