"""Who is whose gateway, and who gives models to whom: playbooks/vars/fleet.yml as ansible-playbook evaluates it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play import Play
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

ROOT = Path(__file__).resolve().parents[3]
FLEET = ROOT / "playbooks/vars/fleet.yml"
ASKED = (
    "_fleet_gateways",
    "_fleet_served",
    "_fleet_is_gateway",
    "_fleet_is_alone",
    "_fleet_is_guest",
    "_fleet_is_only_gateway",
    "_fleet_addresses",
    "_fleet_own_address",
    "_fleet_unasked",
    "_fleet_shares",
    "_fleet_mirrors",
)
PATTERNS = ("_fleet_pattern", "_fleet_server_pattern", "_fleet_gateway_pattern")
TOLD = trust_as_template("{{ {" + ", ".join(f"'{name.removeprefix('_fleet_')}': {name}" for name in ASKED) + "} }}")
Answer = dict[str, Any]
Hosts = dict[str, dict[str, Any]]


class Fleet:
    """An inventory, and what ansible-playbook makes of plays on it, with its own classes and without its process."""

    def __init__(self, path: Path, limit: str | None, extra: dict[str, str]) -> None:
        self.loader = DataLoader()
        self.loader.set_basedir(str(path.parent))
        self.inventory = InventoryManager(loader=self.loader, sources=[str(path)])
        self.variables = VariableManager(loader=self.loader, inventory=self.inventory)
        # Not updated: the class reads the command line's once, and shares them.
        self.variables._extra_vars = extra
        HostVars(inventory=self.inventory, variable_manager=self.variables, loader=self.loader)
        self.inventory.subset(limit)

    def ask(self) -> None:
        """As the gathering of facts does, each host that takes part says where it is."""
        for host in self.inventory.get_hosts("all"):
            if "found" in host.vars:
                self.variables.set_host_facts(host.name, {"default_ipv4": {"address": host.vars["found"]}})

    def hosts(self, pattern: str) -> list[str]:
        """Whom a play on a pattern runs on."""
        play = self.play(pattern)
        play.post_validate(Templar(loader=self.loader, variables=self.variables.get_vars(play=play)))
        return [host.name for host in self.inventory.get_hosts(play.hosts)]

    def told(self, name: str) -> Answer:
        """What any such play tells a host."""
        variables = self.variables.get_vars(play=self.play(PATTERNS[0]), host=self.inventory.get_host(name))
        answer: Answer = Templar(loader=self.loader, variables=variables).template(TOLD)
        return answer

    def play(self, pattern: str) -> Any:
        source = {"hosts": trust_as_template(f"{{{{ {pattern} }}}}"), "vars_files": [str(FLEET)]}
        return Play.load(source, variable_manager=self.variables, loader=self.loader)


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """A group that nobody made is no mistake."""
    yield
    assert "[WARNING]" not in "".join(capfd.readouterr())


def evaluate(
    tmp_path: Path, groups: dict[str, Hosts], limit: str | None = None, target: str | None = None, **said: Any
) -> dict[str, dict[str, Answer]]:
    """What the hosts of each pattern are told. A host's "found" is what it says itself to be its address."""
    path = tmp_path / "inventory.json"
    children = {group: {"hosts": hosts} for group, hosts in groups.items()}
    path.write_text(json.dumps({"all": {"vars": said, "children": children}}))
    fleet = Fleet(path, limit, {} if target is None else {"target": target})
    fleet.ask()
    hosts = {pattern: fleet.hosts(pattern) for pattern in PATTERNS}
    # Each is asked once, as the plays have the same variables: it takes long.
    told = {name: fleet.told(name) for name in dict.fromkeys(itertools.chain(*hosts.values()))}
    return {pattern: {name: told[name] for name in names} for pattern, names in hosts.items()}


def closets(*numbers: int, **more: dict[str, Any]) -> Hosts:
    return {
        f"closet{number}": {"found": f"192.168.1.{number}", **more.get(f"closet{number}", {})} for number in numbers
    }


def mirrors(*numbers: int) -> list[str]:
    return [f"http://192.168.1.{number}:7862" for number in numbers]


def test_one_host_is_its_own_gateway(tmp_path: Path) -> None:
    told = evaluate(tmp_path, {"sd_servers": {"localhost": {}}})
    assert told["_fleet_pattern"] == told["_fleet_server_pattern"]
    assert told["_fleet_gateway_pattern"] == {}
    assert told["_fleet_pattern"]["localhost"] == {
        "gateways": ["localhost"],
        "served": ["localhost"],
        "is_gateway": True,
        "is_alone": True,
        "is_guest": False,
        "is_only_gateway": False,
        "addresses": {},
        "own_address": "",
        "unasked": ["localhost"],
        "shares": False,
        "mirrors": [],
    }


def test_one_host_that_is_named_as_its_own_gateway_stays_on_loopback(tmp_path: Path) -> None:
    told = evaluate(tmp_path, {"sd_servers": closets(1), "sd_gateway": closets(1)})
    (host,) = told["_fleet_pattern"].values()
    assert host["is_alone"] and not host["is_guest"] and host["served"] == ["closet1"]


def test_without_the_group_each_of_three_is_its_own_gateway(tmp_path: Path) -> None:
    told = evaluate(tmp_path, {"sd_servers": closets(1, 2, 3)})
    assert told["_fleet_gateway_pattern"] == {}
    for number, others in ((1, (2, 3)), (2, (1, 3)), (3, (1, 2))):
        host = told["_fleet_pattern"][f"closet{number}"]
        assert (host["gateways"], host["served"]) == ([f"closet{number}"], [f"closet{number}"])
        assert host["is_alone"] and host["is_gateway"] and not host["is_guest"]
        # They have their models from each other all the same.
        assert host["shares"] and host["mirrors"] == mirrors(*others)


def test_the_gateway_is_one_of_three(tmp_path: Path) -> None:
    told = evaluate(tmp_path, {"sd_servers": closets(1, 2, 3), "sd_gateway": closets(2)})
    assert list(told["_fleet_gateway_pattern"]) == ["closet2"]
    for name, host in told["_fleet_pattern"].items():
        assert host["gateways"] == ["closet2"] and host["is_guest"] and not host["is_alone"]
        assert host["is_gateway"] == (name == "closet2")
        assert host["served"] == (["closet1", "closet2", "closet3"] if name == "closet2" else [])
    assert told["_fleet_pattern"]["closet2"]["own_address"] == "192.168.1.2"


def test_the_gateway_is_apart(tmp_path: Path) -> None:
    door = {"door": {"found": "192.168.1.9"}}
    told = evaluate(tmp_path, {"sd_servers": closets(1, 2, 3), "sd_gateway": door})
    assert list(told["_fleet_server_pattern"]) == ["closet1", "closet2", "closet3"]
    assert list(told["_fleet_gateway_pattern"]) == ["door"]
    host = told["_fleet_pattern"]["door"]
    assert host["served"] == ["closet1", "closet2", "closet3"] and host["is_only_gateway"] and not host["is_guest"]
    # It has no models to give and wants none.
    assert (host["shares"], host["mirrors"]) == (False, [])
    for number, others in ((1, (2, 3)), (2, (1, 3)), (3, (1, 2))):
        server = told["_fleet_pattern"][f"closet{number}"]
        assert server["gateways"] == ["door"] and server["is_guest"] and server["mirrors"] == mirrors(*others)


@pytest.mark.parametrize("option", ["limit", "target"])
def test_one_server_of_the_fleet_is_told_the_same(tmp_path: Path, option: str) -> None:
    groups = {"sd_servers": closets(1, 2, 3), "sd_gateway": {"door": {"found": "192.168.1.9"}}}
    every = evaluate(tmp_path, groups)
    one = evaluate(tmp_path, groups, **{option: "closet2"})
    assert list(one["_fleet_pattern"]) == list(one["_fleet_server_pattern"]) == ["closet2"]
    assert one["_fleet_gateway_pattern"] == {}
    told, known = every["_fleet_pattern"]["closet2"], one["_fleet_pattern"]["closet2"]
    if option == "limit":
        # Nobody has asked the others where they are.
        assert known["unasked"] == ["closet1", "closet3", "door"] and known["mirrors"] == []
        told, known = ({**each, "unasked": [], "addresses": {}, "mirrors": []} for each in (told, known))
    assert told == known


def test_a_target_that_is_only_a_gateway_is_no_server(tmp_path: Path) -> None:
    groups: dict[str, Hosts] = {"sd_servers": closets(1), "sd_gateway": {"door": {}}}
    told = evaluate(tmp_path, groups, target="door")
    assert list(told["_fleet_gateway_pattern"]) == ["door"]
    assert told["_fleet_server_pattern"]["door"]["is_only_gateway"]


def test_a_target_outside_of_the_fleet_stands_alone(tmp_path: Path) -> None:
    groups: dict[str, Hosts] = {"sd_servers": closets(1, 2), "sd_gateway": closets(1), "others": {"new": {}}}
    told = evaluate(tmp_path, groups, target="new")
    host = told["_fleet_server_pattern"]["new"]
    assert host["is_alone"] and host["gateways"] == ["new"] and not host["shares"] and host["mirrors"] == []


def test_without_gateways(tmp_path: Path) -> None:
    told = evaluate(tmp_path, {"sd_servers": closets(1, 2)}, gateway_state="absent")
    for host in told["_fleet_pattern"].values():
        assert (host["gateways"], host["served"]) == ([], [])
        assert not (host["is_gateway"] or host["is_alone"] or host["is_guest"])
        # What serves models comes with the gateway.
        assert not host["shares"]


def test_one_server_without_gateway(tmp_path: Path) -> None:
    servers = closets(1, 2, 3, closet2={"gateway_state": "absent"})
    told = evaluate(tmp_path, {"sd_servers": servers, "sd_gateway": closets(1)})["_fleet_pattern"]
    assert told["closet1"]["served"] == ["closet1", "closet3"] and told["closet1"]["is_guest"]
    assert told["closet2"]["gateways"] == [] and not told["closet2"]["is_guest"]
    assert told["closet1"]["mirrors"] == mirrors(3) and told["closet2"]["mirrors"] == mirrors(1, 3)


def test_a_gateway_taken_out_of_service_leaves_nobody_open(tmp_path: Path) -> None:
    door = {"door": {"gateway_state": "absent"}}
    told = evaluate(tmp_path, {"sd_servers": closets(1, 2), "sd_gateway": door})["_fleet_pattern"]
    assert not told["door"]["is_gateway"]
    # No gateway comes to them, so they are no guests and stay on loopback.
    assert not any(told[name]["is_guest"] or told[name]["gateways"] for name in ("closet1", "closet2"))


def test_two_gateways_for_the_same_servers(tmp_path: Path) -> None:
    told = evaluate(tmp_path, {"sd_servers": closets(1, 2), "sd_gateway": {**closets(1), "door": {}}})["_fleet_pattern"]
    assert told["closet2"]["gateways"] == ["closet1", "door"]
    assert told["closet1"]["served"] == told["door"]["served"] == ["closet1", "closet2"]


def test_a_host_that_does_not_answer(tmp_path: Path) -> None:
    servers: Hosts = {
        **closets(1),
        "silent": {"ansible_host": "192.168.1.2"},
        "nameless": {"ansible_host": "pc.example"},
        "tunnel": {"ansible_host": "127.0.0.1"},
        "said": {"ansible_host": "pc.example", "gateway_server_address": "fd00::5"},
    }
    told = evaluate(tmp_path, {"sd_servers": servers, "sd_gateway": {"door": {}}})["_fleet_pattern"]
    host = told["closet1"]
    # The way Ansible goes to it has to do; where there is none, the others do without.
    assert host["addresses"] == {"closet1": "192.168.1.1", "silent": "192.168.1.2", "said": "fd00::5"}
    assert host["mirrors"] == ["http://192.168.1.2:7862", "http://[fd00::5]:7862"]
    assert host["unasked"] == ["silent", "nameless", "tunnel", "door"]
    assert told["nameless"]["own_address"] == "" and host["is_guest"]


def test_what_a_person_says_about_models(tmp_path: Path) -> None:
    told = evaluate(tmp_path, {"sd_servers": closets(1, 2)}, secondhand_diffusion_share_models="false")
    assert all((host["shares"], host["mirrors"]) == (False, []) for host in told["_fleet_pattern"].values())
    told = evaluate(tmp_path, {"sd_servers": closets(1, 2)}, gateway_mirror_port="7999")
    assert told["_fleet_pattern"]["closet1"]["mirrors"] == ["http://192.168.1.2:7999"]
