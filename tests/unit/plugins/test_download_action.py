"""What the action plugins of the transfers show, and how they read what a job has left."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.secondhand.diffusion.plugins.plugin_utils import _job, _lines, _patience, _progress_line
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._download_action import TransferAction

GIB = 1024**3
MIB = 1024**2
PROGRESS: dict[str, Any] = {
    "name": "v1-5-pruned.safetensors",
    "done": int(1.2 * GIB),
    "total": int(3.97 * GIB),
    "rate": 35 * MIB,
    "eta": 80,
    "file": 1,
    "files": 1,
    "state": "downloading",
    "note": "",
}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "v1-5-pruned.safetensors 1.20 of 3.97 GiB, 35.0 MiB/s, 1:20 left"),
        ({"total": None, "eta": None}, "v1-5-pruned.safetensors 1.20 GiB, 35.0 MiB/s"),
        ({"rate": 0, "eta": None}, "v1-5-pruned.safetensors 1.20 of 3.97 GiB"),
        ({"file": 2, "files": 5}, "v1-5-pruned.safetensors (2 of 5) 1.20 of 3.97 GiB, 35.0 MiB/s, 1:20 left"),
        ({"eta": 7325.4}, "v1-5-pruned.safetensors 1.20 of 3.97 GiB, 35.0 MiB/s, 2:02:05 left"),
        (
            {"state": "waiting", "note": "another run is fetching it"},
            "v1-5-pruned.safetensors 1.20 of 3.97 GiB, waiting: another run is fetching it",
        ),
        ({"state": "checking"}, "v1-5-pruned.safetensors 1.20 of 3.97 GiB checked"),
        ({"state": "linking"}, "v1-5-pruned.safetensors: linking"),
        ({"name": "", "state": "waiting", "note": "civitai.com says 60 s"}, "waiting: civitai.com says 60 s"),
        (
            {"name": "a\x1b[2J\n.bin", "done": 500, "total": 999, "rate": 12.3, "eta": 41},
            "a?[2J?.bin 500 of 999 B, 12 B/s, 0:41 left",
        ),
    ],
)
def test_a_line_says_how_much_how_fast_and_how_long(more: dict[str, Any], line: str) -> None:
    assert _progress_line.line({**PROGRESS, **more}) == line


def test_a_long_name_keeps_both_ends() -> None:
    name = _progress_line.name({**PROGRESS, "name": "a" * 80 + "fp16.safetensors"})
    assert len(name) == _progress_line.LONGEST_NAME
    assert name.startswith("aaa") and "…" in name and name.endswith("fp16.safetensors")


def test_the_last_line_says_what_came() -> None:
    assert _progress_line.finished(PROGRESS, 3.97 * GIB, 113) == (
        "v1-5-pruned.safetensors done: 3.97 GiB in 1:53, 36.0 MiB/s"
    )
    assert _progress_line.finished(PROGRESS, 0, 12) == "v1-5-pruned.safetensors done"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (10 * MIB, "10.0 MiB"), (150.4 * MIB, "150 MiB")],
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert _progress_line.size(count) == text


@pytest.mark.parametrize("text", ["", "{", '{"name": "cut off', "[]", '{"name": ""}', '"text"'])
def test_what_is_no_progress_shows_nothing(text: str) -> None:
    assert _progress_line.parse(text) is None


@pytest.mark.parametrize(
    ("mode", "terminal", "shown"),
    [
        ("always", False, True),
        ("always", True, True),
        ("auto", True, True),
        ("auto", False, False),
        ("never", True, False),
        ("nonsense", True, False),
    ],
)
def test_auto_means_a_terminal(mode: str, terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "ON_TERMINAL", terminal)
    assert _lines.Lines(mode, "closet", []).shown is shown


def test_a_job_is_looked_at_often_first_and_less_later() -> None:
    pauses = [float(pause) for pause in _job._pauses(20)]
    assert pauses == sorted(pauses) and pauses[0] <= 0.05 and pauses[-1] == 0.5
    assert 20 <= sum(pauses) < 20.6
    assert len(pauses) < 60


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"changed": true, "path": "/x", "_ansible_no_log": false}', {"changed": True, "path": "/x"}),
        ('{"changed": false, "failed": true, "msg": "no"}', None),
        ('{"changed": true, "warnings": [{"__ansible_type": "WarningSummary"}]}', None),
        ('{"changed": tr', None),
        ("", None),
    ],
)
def test_only_a_good_and_plain_answer_is_read_without_ansible(text: str, answer: dict[str, Any] | None) -> None:
    assert _job._plain(text) == answer


def test_a_module_that_was_killed_is_told_from_one_that_broke() -> None:
    assert _job._ending({"stderr": ""}) == "as after SIGKILL or when memory is used up"
    broke = {"stderr": "Traceback\n  File x\nMemoryError\n"}
    assert _job._ending(broke) == "its last words were 'MemoryError'"


class Host:
    """An action plugin's way to a host that says just this, once each."""

    def __init__(self, *answers: str | Exception) -> None:
        self._connection = self
        self._answers = list(answers)
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1
        raise OSError("there is nothing to reset")

    def _low_level_execute_command(self, command: str) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"rc": 0, "stdout": answer, "stderr": ""}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits; what would have been waited for is listed."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def job_on(host: Any, told: list[str]) -> _job.Job:
    """A job that was started."""
    job = _job.Job(host, "url_download", {}, {}, told.append)
    job._job_file = "/root/.ansible_async/j123.45"
    job._last_change = time.monotonic()
    return job


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["pipe", "terminal"])
def test_a_job_is_followed_with_and_without_a_terminal_for_sudo(end: str) -> None:
    told: list[str] = []
    job = job_on(
        Host(f"Welcome!{end}secondhand-job:running{end}", f'secondhand-job:running{end}{{"name": "a"}}{end}'), told
    )
    assert job.watch(1) == ""
    assert _progress_line.parse(job.watch(1) or "") == {"name": "a"}
    assert told == []


def test_a_lost_connection_is_tried_again_with_growing_pauses(pauses: list[float]) -> None:
    told: list[str] = []
    lost = [AnsibleConnectionFailure("the line is dead") for _attempt in range(7)]
    host = Host(*lost, 'secondhand-job:running\n{"name": "a"}', "secondhand-job:alive\n")
    assert job_on(host, told).watch(1) == '{"name": "a"}'
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert host.resets == 7
    assert told == ["the connection is lost and the host goes on by itself, trying again"]


def test_what_is_no_lost_connection_is_not_tried_for_long(pauses: list[float]) -> None:
    told: list[str] = []
    with pytest.raises(_patience.GivenUp, match=r"ended with status 0 and said 'sh: not found': repair that, and run"):
        job_on(Host(*["sh: not found\n"] * 9), told).watch(1)
    assert len(pauses) == _job.MOST_MISSES - 1
    pauses.clear()
    with pytest.raises(AnsibleError, match="no such module"):
        job_on(Host(*[AnsibleError("no such module")] * 9), []).watch(1)
    assert len(pauses) == _patience.ATTEMPTS - 1


@pytest.mark.parametrize("no_log", [True, False])
def test_a_secret_task_names_no_file(no_log: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """That something moves is no secret."""
    action: Any = SimpleNamespace(_task=SimpleNamespace(no_log=no_log, delegate_to=None))
    lines = TransferAction._lines(action, {"progress": "always", "token": "abc"}, {"inventory_hostname": "closet"})
    progress = {"name": "private.safetensors", "done": 5, "total": 10, "state": "waiting", "note": "abc said later"}
    lines.show(progress)
    shown = capsys.readouterr().out
    assert ("private" in shown) is not no_log
    assert "closet: " in shown
    assert "abc" not in shown
