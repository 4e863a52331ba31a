"""What site.yml and update.yml tell the roles, and in which order: with roles that write it down and do nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
Hosts = dict[str, dict[str, Any]]
Step = dict[str, Any]

# What a role's entry point writes down: its name here, and the values.
RECORDED: dict[str, dict[str, dict[str, str]]] = {
    "base": {"main": {}},
    "nvidia_driver": {"main": {}},
    "watchdog": {"main": {}},
    "sd_webui": {
        "main": {
            "address": "{{ sd_webui_address }}",
            "allow_unauthenticated": "{{ sd_webui_allow_unauthenticated | bool }}",
            "user": "{{ sd_webui_login_user }}",
            "password": "{{ sd_webui_login_password }}",
            "drained": "{{ drain_file is exists }}",
        },
        "models": {"mirrors": "{{ model_fetch_mirrors | default([]) }}", "address": "{{ sd_webui_address }}"},
    },
    "model_fetch": {
        "main": {"mirrors": "{{ model_fetch_mirrors }}", "share": "{{ model_fetch_share | bool }}"},
        "share": {},
        "preflight": {},
    },
    "gateway": {
        "main": {"state": "{{ gateway_state }}", "servers": "{{ gateway_servers }}"},
        "server": {"mirror": "{{ gateway_mirror | bool }}", "is_open": "{{ _gateway_server_is_open | default('') }}"},
    },
}
# And what the playbooks need of an entry point.
MORE: dict[str, dict[str, list[dict[str, Any]]]] = {
    "sd_webui": {
        "main": [
            {
                "ansible.builtin.set_fact": {
                    "_sd_webui_engine_has_login": "{{ sd_webui_engine != 'stable_diffusion_cpp' }}",
                    "__sd_webui_running_release": {"content": '{{ \'{"id": "r2"}\' | b64encode }}'},
                }
            },
            {"ansible.builtin.fail": {"msg": "It does not start."}, "when": "breaks | default(false)"},
        ]
    },
    "model_fetch": {"look": [{"ansible.builtin.set_fact": {"__model_fetch_missing": "{{ lacks | default([]) }}"}}]},
    "gateway": {
        "servers_login": [
            {
                "ansible.builtin.slurp": {"src": "{{ login_file }}"},
                "register": "__gateway_servers_login",
                "failed_when": False,
                "no_log": True,
            }
        ]
    },
}
# Of the controller: a module would be Python started anew for each step of each host.
NOTE = """\
import json

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        if task_vars["ansible_connection"] != "local":
            raise AnsibleConnectionFailure("It is switched off.")
        with open(task_vars["log"], "a") as log:
            log.write(json.dumps(self._task.args) + "\\n")
        return {"changed": True}
"""
# Switched off. Its facts are gathered, which is where it is missed.
GONE = {
    "ansible_connection": "ssh",
    "ansible_host": "127.0.0.1",
    "ansible_port": 9,
    "ansible_facts_modules": ["ansible.builtin.setup"],
}


def write_roles(collection: Path) -> None:
    """The collection, with the roles' own variables and none of their tasks."""
    collection.mkdir(parents=True)
    (collection / "plugins").symlink_to(ROOT / "plugins")
    for role in RECORDED:
        tasks = collection / "roles" / role / "tasks"
        tasks.mkdir(parents=True)
        for folder in ("defaults", "vars", "meta"):
            shutil.copytree(ROOT / "roles" / role / folder, tasks.parent / folder)
        for entry in {*RECORDED[role], *MORE.get(role, {})}:
            steps = list(MORE.get(role, {}).get(entry, []))
            if entry in RECORDED[role]:
                step = {"host": "{{ inventory_hostname }}", "step": f"{role}.{entry}", **RECORDED[role][entry]}
                # Before what fails.
                steps.insert(min(1, len(steps)), {"ansible.legacy.note": step, "throttle": 1, "no_log": True})
            (tasks / f"{entry}.yml").write_text(json.dumps(steps))


class Site:
    """A fleet of hosts that are all this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""
        write_roles(folder / "collections/ansible_collections/secondhand/diffusion")
        shutil.copytree(ROOT / "playbooks", folder / "playbooks", ignore=shutil.ignore_patterns("collections"))
        (folder / "playbooks/action_plugins").mkdir()
        (folder / "playbooks/action_plugins/note.py").write_text(NOTE)
        (folder / "login").write_text("gateway:hush-hush\n")
        # systemd is none of this test's business.
        for name in ("systemctl", "systemd-run"):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
            (folder / "bin" / name).chmod(0o755)

    def run(self, playbook: str, groups: dict[str, Hosts], *options: str, **said: Any) -> tuple[int, list[Step]]:
        """The exit status, and what the roles were told."""
        log = self.folder / "log"
        log.write_text("")
        every = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            # What the plays need of them is in the inventory, and they take longer than most of the rest.
            "ansible_facts_modules": [],
            "log": str(log),
            "login_file": str(self.folder / "login"),
            "drain_file": str(self.folder / "drain"),
            "sd_webui_data_dir": str(self.folder / "data/{{ inventory_hostname }}"),
            **said,
        }
        children = {group: {"hosts": hosts} for group, hosts in groups.items()}
        (self.folder / "inventory.json").write_text(json.dumps({"all": {"vars": every, "children": children}}))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "ansible", "playbook", "-i", "inventory.json", f"playbooks/{playbook}.yml"),
                *("-e", f"_fleet_drain_file={self.folder / 'drain'}"),
                *("-e", f"_fleet_guard_file={self.folder / 'guard'}"),
                *("-e", f"_fleet_gateway_dir={self.folder / 'gateway'}", *options),
            ],
            env={
                **os.environ,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
                "ANSIBLE_NOCOLOR": "1",
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.output = done.stdout + done.stderr
        assert "hush-hush" not in self.output
        return done.returncode, [json.loads(line) for line in log.read_text().splitlines()]

    def have_gateway(self, *servers: str) -> str:
        """As role gateway leaves it; returns the fingerprint of its certificate."""
        folder = self.folder / "gateway"
        folder.mkdir()
        known = {"schema": 1, "url": "https://192.168.1.9/", "certificate": "self-signed"}
        (folder / "gateway.json").write_text(json.dumps({**known, "servers": [{"name": name} for name in servers]}))
        (folder / "certificate.pem").write_text(
            "-----BEGIN PRIVATE KEY-----\naHVzaC1odXNo\n-----END PRIVATE KEY-----\n"
            f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(b'certificate').decode()}\n-----END CERTIFICATE-----\n"
        )
        return ":".join(re.findall("..", hashlib.sha256(b"certificate").hexdigest().upper()))

    def data(self, host: str) -> Path:
        folder = self.folder / "data" / host / "models/checkpoint"
        folder.mkdir(parents=True)
        return folder / "v1-5-pruned-emaonly.safetensors"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def said(site: Site, host: str) -> list[str]:
    """The lines that the last play prints for a host."""
    last = site.output[site.output.index("TASK [Say it]") :]
    found = re.search(rf'ok: \[{host}\] => \{{\s*"msg": (\[.*?\])\s*\}}', last, re.DOTALL)
    assert found, last
    lines: list[str] = json.loads(found[1])
    return lines


def of(steps: list[Step], step: str) -> list[Step]:
    return [each for each in steps if each["step"] == step]


def order(steps: list[Step], *names: str) -> list[tuple[str, str]]:
    return [(each["host"], each["step"]) for each in steps if each["step"] in names]


def assert_turns(found: list[tuple[str, str]], steps: list[str], hosts: set[str]) -> None:
    """One host after the other, each with all its steps; Ansible decides by who answers first whose turn it is."""
    turns = list(dict.fromkeys(host for host, _step in found))
    assert set(turns) == hosts and found == [(host, step) for host in turns for step in steps]


DOOR = {"door": {"gateway_server_address": "192.168.1.9"}}


def fleet(*numbers: int, **more: dict[str, Any]) -> dict[str, Hosts]:
    """Three servers, or those of some numbers, and their gateway."""
    servers = {
        f"closet{number}": {"gateway_server_address": f"192.168.1.{number}", **more.get(f"closet{number}", {})}
        for number in numbers or (1, 2, 3)
    }
    return {"sd_servers": servers, "sd_gateway": DOOR}


def test_one_pc_is_told_nothing_new(site: Site) -> None:
    # With its facts, for once.
    status, steps = site.run("site", {"sd_servers": {"pc": {}}}, ansible_facts_modules=["ansible.builtin.setup"])
    assert status == 0, site.output
    (webui,) = of(steps, "sd_webui.main")
    assert (webui["address"], webui["allow_unauthenticated"], webui["password"]) == ("127.0.0.1", False, "")
    assert [step for _host, step in order(steps, *(step["step"] for step in steps))] == [
        *("base.main", "nvidia_driver.main", "sd_webui.main", "gateway.server", "watchdog.main"),
        *("gateway.main", "model_fetch.main"),
    ]
    assert of(steps, "gateway.main")[0] == {
        "host": "pc",
        "step": "gateway.main",
        "state": "present",
        "servers": ["pc"],
    }
    assert of(steps, "model_fetch.main")[0]["mirrors"] == [] and not of(steps, "model_fetch.main")[0]["share"]


def test_one_pc_without_a_gateway(site: Site) -> None:
    hosts = {"sd_servers": {"pc": {"ansible_user": "me", "sd_webui_port": "7999"}}}
    # As role sd_webui leaves it.
    facts = {
        "sd_webui_url": "http://127.0.0.1:7999/",
        "sd_webui_is_loopback": True,
        "sd_webui_login_file": "/etc/login",
    }
    person = {"sd_webui_address": "0.0.0.0", "sd_webui_login_password": "long-enough"}
    status, steps = site.run("site", hosts, "--tags", "sd_webui,gateway", gateway_state="absent", **facts, **person)
    assert status == 0, site.output
    # Nothing of a gateway is there, so nothing has to be taken away.
    assert {each["step"] for each in steps} == {"sd_webui.main"}
    # What a person says goes before.
    assert (steps[0]["address"], steps[0]["user"], steps[0]["password"]) == ("0.0.0.0", "sd", "long-enough")
    assert said(site, "pc") == [
        "pc is ready: open  http://127.0.0.1:7999/",
        "Log in as sd; the password stands in /etc/login there:  sudo cat /etc/login",
    ]


def test_three_servers_behind_a_gateway(site: Site) -> None:
    site.data("closet2").write_text("")
    fingerprint = site.have_gateway("closet1", "closet2", "closet3")
    groups = fleet(
        closet1={"lacks": ["a"], "sd_webui_engine": "stable_diffusion_cpp"},
        closet3={"lacks": ["a", "b"], "model_fetch_mirrors": "['/mnt/stick', /mnt/disk]"},
    )
    status, steps = site.run("site", groups)
    assert status == 0, site.output

    webuis = {each["host"]: each for each in of(steps, "sd_webui.main")}
    assert {name: each["address"] for name, each in webuis.items()} == {
        "closet1": "192.168.1.1",
        "closet2": "192.168.1.2",
        "closet3": "192.168.1.3",
    }
    # The engine that has no login relies on the firewall; the others have the gateway's.
    told = {name: (each["allow_unauthenticated"], each["user"], each["password"]) for name, each in webuis.items()}
    assert told == {
        "closet1": (True, "gateway", ""),
        "closet2": (False, "gateway", "hush-hush"),
        "closet3": (False, "gateway", "hush-hush"),
    }
    # The ports are closed before there is a web UI, and the mirrors are up before a checkpoint is asked for.
    assert all(each["is_open"] is True and each["mirror"] is True for each in of(steps, "gateway.server")[:3])
    names = [each["step"] for each in steps]
    assert names.index("gateway.server") < names.index("sd_webui.models") < names.index("sd_webui.main")
    assert len(of(steps, "gateway.server")) == 3

    # One has the checkpoint and offers it; then it is the turn of the others, each whole before the next.
    until = names.index("sd_webui.main")
    offered, *turns = order(steps[:until], "model_fetch.share", "sd_webui.models")
    assert offered == ("closet2", "model_fetch.share")
    assert_turns(turns, ["sd_webui.models", "model_fetch.share"], {"closet1", "closet3"})
    (first,) = (each for each in of(steps[:until], "sd_webui.models") if each["host"] == "closet1")
    assert first["mirrors"] == ["http://192.168.1.2:7862", "http://192.168.1.3:7862"]
    assert first["address"] == "192.168.1.1"
    # Models last, and likewise.
    whole, *turns = order(steps, "model_fetch.main")
    assert whole == ("closet2", "model_fetch.main")
    assert_turns(turns, ["model_fetch.main"], {"closet1", "closet3"})
    (third,) = (each for each in of(steps, "model_fetch.main") if each["host"] == "closet3")
    assert third["mirrors"][:2] == ["/mnt/stick", "/mnt/disk"] and len(third["mirrors"]) == 4 and third["share"]

    # HAProxy on the gateway, and nowhere else, when the servers are there.
    (gateway,) = of(steps, "gateway.main")
    assert (gateway["host"], gateway["state"]) == ("door", "present")
    assert gateway["servers"] == ["closet1", "closet2", "closet3"]
    assert [each for each in steps if each["host"] == "door"] == [gateway]
    assert names.index("gateway.main") < names.index("model_fetch.main")

    lines = said(site, "door")
    assert lines[0] == "door is ready: open  https://192.168.1.9/  and log in as sd."
    assert lines[-2:] == [fingerprint, "Behind it: closet1, closet2, closet3."]
    assert said(site, "closet1") == ["closet1 is reached through its gateway door."]


def test_one_of_them_alone(site: Site) -> None:
    groups = fleet(closet1={"gateway_server_address": ""}, closet3={"ansible_host": "192.168.1.33"})
    status, steps = site.run("site", groups, "--limit", "closet2", "--tags", "sd_webui", "-vvv")
    assert status == 0, site.output
    # One of those that are left out was asked where it is, as nothing else tells.
    assert "TASK [Ask for the address of one that this run leaves out]" in site.output
    assert re.search(r"^ok: \[closet2 -> closet1\]", site.output, re.MULTILINE)
    assert of(steps, "sd_webui.models")[0]["mirrors"][-1] == "http://192.168.1.3:7862"
    assert {each["host"] for each in steps} == {"closet2"}
    (webui,) = of(steps, "sd_webui.main")
    # The login is read at a gateway that has no part in the run.
    assert (webui["address"], webui["user"], webui["password"]) == ("192.168.1.2", "gateway", "hush-hush")
    # Where the group sd_gateway is new, what has served on loopback shall listen where others reach it: not before that
    # is closed to all but the gateway, also where nothing but the web UI is asked for.
    assert [each["step"] for each in steps if each["step"] in ("gateway.server", "sd_webui.main")] == [
        "gateway.server",
        "sd_webui.main",
    ]
    assert of(steps, "gateway.server")[0]["is_open"] is True
    # Not even to whoever wants to see everything is the login shown.
    assert "hush-hush" not in site.output and "aHVzaC" not in site.output and "invocation" in site.output
    assert "which knows it as it is now after a site.yml that includes door." in said(site, "closet2")[0]


def test_a_gateway_that_does_not_answer(site: Site) -> None:
    groups = fleet(1, 3, closet3={"sd_webui_address": "192.168.1.3", "gateway_state": "absent"})
    groups["sd_gateway"] = {"door": GONE}
    status, steps = site.run("site", groups)
    assert status != 0
    said = "closet1: its gateway door could not be asked for the login that it uses at its servers; start door and run"
    assert said in " ".join(site.output.split())
    # Nothing was touched there, and who is not behind it goes on.
    assert {each["host"] for each in steps} == {"closet3"}
    assert of(steps, "sd_webui.main")[0]["address"] == "192.168.1.3"


def test_a_dry_run_before_there_is_anything(site: Site) -> None:
    (site.folder / "login").unlink()
    status, _steps = site.run("site", fleet(1, 2), "--check")
    assert status == 0, site.output


@contextmanager
def statistics(drain: Path) -> Iterator[int]:
    """The port of a gateway that gives closets their weight back some time after the drain file has gone."""
    asked: list[bool] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(drain.exists())
            weight = "256" if asked[-3:] == [False] * 3 else "0"
            lines = ["# pxname,svname,qcur"]
            for backend, name in (("generate_busy", "closet1"), *(("generate", f"closet{n}") for n in (1, 2, 3))):
                lines.append(",".join([backend, name, *("0" for _ in range(15)), "UP", weight]))
            body = "\n".join(lines).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(asked) >= 3 and not any(asked)


def test_an_update_goes_from_one_to_the_next_and_stops_at_a_failure(site: Site) -> None:
    (site.folder / "guard").touch()
    groups = fleet(closet2={"breaks": True})
    # A second gateway that is switched off keeps nobody waiting.
    groups["sd_gateway"] = {**DOOR, "door2": {"gateway_server_address": "192.168.1.10", **GONE}}
    with statistics(site.folder / "drain") as port:
        status, steps = site.run("update", groups, gateway_stats_port=port)
    assert status != 0
    assert order(steps, "sd_webui.main") == [("closet1", "sd_webui.main"), ("closet2", "sd_webui.main")]
    # With all that site.yml tells the role, and sent no more work meanwhile.
    assert all(each["drained"] is True and each["password"] == "hush-hush" for each in of(steps, "sd_webui.main"))
    assert of(steps, "sd_webui.main")[0]["address"] == "192.168.1.1"
    assert not (site.folder / "drain").exists()
    assert "closet1 runs r2." in site.output and not re.search(r"^closet3 ", site.output, re.MULTILINE)


def test_an_update_opens_no_port_that_is_not_closed_to_others(site: Site) -> None:
    status, steps = site.run("update", fleet(1, 2))
    assert status != 0 and not steps
    said = "closet1: nothing closes the port of its web UI to all but its gateway door yet; run site.yml, which does"
    assert said in " ".join(site.output.split())


def test_a_server_that_fails_keeps_no_other_from_anything(site: Site) -> None:
    stranger = {"sd_webui_login_password": "something-else"}
    groups = fleet(1, 2, 3, 4, closet1=GONE, closet2={"breaks": True}, closet3={"lacks": ["a"]}, closet4=stranger)
    status, steps = site.run("site", groups)
    assert status != 0
    # A login that the gateway does not have is found before the web UI has it.
    assert (
        "closet4: sd_webui_login_password is not the login that its gateway door uses there; take it out"
        in " ".join(site.output.split())
    )
    assert "something-else" not in site.output and "closet4" not in {each["host"] for each in steps}
    # It is asked for no models any more; the gateway learns of all, and may find some of them later.
    assert order(steps, "model_fetch.main", "watchdog.main") == [
        ("closet3", "watchdog.main"),
        ("closet3", "model_fetch.main"),
    ]
    (gateway,) = of(steps, "gateway.main")
    assert gateway["servers"] == ["closet1", "closet2", "closet3", "closet4"]
    # The mirrors of those that are away cost no more than the attempt.
    assert len(of(steps, "model_fetch.main")[0]["mirrors"]) == 3


def test_an_update_of_one_pc_drains_nothing(site: Site) -> None:
    status, steps = site.run("update", {"sd_servers": {"pc": {}}}, "-e", "sd_webui_version=previous")
    assert status == 0, site.output
    (webui,) = of(steps, "sd_webui.main")
    assert webui["drained"] is False and webui["address"] == "127.0.0.1"
    assert "pc runs r2." in site.output


def test_models_alone_go_from_server_to_server_too(site: Site) -> None:
    site.data("closet1").write_text("")
    status, steps = site.run("models", fleet(closet2={"lacks": ["a"]}))
    assert status == 0, site.output
    fetched = ("sd_webui.models", "model_fetch.share", "model_fetch.main")
    offered, *turns = order(steps[:5], *fetched)
    assert offered == ("closet1", "model_fetch.share")
    assert_turns(turns, ["sd_webui.models", "model_fetch.share"], {"closet2", "closet3"})
    assert sorted(order(steps[5:8], *fetched)) == [(f"closet{number}", "sd_webui.models") for number in (1, 2, 3)]
    assert [host for host, _step in order(steps, "model_fetch.main")] == ["closet1", "closet3", "closet2"]
    assert {"base.main", "sd_webui.main", "gateway.main", "gateway.server"}.isdisjoint(each["step"] for each in steps)
