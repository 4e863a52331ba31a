# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running state: the process, its answers, the login in front of all of them, its sandbox, its return."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

testinfra_hosts = ["sd-a1111"]

# What is open before a login: the page that asks for it, and proof of life.
OPEN = {"/", "/internal/ping", "/startup-events"}
NOTHING_AND_A_BODY: list[dict[str, Any]] = [{}, {"json": {}}]
# Beside the routes that the server itself lists: what it mounts, gradio's own, and an extension's.
UNLISTED = [
    "/config",
    "/info",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/file=/etc/passwd",
    "/file/etc/passwd",
    "/run/predict",
    "/queue/status",
    "/queue/join",
    "/reset",
    "/upload",
    "/token",
    "/user",
    "/proxy=http://127.0.0.1/",
    "/static/img/logo.svg",
    "/assets/index.js",
    "/sd_extra_networks/thumb",
    "//internal/sysinfo",
    "/internal/ping/../sysinfo",
    "/secondhand-test/hello",
]


def test_process_is_the_current_release(host: Any, webui: Any) -> None:
    current = host.check_output("readlink -f /opt/sd-webui/current")
    assert webui.arguments[0] == f"{current}/venv/bin/python"
    assert "--skip-prepare-environment" in webui.arguments
    assert host.check_output(f"ps -o user= -p {webui.pid}").strip() == "sd"
    assert webui.release == host.check_output("basename $(readlink -f /opt/sd-webui/current)")


def test_listens_on_its_address_only(host: Any, webui: Any) -> None:
    listeners = host.check_output("ss -Hltn 'sport = :7860'").splitlines()
    assert [line.split()[3] for line in listeners] == [webui.url.removeprefix("http://")]


def test_engine_file_keeps_the_contract(host: Any, webui: Any) -> None:
    engine = json.loads(host.check_output("cat /etc/sd-webui/engine.json"))
    assert engine["engine"] == "automatic1111"
    assert engine["auth_file"] == "/etc/sd-webui/login"
    assert set(engine["profiles"]) == {"cpu", "gpu_lowvram", "gpu_medvram", "gpu_full"}
    for key in ("health_path", "readiness_path", "progress_path"):
        assert webui.ask(engine[key]).status_code == 200


def test_login_form(webui: Any) -> None:
    """A person gets a form, and with the right password the page and what belongs to it."""
    page = webui.ask("/", login=False, headers={"Accept": "text/html", "User-Agent": "Mozilla/5.0"})
    assert page.status_code == 200 and "password" in page.text and "txt2img_prompt" not in page.text
    user, _ = webui.login
    wrong = webui.ask("/login", login=False, data={"username": user, "password": "guessed"})
    assert wrong.status_code == 400 and not wrong.cookies
    with webui.browser() as browser:
        assert "txt2img_prompt" in browser.get(f"{webui.url}/", timeout=20).text
        assert browser.get(f"{webui.url}/config", timeout=20).json()["title"] == "Stable Diffusion"


def test_nothing_without_a_login(webui: Any) -> None:
    """All routes that the server has, and those it does not list."""
    listed = webui.get("/openapi.json")["paths"]
    assert {"/sdapi/v1/txt2img", "/internal/sysinfo", "/secondhand-test/hello"} <= set(listed)
    for path in [*listed, *UNLISTED]:
        for options in NOTHING_AND_A_BODY:
            if path in ("/login", "/login/") and options:
                continue
            answer = webui.ask(path, login=False, **options)
            if path in OPEN and not options:
                assert answer.status_code == 200, path
            else:
                assert answer.status_code == 401, (path, options, answer.status_code, answer.text[:200])
    wrong = requests.get(f"{webui.url}/sdapi/v1/options", auth=(webui.login[0], "guessed"), timeout=20)
    assert wrong.status_code == 401


@pytest.mark.parametrize("login", [False, True])
def test_websocket_needs_the_login_too(webui: Any, login: bool) -> None:
    """Gradio's queue: the upgrade itself is refused."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    with webui.browser() if login else requests.Session() as browser:
        answer = browser.get(f"{webui.url}/queue/join", headers=upgrade, stream=True, timeout=20)
        assert answer.status_code == (101 if login else 403)


def test_password_is_shown_nowhere(host: Any, webui: Any) -> None:
    """Not on a command line, in an environment, in the journal, in a file that others read, or by the server."""
    _, password = webui.login
    assert len(password) >= 16
    assert host.check_output("stat -c '%U %G %a' /etc/sd-webui/login") == "root root 600"
    # Bytes of files and not words on a command line, where the search would find itself.
    host.check_output("cut -d: -f2- /etc/sd-webui/login >/root/secret; chmod 600 /root/secret")
    processes = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -caFf /root/secret"
    assert host.run(processes).stdout.strip() == "0"
    assert "COMMANDLINE_ARGS" not in host.check_output(f"tr '\\0' '\\n' < /proc/{webui.pid}/environ")
    assert host.run("journalctl --quiet --no-pager | grep -cFf /root/secret").stdout.strip() == "0"
    found = host.run(
        "find /etc /srv /var/lib/sd-webui /var/log /run /opt/sd-webui -xdev -type f -perm /044 -size -4M "
        "-not -path '*/venv/*' -not -path '/run/log/*' -exec grep -lFf /root/secret {} +"
    )
    assert found.stdout == ""
    for path in (
        "/internal/sysinfo",
        "/internal/sysinfo-download",
        "/sdapi/v1/cmd-flags",
        "/sdapi/v1/options",
    ):
        answer = webui.ask(path)
        assert answer.status_code in (200, 403, 404) and password not in answer.text, path


def test_nobody_installs_extensions_through_the_page(webui: Any) -> None:
    assert "--enable-insecure-extension-access" not in webui.arguments
    assert "--server-name" in webui.arguments


def test_txt2img_makes_the_same_picture_for_the_same_seed(webui: Any) -> None:
    first, info = webui.generate()
    assert first.startswith("iVBOR") and info["version"] == "v1.10.1"
    assert webui.generate()[0] == first
    assert webui.generate(seed=8)[0] != first


def test_pictures_are_kept_in_the_outputs(host: Any, webui: Any) -> None:
    seed = time.time_ns() // 1000
    webui.generate(seed=seed, save_images=True)
    found = host.check_output(f"find /srv/sd/outputs/txt2img-images -name '*-{seed}.png'")
    assert len(found.splitlines()) == 1


def test_managed_settings_are_in_force(host: Any, webui: Any) -> None:
    options = webui.get("/sdapi/v1/options")
    assert options["CLIP_stop_at_last_layers"] == 2
    assert options["sd_model_checkpoint"].startswith("tiny.safetensors")
    styles = {style["name"]: style["prompt"] for style in webui.get("/sdapi/v1/prompt-styles")}
    assert styles == {"house style": "{prompt}, oil painting"}
    page = json.loads(host.check_output("cat /srv/sd/webui/ui-config.json"))
    assert page["txt2img/Sampling steps/value"] == 12


def test_extension_is_there(webui: Any) -> None:
    assert webui.get("/secondhand-test/hello") == {"version": "1.0", "navy": "#000080"}


def test_pytorch_works_in_the_sandbox(host: Any, webui: Any) -> None:
    build = json.loads(host.check_output("cat /opt/sd-webui/current/build.json"))
    mapped = host.check_output(f"cat /proc/{webui.pid}/maps")
    assert ("libtorch_cpu" in mapped) == (build["torch"]["build"] == "cpu")


def test_sandbox(host: Any, webui: Any) -> None:
    report = host.run("systemd-analyze security --no-pager sd-webui.service").stdout
    exposure = re.search(r"exposure level for sd-webui.service: ([\d.]+)", report)
    assert exposure is not None and float(exposure.group(1)) <= 3.5, report
    # What the kernel enforces on the process, not what the unit file says.
    status = host.check_output(f"cat /proc/{webui.pid}/status")
    assert re.search(r"NoNewPrivs:\s+1", status) and re.search(r"Seccomp:\s+2", status)
    assert re.search(r"CapEff:\s+0000000000000000", status)
    inside = f"nsenter --target {webui.pid} --mount --"
    for path in (
        "/etc",
        "/srv/sd/models/checkpoint",
        "/srv/sd/webui/extensions",
        "$(readlink -f /opt/sd-webui/current)/webui",
    ):
        assert host.run(f"{inside} touch {path}/sd-was-here").rc != 0, path
    owned = host.check_output(
        "find -L /opt/sd-webui/current/webui /opt/sd-webui/current/venv -not -user root | head -3"
    )
    assert [path for path in owned.splitlines() if "/tmp" not in path and "/config_states" not in path] == []


def test_journal_has_what_webui_log_had(host: Any, webui: Any) -> None:
    assert "Model loaded" in host.check_output(f"journalctl --quiet --no-pager -u sd-webui _PID={webui.pid}")


def test_it_comes_back_after_a_kill(host: Any, webui: Any) -> None:
    before = webui.pid
    host.check_output(f"kill -9 {before}")
    time.sleep(1)
    webui.wait()
    assert webui.pid not in ("0", before)


def test_it_starts_without_the_internet(
    host: Any, webui: Any, asked_of_sources: Callable[[], list[dict[str, str]]]
) -> None:
    """No route out of the LAN, and nothing asked of the sources: all that it needs was installed."""
    before = len(asked_of_sources())
    gateway = host.check_output("ip route show default")
    host.check_output("ip route del default")
    try:
        host.check_output("systemctl restart sd-webui")
        webui.generate()
    finally:
        host.check_output(f"ip route add {gateway}")
    assert len(asked_of_sources()) == before
    said = host.check_output(f"journalctl --quiet --no-pager -u sd-webui _PID={webui.pid}")
    assert "Error" not in said and "***" not in said, said


def test_stop_is_clean(host: Any, webui: Any) -> None:
    host.check_output("systemctl stop sd-webui")
    shown = host.check_output("systemctl show --property=Result,ActiveState,MainPID sd-webui")
    assert dict(line.split("=") for line in shown.splitlines()) == {
        "Result": "success",
        "ActiveState": "inactive",
        "MainPID": "0",
    }
    host.check_output("systemctl start sd-webui")
    assert webui.ask("/internal/ping", login=False).json() == {}


def test_without_its_login_it_does_not_start(host: Any, webui: Any) -> None:
    """Never open by accident."""
    host.check_output("mv /etc/sd-webui/login /root/login")
    try:
        assert host.run("timeout 20 systemctl restart sd-webui").rc != 0
        with pytest.raises(requests.ConnectionError):
            webui.ask("/internal/ping")
    finally:
        host.check_output("mv /root/login /etc/sd-webui/login; systemctl restart sd-webui")
    assert webui.ask("/internal/ping", login=False).status_code == 200
