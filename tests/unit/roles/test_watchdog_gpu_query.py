# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nvidia-smi in a child: a made-up one that answers, fails, floods, hangs, and hangs so that nothing ends it."""

from __future__ import annotations

import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import pytest
from sd_watchdog.gpu_query import Gpu, GpuQuery
from sd_watchdog.proc import Proc

QUESTION = "--query-gpu=utilization.gpu,memory.used,memory.total,temperature.gpu --format=csv,noheader,nounits"


@pytest.fixture
def make(tmp_path: pathlib.Path) -> Iterator[Callable[..., GpuQuery]]:
    """Makes a query of a program that does this."""
    made: list[GpuQuery] = []

    def query(does: str, deadline: float = 5) -> GpuQuery:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{does}\n", encoding="utf-8")
        program.chmod(0o755)
        made.append(GpuQuery([str(program)], deadline))
        return made[-1]

    yield query
    # A last question is only accepted when no child is left.
    for one in made:
        assert soon(functools.partial(_has_ended, one))


def _has_ended(query: GpuQuery) -> bool:
    return query.poll(time.monotonic() + 1000) is None and query._child is None


def _is_gone(pid: int) -> bool:
    return Proc().state(pid) is None


def soon(what: Callable[[], bool]) -> bool:
    """Does it become true?"""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.01)
    return False


def taken_at(query: GpuQuery, now: float) -> Gpu | None:
    """The answer, waited for as the supervisor does, at this moment of the clock that it is told."""
    deadline = time.monotonic() + 60
    found = query.poll(now)
    while found is None and time.monotonic() < deadline:
        time.sleep(0.01)
        found = query.poll(now)
    return found


def ask(query: GpuQuery) -> Gpu | None:
    now = time.monotonic()
    assert query.start(now)
    return taken_at(query, now)


def test_the_figures(make: Callable[..., GpuQuery], tmp_path: pathlib.Path) -> None:
    query = make(f'echo "$*" > {tmp_path}/asked; echo "37, 2211, 6144, 61"')
    assert query.poll(time.monotonic()) is None
    assert ask(query) == Gpu(37.0, 2211, 6144, 61.0, "")
    assert (tmp_path / "asked").read_text(encoding="utf-8").strip() == QUESTION
    # Once; and the next question gets its own answer.
    assert query.poll(time.monotonic()) is None and not query.hangs
    assert ask(query) == Gpu(37.0, 2211, 6144, 61.0, "")


def test_of_several_cards_the_most_of_each(make: Callable[..., GpuQuery]) -> None:
    assert ask(make("printf '3, 10, 6144, 70\\n99, 5, 2048, 40\\n'")) == Gpu(99.0, 10, 6144, 70.0, "")


@pytest.mark.parametrize("unknown", ["[N/A]", "N/A", "[Not Supported]", "[Unknown Error]"])
def test_what_an_old_card_cannot_measure(unknown: str, make: Callable[..., GpuQuery]) -> None:
    assert ask(make(f"echo '{unknown}, 812, 2002, 54'")) == Gpu(None, 812, 2002, 54.0, "")


def test_a_card_that_is_lost(make: Callable[..., GpuQuery]) -> None:
    found = ask(make("echo '[GPU requires reset], 812, 2002, 54'"))
    assert found == Gpu(None, 812, 2002, 54.0, "nvidia-smi says '[GPU requires reset]' for a card.")


def test_a_driver_that_is_not_loaded(make: Callable[..., GpuQuery]) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    query = make(f'echo "{said}" >&2; exit 9')
    assert ask(query) == Gpu(None, None, None, None, f"nvidia-smi exits with 9: {said}")
    assert not query.hangs


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("exit 6", "nvidia-smi exits with 6: nothing"),
        ("true", "nvidia-smi says 'nothing' instead of figures."),
        ("echo Hello", "nvidia-smi says 'Hello' instead of figures."),
        ("printf 'a\\033[31mb\\n'", "nvidia-smi says 'a[31mb' instead of figures."),
        ("kill -SEGV $$", "nvidia-smi is ended by signal 11: nothing"),
    ],
)
def test_what_is_no_answer(does: str, said: str, make: Callable[..., GpuQuery]) -> None:
    found = ask(make(does))
    assert found == Gpu(None, None, None, None, said)


def test_a_program_that_is_not_there(tmp_path: pathlib.Path) -> None:
    query = GpuQuery([str(tmp_path / "nvidia-smi")], 5)
    for _ in range(2):
        assert query.start(0)
        found = query.poll(0)
        assert found is not None and found.said.startswith("nvidia-smi cannot be run (No such file or directory)")
        assert query.poll(0) is None
    assert not query.hangs


def test_a_flood_is_read_and_not_kept(make: Callable[..., GpuQuery]) -> None:
    query = make("head -c 3000000 /dev/zero | tr '\\0' 'x'; echo; echo '1, 2, 3, 4'")
    found = ask(query)
    assert found is not None and len(found.said) < 300


def test_one_that_hangs_is_killed_and_never_waited_for(make: Callable[..., GpuQuery], tmp_path: pathlib.Path) -> None:
    query = make(f"sleep 600 & echo $! > {tmp_path}/child; sleep 600", deadline=10)
    assert query.start(100.0)
    assert soon(lambda: (tmp_path / "child").exists() and (tmp_path / "child").stat().st_size > 0)
    assert not query.start(105.0)
    assert query.poll(109.9) is None
    before = time.monotonic()
    found = query.poll(110.0)
    assert time.monotonic() - before < 30
    assert found is not None and found.utilization is None
    assert found.said == "nvidia-smi has not answered for 10 s; the card or its driver hangs."
    assert query.hangs and query.poll(111.0) is None
    # With all that it has started.
    for name in ("pid", "child"):
        ended = int((tmp_path / name).read_text(encoding="ascii"))
        assert soon(functools.partial(_is_gone, ended)), name
    assert query.hangs
    # The next one may be asked, and its answer says that all is well again.
    assert soon(lambda: query.start(120.0))
    query.poll(131.0)


def test_it_answers_again(make: Callable[..., GpuQuery], tmp_path: pathlib.Path) -> None:
    query = make(f"test -e {tmp_path}/well || exec sleep 600; echo '1, 2, 3, 4'", deadline=10)
    assert query.start(0.0)
    assert query.poll(10.0) is not None and query.hangs
    (tmp_path / "well").touch()
    assert soon(lambda: query.start(20.0))
    assert taken_at(query, 21.0) == Gpu(1.0, 2, 3, 4.0, "")
    assert not query.hangs


def test_one_that_no_signal_ends(make: Callable[..., GpuQuery], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the kernel's uninterruptible sleep: there is never a second one, and nothing blocks."""
    query = make("exec sleep 600", deadline=10)
    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", lambda _group, _signal: None)
        assert query.start(0.0)
        before = time.monotonic()
        assert query.poll(10.0) is not None
        for now in (20.0, 80.0, 3600.0):
            assert not query.start(now)
            assert query.poll(now) is None
            assert query.hangs
        # Not as long as the child.
        assert time.monotonic() - before < 30
    assert query._child is not None
    query._child.kill()
    assert soon(lambda: query.start(4000.0))
    assert query.poll(4010.0) is not None


def test_its_child_keeps_the_output_open(make: Callable[..., GpuQuery], tmp_path: pathlib.Path) -> None:
    query = make("sleep 600 & echo '1, 2, 3, 4'")
    before = time.monotonic()
    assert ask(query) == Gpu(1.0, 2, 3, 4.0, "")
    assert time.monotonic() - before < 30
    os.killpg(int((tmp_path / "pid").read_text(encoding="ascii")), 9)
