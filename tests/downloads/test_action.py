"""The action plugin of the download modules: the job on the host, what is shown of it, and what it survives."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hubs import Hubs, StoredFile
from play_runs import Play, Plays, until

MIB = 1024 * 1024
SIZE = 64 * MIB
# Of one download; slow enough to outlast any test.
SPEED = 3 * MIB
TOKEN = "hf_" + "Secret" * 6
AMOUNT = r"^closet: \w+\.safetensors \d+\.\d of 64\.0 MiB, \d+(\.\d+)? [KM]iB/s, \d:\d\d left$"
MODULE = "secondhand.diffusion.url_download"


def download(stored: StoredFile, folder: Path, **options: Any) -> dict[str, Any]:
    values = {"url": stored.url, "sha256": stored.sha256, "connections": 1, "space_reserve": "0", "timeout": 10}
    return {MODULE: {**values, "dest": f"{folder}/to/", "index": str(folder / "index.sqlite3"), **options}}


def commands() -> dict[int, str]:
    """The command lines of all processes."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
    return found


@dataclass
class Slow:
    """A download that takes a while."""

    plays: Plays
    play: Play
    stored: StoredFile

    @property
    def part(self) -> Path:
        return self.plays.folder / "to" / f"{self.stored.name}.part"

    @property
    def lines(self) -> list[str]:
        """Those about the file."""
        return self.play.lines(f"closet: {self.stored.name} ")

    def shows_amount(self) -> bool:
        return any(re.search(AMOUNT, line) for line in self.lines)

    def has_begun(self) -> bool:
        return self.part.exists() and self.part.stat().st_blocks > 0


@pytest.fixture(scope="module")
def downloads(servers: Hubs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Slow]]:
    """All at once, because most of it is waiting."""
    servers.faults.bytes_per_second = SPEED
    servers.storage.tokens.add(TOKEN)
    content = servers.storage.add("slow.safetensors", SIZE, seed=11)
    found = {}
    for name in ("killed", "lost", "terminal", "piped"):
        stored = servers.storage.add_file(f"{name}.safetensors", content.path, content.sha256)
        plays = Plays(tmp_path_factory.mktemp(name))
        task = download(stored, plays.folder)
        if name == "lost":
            task[MODULE].update(url=stored.url.replace("/plain/", "/private/"), token=TOKEN, progress="always")
        play = plays.start(
            task,
            options=("-vvv",) if name == "lost" else (),
            terminal=name == "terminal",
            connection="shaky" if name == "lost" else "local",
        )
        found[name] = Slow(plays, play, stored)
    yield found
    servers.faults.clear()
    for slow in found.values():
        slow.play.stop()


def test_neither_disks_nor_command_lines_have_the_token(downloads: dict[str, Slow]) -> None:
    lost = downloads["lost"]
    until(lost.has_begun)
    running = commands().values()
    assert any("async_wrapper" in command and str(lost.plays.temporary) in command for command in running)
    assert [command for command in running if TOKEN in command] == []

    def holders() -> list[Path]:
        return [path for path in lost.plays.home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]

    # The module's own file has it, until the module runs.
    until(lambda: not holders())
    assert list(lost.plays.jobs.glob("secondhand-diffusion-*.json")) != []


def test_a_lost_connection_and_a_restart_of_the_host_cost_a_wait(downloads: dict[str, Slow]) -> None:
    lost = downloads["lost"]
    lost.plays.broken.touch()
    until(lambda: "the connection is lost and the host goes on by itself, trying again" in lost.play.output)
    # Everything of the job ends, as with the host.
    for number, command in commands().items():
        if "AnsiballZ_url_download" in command and str(lost.plays.temporary) in command:
            os.kill(number, signal.SIGKILL)
    lost.plays.broken.unlink()
    until(lambda: "the job is gone, as after a restart of the host; starting it again" in lost.play.output)


def test_a_run_that_is_killed_leaves_the_job_and_the_next_one_joins_it(downloads: dict[str, Slow]) -> None:
    killed = downloads["killed"]
    until(killed.has_begun)
    killed.play.kill()
    task = download(killed.stored, killed.plays.folder, progress="always")
    second = killed.plays.start(task)
    until(lambda: "waiting: another run is fetching it" in second.output)
    downloads["joined"] = Slow(killed.plays, second, killed.stored)


def test_progress_is_shown_where_somebody_looks(downloads: dict[str, Slow]) -> None:
    for name in ("terminal", "lost"):
        slow = downloads[name]
        until(slow.shows_amount)


def test_all_have_the_whole_file_and_leave_nothing_behind(servers: Hubs, downloads: dict[str, Slow]) -> None:
    # From the next piece on.
    servers.faults.bytes_per_second = None
    for name in ("terminal", "piped", "lost", "joined"):
        slow = downloads[name]
        (result,) = slow.play.succeed().results
        assert result["sha256"] == slow.stored.sha256 and result["size"] == SIZE
        assert "_progress" not in result["invocation"]["module_args"]
        assert os.listdir(slow.part.parent) == [slow.stored.name]
        # Ansible could not clean up after the one that was killed.
        assert name == "joined" or list(slow.plays.jobs.glob("*")) == []
    for name in ("piped", "killed"):
        assert servers.bytes_sent(path=name) < SIZE + MIB
    for name in ("terminal", "lost"):
        assert f"{name}.safetensors done: " in downloads[name].lines[-1]
    assert downloads["piped"].play.lines("closet: ") == []
    lost = downloads["lost"].play
    assert "ESTABLISH LOCAL CONNECTION" in lost.output and TOKEN not in lost.output
    assert servers.told(TOKEN) == ["storage"]


def test_what_needs_no_job(hubs: Hubs, tmp_path: Path) -> None:
    stored = hubs.storage.add("quick.safetensors", MIB, seed=12)
    plays = Plays(tmp_path)
    task = download(stored, tmp_path)
    play = plays(
        {**task, "async": 60, "poll": 1},
        {**task, "check_mode": True},
        download(stored, tmp_path, url=f"{stored.url}.gone", retries=0),
        task,
        {**task, "delegate_to": "other"},
        options=("-e", "ansible_host=closet"),
    )
    refused, checked, gone, fetched, present = play.results
    assert f"'async' cannot be used with {MODULE}: take it out of the task" in refused["msg"]
    assert checked["changed"] is True
    assert "(status 404)" in gone["msg"] and "ansible_job_id" not in gone
    assert fetched["changed"] is True and fetched["downloaded_bytes"] == MIB
    assert present["changed"] is False
    # Once; what it takes to look at a file is little.
    assert hubs.bytes_sent() < MIB + 1000
    assert list(plays.jobs.iterdir()) == []
