# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running web UI is told about models, whoever brought them. The tests run in the order of this file."""

from __future__ import annotations

from typing import Any

from waiting import wait_for

testinfra_hosts = ["model-fetch"]

STORE = "/srv/sd/models"
MODEL = "/srv/sources/local.safetensors"
# Asks the web UI for a picture of so many steps of a second each that it does not end before it is interrupted.
ASK = """
import base64, json, sys, urllib.request
login = "Basic " + base64.b64encode(open("/etc/sd-webui/login", "rb").read().strip()).decode()
asked = json.dumps({"prompt": "a", "steps": 3600, "width": 8, "height": 8}).encode()
url = "http://127.0.0.1:7860/sdapi/v1/" + sys.argv[1]
urllib.request.urlopen(urllib.request.Request(url, asked, {"Authorization": login}))
"""


def test_what_a_person_copies_in_is_told_once_it_is_whole(host: Any, webui: Any, told: Any) -> None:
    # As scp does it: to the final name. It takes longer than the watch waits, and half of a model does not count.
    target = f"{STORE}/lora/dropped.safetensors"
    # What others call a file that is on its way, and what is no model.
    names = "a.safetensors.part .b.safetensors.Xa1b2c .syncthing.c.safetensors.tmp d.safetensors.filepart notes.txt"
    host.check_output(f"cd {STORE}/vae && for name in {names}; do cp {MODEL} $name; done")
    host.check_output(f"head -c 100000 {MODEL} >{target}; sleep 8; tail -c +100001 {MODEL} >/run/rest")
    assert webui.refreshes() == []
    host.check_output(f"cat /run/rest >>{target}; cmp {target} {MODEL}")
    wait_for(webui.refreshes)
    assert webui.refreshes() == ["refresh-loras"]
    wait_for(lambda: [line for line in told() if "new: lora/dropped.safetensors" in line])
    # As rsync and syncthing end: the name comes last.
    host.check_output(f"cd {STORE}/vae && mv .b.safetensors.Xa1b2c b.safetensors")
    wait_for(lambda: webui.refreshes()[1:])
    assert webui.refreshes()[1:] == ["refresh-vae"]


def test_subfolders_are_looked_through_by_the_timer(host: Any, webui: Any) -> None:
    # Not once a minute, so that nobody has to wait here.
    folder = "/run/systemd/system/secondhand-model-watch.timer.d"
    host.check_output(
        f"mkdir -p {folder} && printf '[Timer]\\nOnUnitInactiveSec=2\\nAccuracySec=1\\n' >{folder}/fast.conf && "
        "systemctl daemon-reload && systemctl restart secondhand-model-watch.timer"
    )
    count = len(webui.refreshes())
    host.check_output(f"mkdir -p {STORE}/controlnet/mine/deep && cp {MODEL} {STORE}/controlnet/mine/deep/")
    wait_for(lambda: webui.refreshes()[count:])
    assert webui.refreshes()[count:] == ["model_list?update=true"]
    host.check_output(f"rm -r {folder} && systemctl daemon-reload && systemctl restart secondhand-model-watch.timer")


def test_a_picture_that_is_being_made_comes_first(host: Any, webui: Any) -> None:
    count = len(webui.refreshes())
    host.check_output(f"cat >/run/ask.py <<'END'\n{ASK}END\nsystemd-run --quiet python3 /run/ask.py txt2img")
    wait_for(lambda: "POST /sdapi/v1/txt2img" in webui.asked())

    def looks() -> int:
        asked = webui.asked()
        return len([line for line in asked[asked.index("POST /sdapi/v1/txt2img") :] if "/sdapi/v1/progress" in line])

    host.check_output(f"install -m 0600 {MODEL} {STORE}/embedding/mine-alone.safetensors")
    # It asks how far the picture is, again and again, before it asks for anything else.
    wait_for(lambda: looks() > 1)
    assert webui.refreshes()[count:] == []
    host.check_output("python3 /run/ask.py interrupt")
    wait_for(lambda: webui.refreshes()[count:])
    assert webui.refreshes()[count:] == ["refresh-embeddings"]


def test_says_which_files_the_web_ui_cannot_read(told: Any) -> None:
    path = f"{STORE}/embedding/mine-alone.safetensors"
    wait_for(lambda: [line for line in told() if f"user sd cannot read {path}" in line])
    assert [line for line in told() if "cannot read" in line and path not in line] == []


def test_the_journal_has_neither_noise_nor_the_login(told: Any) -> None:
    assert [line for line in told() if line.startswith(("Starting", "Finished")) or "Deactivated" in line] == []
    assert [line for line in told() if "secret-of-the-web-ui" in line] == []
