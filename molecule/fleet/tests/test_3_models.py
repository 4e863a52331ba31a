# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models cross the WAN once, whoever leaves meanwhile, and nobody is believed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fleet.members import SERVERS
from waiting import wait_for

STORE = "/srv/sd/models/lora"
SHARED = "/var/lib/secondhand-diffusion/by-sha256"
MODELS = "playbooks/models.yml"
# What the hub is asked beside the file itself: a byte to know where it is, each time that somebody asks.
LITTLE = 10_000


def test_half_a_gigabyte_for_three_came_once(fleet: Any, hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    big = hub.file("big")
    sums = fleet.everywhere(SERVERS, f"sha256sum {STORE}/big.safetensors | cut -d' ' -f1")
    assert set(sums.values()) == {big["sha256"]}
    served = hub.served("big")
    with capsys.disabled():
        print(f"\n{len(SERVERS)} servers have a file of {big['size']} bytes; the hub has sent {served}.")
    assert big["size"] <= served <= big["size"] + LITTLE


def test_what_is_shared_is_what_is_there(fleet: Any, hub: Any) -> None:
    big = hub.file("big")["sha256"]
    for server, listed in fleet.everywhere(SERVERS, f"ls {SHARED}; stat -c '%a %F' {SHARED}").items():
        assert big in listed and "755 directory" in listed, server
    # Read-only, by sum and by nothing else.
    script = f"""
python3 - http://{fleet.address("sd-fleet-2")}:7862 {big} <<'END'
import sys, urllib.error, urllib.request
def ask(path, method="GET", headers={{}}):
    try:
        request = urllib.request.Request(sys.argv[1] + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, len(answer.read(100))
    except urllib.error.HTTPError as error:
        return error.code, 0
print(ask("/" + sys.argv[2], headers={{"Range": "bytes=0-9"}}))
for path in ("/", "/../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "/" + "0" * 64):
    print(path, ask(path)[0] in (403, 404) or ask(path))
for method in ("PUT", "DELETE", "POST"):
    print(method, ask("/" + sys.argv[2], method)[0] >= 400)
END
"""
    first, *others = fleet.on("sd-fleet-1", script).splitlines()
    assert first == "(206, 10)"
    assert [line for line in others if not line.endswith(" True")] == []


@pytest.fixture(scope="module")
def first(hub: Any, playbook: Any) -> None:
    """One server has two more models, which the others shall have."""
    run = playbook(MODELS, "sd-fleet-1", model_fetch_models=[hub.entry("late"), hub.entry("small")])
    assert run.returncode == 0, run.output


@pytest.mark.usefixtures("first")
def test_the_server_that_serves_leaves_in_mid_transfer(fleet: Any, hub: Any, playbook: Any) -> None:
    """The other two are getting a file from it when its mirror goes."""
    late = hub.file("late")
    assert late["size"] <= hub.served("late") <= late["size"] + LITTLE
    runs: list[Any] = []
    slowly = {"model_fetch_models": [hub.entry("late")], "model_fetch_rate_limit": "20M"}
    others = threading.Thread(target=lambda: runs.append(playbook(MODELS, "sd-fleet-2:sd-fleet-3", **slowly)))
    others.start()
    # Ten seconds of it, in which that is seen.
    wait_for(lambda: fleet.on("sd-fleet-1", "ss -Htn state established 'sport = :7862'"))
    fleet.on("sd-fleet-1", "systemctl stop sd-mirror")
    done = fleet.everywhere(SERVERS[1:], f"ls {STORE}/late.safetensors 2>/dev/null || true")
    others.join()
    fleet.on("sd-fleet-1", "systemctl start sd-mirror")
    assert not any(done.values()), "nobody was in mid-transfer"
    assert runs[0].returncode == 0, runs[0].output
    sums = fleet.everywhere(SERVERS, f"sha256sum {STORE}/late.safetensors | cut -d' ' -f1")
    assert set(sums.values()) == {late["sha256"]}
    # The hub had to give what was missing, and no more than that: a second file at the very most.
    assert hub.served("late") <= 2 * late["size"] + LITTLE
    assert set(fleet.everywhere(SERVERS, f"test -e {SHARED}/{late['sha256']} && echo shared").values()) == {"shared"}


@pytest.mark.usefixtures("first")
def test_a_peer_that_serves_wrong_bytes_is_not_believed(fleet: Any, hub: Any, playbook: Any) -> None:
    """A disk that has turned a byte over, at the one server that has the file."""
    small = hub.file("small")
    path, before = f"{STORE}/small.safetensors", hub.served("small")
    # Size and time stay as they were, so nothing but reading it can tell.
    fleet.on(
        "sd-fleet-1",
        f"""
        touch -r {path} /root/time
        printf X | dd of={path} bs=1 seek=1500000 conv=notrunc status=none
        touch -r /root/time {path}
        """,
    )
    script = f"""
python3 - http://{fleet.address("sd-fleet-1")}:7862/{small["sha256"]} <<'END'
import hashlib, sys, urllib.request
print(hashlib.sha256(urllib.request.urlopen(sys.argv[1], timeout=60).read()).hexdigest())
END
"""
    assert fleet.on("sd-fleet-3", script) != small["sha256"], "the peer serves the right bytes"
    run = playbook(MODELS, "sd-fleet-3", model_fetch_models=[hub.entry("small")])
    assert run.returncode == 0, run.output
    assert fleet.on("sd-fleet-3", f"sha256sum {path} | cut -d' ' -f1") == small["sha256"]
    assert hub.served("small") > before
