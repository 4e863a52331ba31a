# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel log from a journal (a made-up journalctl that answers as the real one) and from a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from sd_watchdog import kernel_log
from sd_watchdog.kernel_log import Look

JOURNALCTL = """#!/usr/bin/python3
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
open(here + "/told", "a").write(" ".join(sys.argv[1:]) + "\\n")
entries = [json.loads(line) for line in open(here + "/entries")]
after = [a.partition("=")[2] for a in sys.argv if a.startswith("--after-cursor=")]
if after:
    known = [entry["__CURSOR"] for entry in entries]
    if after[0] not in known:
        print("Failed to seek to cursor: Invalid argument", file=sys.stderr)
        sys.exit(1)
    entries = entries[known.index(after[0]) + 1:]
for entry in entries:
    print(json.dumps(entry))
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a made-up journalctl."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "journalctl").write_text(JOURNALCTL, encoding="utf-8")
    (folder / "journalctl").chmod(0o755)
    (folder / "entries").touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(kernel_log, "_DEADLINE", 60)
    return folder


def add(journal: Path, cursor: str, message: Any, seconds: float) -> None:
    """The kernel says something."""
    entry = {"__CURSOR": cursor, "MESSAGE": message, "_SOURCE_MONOTONIC_TIMESTAMP": str(int(seconds * 1e6))}
    with open(journal / "entries", "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def look(source: str | Path, place: dict[str, Any], boot_id: str = "boot", boottime: float = 1000.0) -> Look:
    return kernel_log.read(str(source), place, boot_id, boottime, 0.0)


def texts(seen: Look) -> list[str]:
    assert seen.problem == ""
    return [message.text for message in seen.messages]


def test_the_journal_is_read_on_from_where_it_was_left(journal: Path) -> None:
    add(journal, "a", "one", 1.5)
    first = look("journal", {})
    assert texts(first) == ["one"] and first.messages[0].boottime == 1.5
    assert texts(look("journal", first.place)) == []
    add(journal, "b", "two", 2.5)
    second = look("journal", first.place)
    assert texts(second) == ["two"]
    told = (journal / "told").read_text(encoding="utf-8").splitlines()
    assert all("--dmesg" in line for line in told)
    assert "--after-cursor" not in told[0] and told[-1].endswith("--after-cursor=a")
    # Nothing new keeps the place.
    assert look("journal", second.place).place["cursor"] == "b"


def test_seconds_asleep_count(journal: Path) -> None:
    add(journal, "a", "one", 100.0)
    seen = kernel_log.read("journal", {}, "boot", 1000.0, 600.0)
    assert seen.messages[0].boottime == 700.0
    # Never in the future, whatever the clocks say.
    assert kernel_log.read("journal", {}, "boot", 650.0, 600.0).messages[0].boottime == 650.0


def test_another_boot_is_read_from_its_beginning(journal: Path) -> None:
    add(journal, "a", "one", 1.0)
    before = look("journal", {}).place
    assert texts(look("journal", before, boot_id="next")) == ["one"]


def test_a_place_that_the_journal_forgot_repeats_nothing(journal: Path) -> None:
    add(journal, "a", "one", 1.0)
    place = look("journal", {}).place
    (journal / "entries").write_text("", encoding="utf-8")
    add(journal, "x", "one", 1.0)
    add(journal, "y", "two", 2.0)
    lost = look("journal", place)
    assert lost.messages == [] and "journalctl has ended with status 1" in lost.problem
    assert texts(look("journal", lost.place)) == ["two"]


def test_messages_that_are_no_text(journal: Path) -> None:
    add(journal, "a", list(b"NVRM: \xff line\n two"), 1.0)
    add(journal, "b", None, 1.0)
    add(journal, "c", [1, 2, "x", 999], 1.0)
    assert texts(look("journal", {}))[0] == "NVRM: \ufffd line\n two"


@pytest.mark.parametrize(
    ("script", "deadline", "said"), [("sleep 600", 0.3, "has not ended in time"), ("exit 3", 60, "with status 3")]
)
def test_a_journalctl_in_trouble(
    journal: Path, monkeypatch: pytest.MonkeyPatch, script: str, deadline: float, said: str
) -> None:
    add(journal, "a", "one", 1.0)
    place = look("journal", {}).place
    (journal / "journalctl").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(kernel_log, "_DEADLINE", deadline)
        seen = look("journal", place)
    assert seen.messages == [] and said in seen.problem
    (journal / "journalctl").write_text(JOURNALCTL, encoding="utf-8")
    assert texts(look("journal", seen.place)) == []


def test_no_journalctl_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "status 127" in look("journal", {}).problem


def test_too_much_at_once_is_read_in_parts(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_log, "_MOST_BYTES", 20000)
    for index in range(1000):
        add(journal, f"c{index}", f"message {index} " + "x" * 60, index)
    place: dict[str, Any] = {}
    found: list[str] = []
    for _look in range(20):
        seen = look("journal", place, boottime=5000)
        found += texts(seen)
        place = seen.place
    assert [int(text.split()[1]) for text in found] == list(range(1000))


def test_the_real_journalctl_knows_these_options(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a journal it says nothing, and does not fail.
    if any(os.access(f"{folder}/journalctl", os.X_OK) for folder in os.environ["PATH"].split(":")):
        assert look("journal", {}).problem == ""


def test_a_file_is_read_from_now_on(tmp_path: Path) -> None:
    log = tmp_path / "kern.log"
    log.write_text("of last year\n", encoding="utf-8")
    first = look(log, {})
    assert texts(first) == []
    with open(log, "a", encoding="utf-8") as file:
        file.write("Nov 22 10:00:00 closet kernel: [   12.345678] one\nwithout a time\nnot yet who")
    second = look(log, first.place)
    assert texts(second) == ["Nov 22 10:00:00 closet kernel: [   12.345678] one", "without a time"]
    assert [message.boottime for message in second.messages] == [12.345678, 1000.0]
    with open(log, "a", encoding="utf-8") as file:
        file.write("le\n")
    assert texts(look(log, second.place)) == ["not yet whole"]


def test_a_file_that_comes_later_is_read_whole(tmp_path: Path) -> None:
    log = tmp_path / "kern.log"
    first = look(log, {})
    assert texts(first) == []
    log.write_text("one\n", encoding="utf-8")
    assert texts(look(log, first.place)) == ["one"]


def test_a_file_that_is_rotated_or_cut(tmp_path: Path) -> None:
    log = tmp_path / "kern.log"
    log.write_text("old\n" * 100, encoding="utf-8")
    place = look(log, {}).place
    log.rename(tmp_path / "kern.log.1")
    log.write_text("one\n", encoding="utf-8")
    seen = look(log, place)
    assert texts(seen) == ["one"]
    log.write_text("2\n", encoding="utf-8")
    assert texts(look(log, seen.place)) == ["2"]


def test_the_end_of_the_last_boot_is_no_news(tmp_path: Path) -> None:
    log = tmp_path / "kern.log"
    log.touch()
    place = look(log, {}, boot_id="one").place
    log.write_text(
        "k: [ 999.0] NVRM: Xid of the last boot\nk: [    0.000000] Linux version 6.1\nk: [ 5.0] new\n", encoding="utf-8"
    )
    seen = look(log, place, boot_id="two")
    assert not any("last boot" in text for text in texts(seen)) and texts(seen)[-1] == "k: [ 5.0] new"


def test_another_source_begins_anew(tmp_path: Path, journal: Path) -> None:
    add(journal, "a", "one", 1.0)
    log = tmp_path / "kern.log"
    log.write_text("old\n", encoding="utf-8")
    assert texts(look(log, look("journal", {}).place)) == []


def test_a_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in look(tmp_path / "pipe", {}).problem
    assert "is no file" in look(tmp_path, {}).problem


def test_a_line_without_an_end_does_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_log, "_MOST_BYTES", 1000)
    log = tmp_path / "kern.log"
    log.touch()
    place = look(log, {}).place
    log.write_text("x" * 2500 + "\nend\n", encoding="utf-8")
    found: list[str] = []
    for _look in range(4):
        seen = look(log, place)
        found += texts(seen)
        place = seen.place
    assert found[-1] == "end"
