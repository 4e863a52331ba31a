# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet as its owner sees it from the controller, with a shell on each host, and the hub of its models."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from waiting import PATIENCE

from fleet import client, gradio_queue, made

GATEWAY, STRANGER = "sd-fleet-gateway", "sd-fleet-stranger"
SERVERS = ["sd-fleet-1", "sd-fleet-2", "sd-fleet-3"]
MEMBERS = [GATEWAY, *SERVERS]
LOGIN = "keeper:correct-horse-battery"
JOBS = "/srv/sd/webui/jobs.jsonl"
# Which of some ports of a host take a connection.
CONNECT = """
python3 - {address} {ports} <<'END'
import socket, sys
for port in sys.argv[2:]:
    try:
        socket.create_connection((sys.argv[1], int(port)), timeout=3).close()
        print(port)
    except OSError:
        pass
END
"""


class Fleet:
    """All of its hosts."""

    def __init__(self, folder: Path) -> None:
        entries = yaml.safe_load(Path(os.environ["MOLECULE_INSTANCE_CONFIG"]).read_text(encoding="utf-8"))
        self._logins = {entry["instance"]: entry for entry in entries}
        self._folder = folder
        (folder / "gateway.pem").write_text(self.on(GATEWAY, "openssl x509 -in /etc/sd-gateway/certificate.pem"))
        self.cafile = str(folder / "gateway.pem")
        self.described: dict[str, Any] = json.loads(self.on(GATEWAY, "cat /etc/sd-gateway/gateway.json"))

    def address(self, host: str) -> str:
        return str(self._logins[host]["address"])

    def run(self, host: str, script: str) -> subprocess.CompletedProcess[str]:
        """A script on a host, as root. It comes over stdin: no log of the host gets to know it."""
        login = self._logins[host]
        ssh = ["ssh", "-i", login["identity_file"], "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]
        ssh += [
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            f"ControlPath={self._folder}/%h",
            "-o",
            "ControlMaster=auto",
        ]
        ssh += ["-o", "ControlPersist=60", f"{login['user']}@{login['address']}", "sudo", "bash", "-s"]
        return subprocess.run(ssh, input=script, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def on(self, host: str, script: str) -> str:
        """What a script that has to work prints."""
        done = self.run(host, script)
        assert done.returncode == 0, f"{host}: {script}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def everywhere(self, hosts: list[str], script: str) -> dict[str, str]:
        """The same on several."""
        with ThreadPoolExecutor(len(hosts)) as pool:
            return dict(zip(hosts, pool.map(lambda host: self.on(host, script), hosts)))

    @property
    def url(self) -> str:
        return f"https://{self.address(GATEWAY)}"

    def client(self, login: str = LOGIN, scheme: str = "https") -> client.Client:
        """Somebody on the controller, who is on the LAN."""
        return client.Client(f"{scheme}://{self.address(GATEWAY)}", login, self.cafile)

    def open_ports(self, source: str, target: str, ports: str = "22 80 443 7860 7861 7862 8405") -> set[int]:
        """What of another host one of them reaches."""
        found = self.on(source, CONNECT.format(address=self.address(target), ports=ports))
        return {int(port) for port in found.split()}

    def page_of(self, server: str) -> dict[str, str]:
        """The cookies of a browser whose page this server has sent."""
        for _time in range(40):
            answer = self.client().ask("/")
            assert answer.status == 200, answer.body[:500]
            given = [value.partition(";")[0] for value in answer.headers.get_all("Set-Cookie") or []]
            cookies = {"Cookie": "; ".join(given)}
            if self.client().ask("/test/request", headers=cookies).json()["host"] == server:
                return cookies
        raise AssertionError(f"40 browsers, and none of them got {server}")

    def press_button(self, cookies: dict[str, str], name: str, steps: int) -> str:
        """A picture from the page: who has made it. Takes as long as the steps."""
        us = self.client()
        made_by = gradio_queue.press_button(us.url, [name, name, steps], {**us.basic, **cookies}, us.tls)
        return str(json.loads(made_by[0])["host"])

    def statistics(self) -> dict[tuple[str, str], dict[str, str]]:
        """HAProxy's own, by proxy and server."""
        place = self.described["stats"]
        script = f"import urllib.request as r; print(r.urlopen('http://{place}/;csv').read().decode())"
        text = self.on(GATEWAY, f'python3 -c "{script}"')
        rows = csv.DictReader(io.StringIO(text.lstrip("# ")))
        return {(row["pxname"], row["svname"]): row for row in rows}

    def state(self, server: str, backend: str = "generate") -> str:
        """As HAProxy calls it: UP, DOWN, MAINT; and DRAIN, as its page calls it, for one without weight."""
        row = self.statistics()[backend, server]
        return "DRAIN" if row["status"].startswith("UP") and row["weight"] == "0" else row["status"]

    def jobs(self, servers: list[str] | None = None) -> list[made.Job]:
        """All that the web UIs have been asked to make since they were installed."""
        texts = self.everywhere(servers or SERVERS, f"cat {JOBS} 2>/dev/null || true")
        return [job for server, text in texts.items() for job in made.read_jobs(server, text)]

    def load(self, *options: str, name: str = "load") -> None:
        """Starts load.py at the stranger's."""
        self.on(
            STRANGER,
            f"""
            umask 077
            mkdir -p /root/load
            printf '%s\\n' '{LOGIN}' >/root/load/login
            cat >/root/load/gateway.pem <<'END'
{Path(self.cafile).read_text()}
END
            rm -f /root/load/{name}.*
            systemd-run --quiet --collect --unit=load-{name} python3 -B /srv/fleet/load.py {self.url} --name {name} \
              --login-file /root/load/login --cafile /root/load/gateway.pem --out /root/load/{name}.json \
              --count /root/load/{name}.count {" ".join(options)}
            """,
        )

    def loaded(self, name: str = "load") -> int:
        """How many pictures there are so far."""
        return int(self.on(STRANGER, f"cat /root/load/{name}.count 2>/dev/null || echo 0") or 0)

    def load_result(self, name: str = "load") -> dict[str, Any]:
        """Once it is over."""
        path = f"/root/load/{name}.json"
        script = f"while [ ! -e {path} ] && systemctl is-active --quiet load-{name}; do sleep 0.2; done; cat {path}"
        result: dict[str, Any] = json.loads(self.on(STRANGER, script))
        return result


class Hub:
    """The hub and its storage host, at the stranger's."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.described: dict[str, Any] = json.loads(fleet.on(STRANGER, "cat /srv/hub-files/hubs.json"))

    def file(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.described["files"][f"{name}.safetensors"]
        return found

    def entry(self, name: str) -> dict[str, Any]:
        """As model_fetch_models has it."""
        repository = f"maker/{name}"
        revision = self.described["repos"][repository]["main"]
        file = f"{name}.safetensors"
        return {"source": "huggingface", "type": "lora", "repository": repository, "file": file, "revision": revision}

    def served(self, name: str) -> int:
        """Bytes of a file that have come from there."""
        lines = self.fleet.on(STRANGER, "cat /srv/hub-files/requests.jsonl").splitlines()
        requests = [json.loads(line) for line in lines]
        return sum(
            request["bytes_sent"]
            for request in requests
            if request["server"].startswith("storage") and f"/{name}.safetensors" in request["path"]
        )
