"""Downloads that are killed, cut or damaged in the middle, with the real module and real SIGKILL."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._part import piece_size_for
from hubs import Hubs, StoredFile
from module_runs import Modules

MIB = 1024 * 1024
CONNECTIONS = 4
SIZE = 160 * MIB + 4321
PIECE = piece_size_for(SIZE, CONNECTIONS)
Options = dict[str, Any]


@pytest.fixture(scope="module")
def big(servers: Hubs) -> StoredFile:
    return servers.storage.add("resume.bin", SIZE, seed=5)


@pytest.fixture
def options(big: StoredFile, tmp_path: Path) -> Options:
    return {"url": big.url, "dest": str(tmp_path / "model.dat"), "sha256": big.sha256, "connections": CONNECTIONS}


def written(tmp_path: Path) -> int:
    """Bytes in the .part file so far."""
    try:
        return os.stat(tmp_path / "model.dat.part").st_blocks * 512
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_killed(percent: int, hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    hubs.faults.bytes_per_second = 24 * MIB
    reached = SIZE * percent // 100
    run_module.kill_when(lambda: written(tmp_path) >= reached, "url_download", **options)
    there = written(tmp_path)
    assert not (tmp_path / "model.dat").exists()
    assert there < SIZE
    hubs.faults.clear()
    hubs.requests.clear()

    run = run_module("url_download", **options)

    assert run.result["changed"], run.output
    assert hubs.bytes_sent() <= SIZE - there + CONNECTIONS * PIECE
    assert run.result["downloaded_bytes"] + run.result["resumed_bytes"] == SIZE
    assert run.result["resumed_bytes"] >= there - CONNECTIONS * PIECE
    assert sorted(os.listdir(tmp_path)) == ["index.sqlite3", "model.dat"]


def test_killed_twice_and_damaged(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    """A byte that changes on the disk between two runs costs its piece, and no more."""
    hubs.faults.bytes_per_second = 24 * MIB
    run_module.kill_when(lambda: written(tmp_path) >= SIZE // 3, "url_download", **options)
    run_module.kill_when(lambda: written(tmp_path) >= SIZE // 2, "url_download", **options)
    journal = (tmp_path / "model.dat.part.journal").read_text().splitlines()
    pieces = sorted(line[1] for line in map(json.loads, journal) if isinstance(line, list) and line[0] == "piece")
    with open(tmp_path / "model.dat.part", "r+b") as part:
        part.seek(pieces[1] * PIECE + 77)
        byte = part.read(1)[0]
        part.seek(-1, os.SEEK_CUR)
        part.write(bytes([byte ^ 1]))
    # As a kill in the middle of a line leaves it.
    with open(tmp_path / "model.dat.part.journal", "a") as file:
        file.write('["piece", 1')
    hubs.faults.clear()
    hubs.requests.clear()

    run = run_module("url_download", **options)

    assert run.result["changed"], run.output
    # One byte for the question where the file is.
    assert hubs.bytes_sent() == SIZE - (len(pieces) - 1) * PIECE + 1


def test_power_cut(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    """The journal reached the disk, and the last pieces did not: they are zeros."""
    hubs.faults.bytes_per_second = 24 * MIB
    run_module.kill_when(lambda: written(tmp_path) >= SIZE * 3 // 4, "url_download", **options)
    os.truncate(tmp_path / "model.dat.part", SIZE // 2)
    hubs.faults.clear()

    run = run_module("url_download", **options)

    assert run.result["sha256"] == options["sha256"], run.output


def test_file_of_somebody_else(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    (tmp_path / "model.dat.part").write_bytes(b"a browser's")
    run = run_module("url_download", **options)
    assert run.message == f"{tmp_path}/model.dat.part was not made by this module: move it away, and run again."
    assert (tmp_path / "model.dat.part").read_bytes() == b"a browser's"
    assert not hubs.requests


def test_two_runs_at_once(hubs: Hubs, run_module: Modules, options: Options) -> None:
    """The second one waits for the first, and finds a file that was not there before."""
    hubs.faults.bytes_per_second = 24 * MIB
    processes = [run_module.start("url_download", **options) for _ in range(2)]
    runs = [run_module.end(process) for process in processes]
    assert [run.result["changed"] for run in runs] == [True, True], [run.output for run in runs]
    assert sorted(run.result["downloaded_bytes"] for run in runs) == [0, SIZE]
    assert hubs.bytes_sent() <= SIZE + 2


def test_second_run_takes_over_from_a_killed_one(hubs: Hubs, run_module: Modules, options: Options) -> None:
    hubs.faults.bytes_per_second = 12 * MIB
    first = run_module.start("url_download", **options)
    while hubs.bytes_sent() < SIZE // 3:
        time.sleep(0.01)
    # From the next pieces on: the first run is not done before it is killed.
    hubs.faults.bytes_per_second = MIB
    second = run_module.start("url_download", **options)
    time.sleep(1)
    first.kill()
    first.communicate(timeout=60)
    hubs.faults.clear()
    run = run_module.end(second)
    assert run.result["changed"], run.output
    assert run.result["resumed_bytes"] > 0


def test_one_byte_of_a_finished_file(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    """Same size, same time of change: only reading finds it, and only the piece with the damage is fetched."""
    run_module("url_download", **options)
    file = tmp_path / "model.dat"
    before = file.stat()
    with open(file, "r+b") as stream:
        stream.seek(SIZE // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 0xFF]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    hubs.requests.clear()

    assert not run_module("url_download", **options).result["changed"]
    check = run_module("url_download", check=True, verify="always", **options)
    assert check.result["changed"], check.output
    assert hubs.bytes_sent() == 0
    run = run_module("url_download", verify="always", **options)

    assert run.result["changed"], run.output
    assert run.result["sha256"] == options["sha256"]
    assert hubs.bytes_sent() == PIECE + 1
    assert not run_module("url_download", verify="always", **options).result["changed"]


def test_full_disk(hubs: Hubs, run_module: Modules, options: Options, tmp_path: Path) -> None:
    """Refused before the first byte, with the numbers."""
    run = run_module("url_download", **{**options, "space_reserve": "900T"})
    free = os.statvfs(tmp_path)
    assert f"{tmp_path} has " in run.message, run.output
    assert "MiB free, model.dat needs 161 MiB and 943718400 MiB shall stay free" in run.message
    assert abs(int(run.message.split(" has ")[1].split()[0]) - free.f_bavail * free.f_frsize // MIB) < 2000
    assert hubs.bytes_sent() == 1


def test_memory(hubs: Hubs, run_module: Modules, options: Options) -> None:
    """The peak, which does not depend on the file's size."""
    process = run_module.start("url_download", **{**options, "connections": 8})
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run = run_module.end(process)
    watcher.join()
    assert run.result["changed"], run.output
    assert 20_000 < peak < 150_000
