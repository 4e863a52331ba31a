# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hundred pictures, and what happens meanwhile: one server is killed, one updated, one stopped and started."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fleet import made
from fleet.members import JOBS, SERVERS
from waiting import wait_for

KILLED, UPDATED, STOPPED = SERVERS
WHAT = {KILLED: "engine killed (SIGKILL)", UPDATED: "update.yml to 1.10.2", STOPPED: "web UI stopped, then started"}
# Held first, so that it is in the middle of a picture for sure.
KILL = f"""
engine=$(grep -laE '[l]ibexec/webui/serve.py' /proc/[0-9]*/cmdline | cut -d/ -f3 | head -n 1)
for _ in $(seq 3000); do
  kill -STOP $engine
  tail -n 1 {JOBS} | grep -q '"begun"' && break
  kill -CONT $engine
  sleep 0.05
done
kill -KILL $engine
"""
PICTURE_STEPS = 8
# Of a page's job, at 0.05 s each: long enough for others to be served meanwhile.
PAGE_STEPS = 200


def arrived(fleet: Any, server: str, since: float) -> bool:
    """Has it got a job again?"""
    return any(job.arrived > since for job in fleet.jobs([server]))


@pytest.fixture(scope="module")
def storm(fleet: Any, playbook: Any) -> dict[str, Any]:
    """All of it, once; with begin and end of each server's absence on the clock that all hosts share."""
    fleet.load("--requests 200", "--concurrency 12", f"--steps {PICTURE_STEPS}", "--until /root/load/load.enough")
    begun = time.monotonic()
    updates: list[Any] = []
    times: dict[str, list[float]] = {}

    def update() -> None:
        times[UPDATED] = [time.monotonic()]
        updates.append(playbook("playbooks/update.yml", UPDATED, scenario_version="1.10.2"))
        times[UPDATED].append(time.monotonic())

    wait_for(lambda: fleet.loaded() >= 6)
    updating = threading.Thread(target=update)
    updating.start()
    times[KILLED] = [time.monotonic()]
    fleet.on(KILLED, KILL)
    killed = time.monotonic()
    wait_for(lambda: arrived(fleet, KILLED, killed))
    times[KILLED].append(time.monotonic())
    # Only then the next, so that there is always one that serves.
    times[STOPPED] = [time.monotonic()]
    fleet.on(STOPPED, "systemctl stop sd-webui; sleep 3; systemctl start sd-webui")
    started = time.monotonic()
    wait_for(lambda: arrived(fleet, STOPPED, started))
    times[STOPPED].append(time.monotonic())
    updating.join()
    updated = time.monotonic()
    wait_for(lambda: arrived(fleet, UPDATED, updated))
    times[UPDATED].append(time.monotonic())
    fleet.on("sd-fleet-stranger", "touch /root/load/load.enough")
    result = fleet.load_result()
    jobs = [job for job in fleet.jobs() if job.prompt.startswith("load ")]
    away = {server: [(found[0], found[-1])] for server, found in times.items()}
    return {"begun": begun, "result": result, "jobs": jobs, "away": away, "update": updates[0]}


def test_no_picture_is_lost(storm: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    told = made.summary(storm["result"], storm["jobs"])
    text = made.table(told, WHAT)
    (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "fleet.md").write_text(text, encoding="utf-8")
    with capsys.disabled():
        print(f"\n\n{text}")
    assert told["lost"] == []
    assert told["requests"] >= 200
    # Each has done its share, and the killed one's picture was made by another.
    assert all(row["served"] > 5 for row in told["servers"].values())
    assert told["servers"][KILLED]["cut"] == 1 and told["again"] >= 1


def test_nobody_gets_a_second_one_while_another_is_idle(storm: dict[str, Any]) -> None:
    seconds = made.second_jobs(storm["jobs"], SERVERS, storm["away"])
    assert seconds == [], [f"{each.job} beside {each.running} while {each.idle} was idle" for each in seconds]


def test_nothing_is_made_twice_without_need(storm: dict[str, Any]) -> None:
    """But what a death has cut; an answer may be cut on its way, too, when its server is stopped."""
    done = Counter(job.prompt for job in storm["jobs"] if job.is_done)
    assert len(done) == len(storm["result"]["results"])
    assert sum(done.values()) - len(done) <= 2


def test_the_update_was_drained_first(fleet: Any, storm: dict[str, Any]) -> None:
    assert storm["update"].returncode == 0, storm["update"].output
    assert [job for job in storm["jobs"] if job.server == UPDATED and not job.is_done] == []
    assert json.loads(fleet.on(UPDATED, "cat /etc/sd-webui/engine.json"))["version"] == "1.10.2"
    assert fleet.run(UPDATED, "test -e /run/sd-gateway/drain").returncode != 0


def test_an_update_goes_one_host_after_the_other_and_stops_at_the_first_failure(fleet: Any, playbook: Any) -> None:
    """An archive that is not what it should be; the fleet serves on as it was."""
    before = fleet.everywhere(SERVERS, "readlink /opt/sd-webui/current")
    run = playbook("playbooks/update.yml", "sd_servers", sd_webui_release_archive_sha256="0" * 64)
    assert run.returncode != 0 and "is not the expected archive" in run.output, run.output
    assert "sd-fleet-2" not in run.message and "sd-fleet-3" not in run.message
    assert fleet.everywhere(SERVERS, "readlink /opt/sd-webui/current") == before
    assert set(fleet.everywhere(SERVERS, "ls /run/sd-gateway/drain 2>/dev/null || true").values()) == {""}
    assert fleet.client().ask("/sdapi/v1/txt2img", content={"prompt": "after", "steps": 1}).status == 200


def test_a_job_of_the_page_counts(fleet: Any) -> None:
    """Nobody is sent to a server that makes a picture for a page while others are idle."""
    wait_for(lambda: all(fleet.state(server).startswith("UP") for server in SERVERS))
    cookies, made_by = fleet.page_of(UPDATED), []
    page = threading.Thread(target=lambda: made_by.append(fleet.press_button(cookies, "task(page)", PAGE_STEPS)))
    page.start()
    wait_for(lambda: "DRAIN" in fleet.state(UPDATED))
    drained = time.monotonic()
    fleet.load("--requests 8", "--concurrency 4", "--steps 4", name="beside")
    result = fleet.load_result("beside")
    page.join()
    assert made_by == [UPDATED]
    jobs = fleet.jobs()
    until = next(job.ended for job in jobs if job.prompt == "task(page)")
    meanwhile = [job for job in jobs if drained < job.arrived < until and job.prompt.startswith("beside ")]
    assert meanwhile and {job.server for job in meanwhile} <= {KILLED, STOPPED}, meanwhile
    assert made.summary(result, jobs)["lost"] == []
    wait_for(lambda: fleet.state(UPDATED).startswith("UP"))


def test_where_every_page_is_busy_a_job_waits_in_one(fleet: Any) -> None:
    pages = [
        threading.Thread(target=fleet.press_button, args=(fleet.page_of(server), f"task(all {server})", PAGE_STEPS))
        for server in SERVERS
    ]
    for page in pages:
        page.start()
    wait_for(lambda: all("DRAIN" in fleet.state(server) for server in SERVERS))
    drained = time.monotonic()
    fleet.load("--requests 6", "--concurrency 6", "--steps 1", name="crowd")
    result = fleet.load_result("crowd")
    for page in pages:
        page.join()
    jobs = fleet.jobs()
    crowd = [job for job in jobs if job.prompt.startswith("crowd ")]
    assert made.summary(result, jobs)["lost"] == []
    for server in SERVERS:
        until = next(job.ended for job in jobs if job.prompt == f"task(all {server})")
        assert len([job for job in crowd if job.server == server and drained < job.arrived < until]) <= 1, server


def test_a_server_that_stays_away_gets_nothing_and_comes_back(fleet: Any) -> None:
    wait_for(lambda: all(fleet.state(server).startswith("UP") for server in SERVERS))
    cookies = fleet.page_of(KILLED)
    fleet.on(KILLED, "systemctl stop sd-webui")
    try:
        wait_for(lambda: fleet.state(KILLED).startswith("DOWN"))
        # A page whose server is gone gets another one.
        answer = fleet.client().ask("/test/request", headers=cookies)
        assert answer.status == 200 and answer.json()["host"] != KILLED
        fleet.load("--requests 6", "--concurrency 3", "--steps 1", name="without")
        told = made.summary(fleet.load_result("without"), fleet.jobs())
        assert told["lost"] == [] and told["servers"][KILLED]["served"] == 0
    finally:
        fleet.on(KILLED, "systemctl start sd-webui")
    wait_for(lambda: fleet.state(KILLED).startswith("UP"))


def test_who_pulls_the_plug_by_hand_can_drain_first(fleet: Any) -> None:
    fleet.on(STOPPED, "mkdir -p /run/sd-gateway; touch /run/sd-gateway/drain")
    wait_for(lambda: "DRAIN" in fleet.state(STOPPED))
    fleet.on(STOPPED, "rm /run/sd-gateway/drain")
    wait_for(lambda: fleet.state(STOPPED).startswith("UP"))
