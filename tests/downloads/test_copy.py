"""resumable_copy from this machine to itself, through Ansible and in pieces as to any host."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hubs import content
from play_runs import Play, Plays, until

MIB = 1024 * 1024
PIECE = 8 * MIB
SIZE = 2 * PIECE + 12345
MODULE = "secondhand.diffusion.resumable_copy"


@pytest.fixture
def plays(tmp_path: Path) -> Plays:
    return Plays(tmp_path)


def make(path: Path, seed: int = 1, size: int = SIZE) -> str:
    """A safetensors file, and its SHA-256."""
    path.parent.mkdir(exist_ok=True)
    return content.write(path, content.blocks(size, seed, content.safetensors_head(size)))[1]


def copy(source: Path, folder: Path, **options: Any) -> dict[str, Any]:
    values = {"src": str(source), "dest": f"{folder}/", "space_reserve": "0"}
    return {MODULE: {**values, "index": str(source.parents[1] / "index.sqlite3"), **options}}


def flip(path: Path, offset: int) -> None:
    """Turns a byte over, as a bad disk would: nothing else about the file tells."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_copy_comes_whole_and_once_and_stays_so(plays: Plays, tmp_path: Path) -> None:
    source, target = tmp_path / "from/model.safetensors", tmp_path / "to/model.safetensors"
    sha256 = make(source)
    small = tmp_path / "from/small.safetensors"
    make(small, size=MIB)
    bad = tmp_path / "from/bad.ckpt"
    bad.write_bytes(pickle.dumps(["a"] * 1000) + bytes(2 * PIECE))
    play = plays(
        {**copy(source, target.parent), "check_mode": True},
        copy(source, target.parent, mode="0640"),
        copy(source, target.parent, mode="0640"),
        copy(source, tmp_path / "other", mode="0640"),
        copy(bad, target.parent),
        copy(small, tmp_path / "full", space_reserve="900T"),
        copy(source, tmp_path / "wrong", sha256="0" * 64),
        copy(tmp_path / "from/gone", target.parent),
        {**copy(source, target.parent), "async": 60, "poll": 1},
    )
    checked, first, second, linked, refused, full, wrong, gone, job = play.results
    assert checked["changed"] and checked["sha256"] == sha256 and checked["downloaded_bytes"] == 0
    assert first["changed"] is True
    expected = {"path": str(target), "sha256": sha256, "size": SIZE, "mode": "0640", "base_model": "SD 1.5"}
    assert {name: first[name] for name in expected} == expected
    assert (first["downloaded_bytes"], first["resumed_bytes"], first["source"]) == (SIZE, 0, str(source))
    assert first["files"][0]["downloaded_bytes"] == SIZE
    assert not {"_copy", "_progress"} & set(first["invocation"]["module_args"])
    assert target.read_bytes() == source.read_bytes()
    assert {name: second[name] for name in expected} == expected
    assert (second["changed"], second["downloaded_bytes"]) == (False, 0)
    assert (linked["changed"], linked["downloaded_bytes"]) == (True, 0)
    assert os.path.samefile(tmp_path / "other" / source.name, target)
    assert "bad.ckpt is " in refused["msg"] and "loading it could run code" in refused["msg"]
    assert "MiB free, small.safetensors needs 1 MiB" in full["msg"]
    assert f"has SHA-256 {sha256} instead of {'0' * 64}" in wrong["msg"]
    assert "from/gone" in gone["msg"]
    assert "'async' cannot be used" in job["msg"]
    assert os.listdir(target.parent) == [target.name]
    assert os.listdir(tmp_path / "full") == [] and not (tmp_path / "wrong").exists()
    assert list(plays.temporary.glob("ansible-tmp-*")) == []

    good = source.read_bytes()
    # Whoever reads one of the files sees that they differ.
    flip(source, SIZE - 1)
    flip(target, PIECE + 5)
    known, healed = plays(
        copy(source, target.parent, mode="0640"), copy(source, target.parent, mode="0640", verify="always")
    ).results
    assert known["changed"] is False
    # The piece is sent that differs; the source is believed to be as it was, so its end comes from what is there.
    assert (healed["changed"], healed["downloaded_bytes"]) == (True, PIECE)
    assert target.read_bytes() == good


def test_interruptions(plays: Plays, tmp_path: Path) -> None:
    names = ("killed", "harassed")
    sources = {name: tmp_path / f"{name}/model.safetensors" for name in names}
    targets = {name: tmp_path / f"{name}_copy/model.safetensors" for name in names}
    parts = {name: Path(f"{target}.part") for name, target in targets.items()}
    hashes = {name: make(source, seed) for seed, (name, source) in enumerate(sources.items())}

    def start(name: str, connection: str = "local") -> Play:
        task = copy(sources[name], targets[name].parent, rate_limit="12M", progress="always")
        return plays.start(task, connection=connection)

    def begun(name: str) -> bool:
        """The first piece is on the host."""
        return parts[name].exists() and parts[name].stat().st_blocks * 512 >= PIECE

    killed, harassed = start("killed"), start("harassed", "shaky")

    # SIGKILL, and a byte of what is there goes bad meanwhile.
    until(lambda: begun("killed"))
    killed.kill()
    there = sorted(os.listdir(targets["killed"].parent))
    assert there == ["model.safetensors.part", "model.safetensors.part.journal"]
    flip(parts["killed"], 4711)
    again = plays.start(copy(sources["killed"], targets["killed"].parent))

    # The line breaks, and then somebody saves another file under the name.
    until(lambda: begun("harassed"))
    plays.broken.touch()
    until(lambda: "the connection is lost, trying again" in harassed.output)
    hashes["harassed"] = make(sources["harassed"], 99)
    plays.broken.unlink()

    (result,) = again.succeed().results
    # The piece that was there was taken over, found to be bad at the end, and sent after all.
    assert result["downloaded_bytes"] == SIZE
    assert any("1 pieces of " in str(warning) for warning in result["warnings"])
    (result,) = harassed.succeed().results
    assert result["changed"] is True and result["sha256"] == hashes["harassed"]
    assert "model.safetensors was changed on the controller; beginning again" in harassed.output
    assert any("of 16.0 MiB, " in line and line.endswith("left") for line in harassed.lines("closet: model"))
    for name in names:
        assert os.listdir(targets[name].parent) == ["model.safetensors"]
        assert content.sha256_of(targets[name]) == hashes[name]
