"""The disposable child, with real processes that end, print, hang and do not die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _probe


def sh(script: str, timeout: float = 60) -> _probe.Outcome:
    return _probe.run_disposable(["sh", "-c", script], timeout)


def state(pid: int) -> str:
    """As ps tells it, or "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def is_over(pid: int) -> bool:
    """Whether a process that was killed ends; on a busy computer that takes a moment."""
    patience = time.monotonic() + 60
    while state(pid) not in ("", "Z") and time.monotonic() < patience:
        time.sleep(0.01)
    return state(pid) in ("", "Z")


class Clock:
    """The module's clock: its time is over as soon as this file is there, whatever the machine needs until then."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def monotonic(self) -> float:
        return time.monotonic() + 1000 * self._file.exists()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("0000:03:00.0", "0000:03:00.0"),
        ("00000000:03:00.0", "0000:03:00.0"),
        ("00000000:0A:1F.7", "0000:0a:1f.7"),
        ("03:00.0", "0000:03:00.0"),
        ("10000:e1:00.0", "10000:e1:00.0"),
        ("00010000:E1:00.0", "10000:e1:00.0"),
    ],
)
def test_an_address_has_one_form(address: str, normal: str) -> None:
    assert _probe.normal_address(address) == normal


@pytest.mark.parametrize("address", ["", "[N/A]", "03", "zz:00.0", "0000:03:00"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        _probe.normal_address(address)


def test_a_child_that_ends() -> None:
    outcome = sh("echo out; echo err >&2; exit 3")
    assert outcome == _probe.Outcome(3, "out\n", "err\n")


def test_all_output_arrives() -> None:
    assert len(sh("head -c 700000 /dev/zero | tr '\\0' x").output) == 700000


def test_the_child_has_no_input_and_speaks_english() -> None:
    assert sh('cat; echo "$LC_ALL"').output == "C\n"


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        _probe.run_disposable(["/nonexistent/nvidia-smi"], 1)


def test_a_child_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "time", Clock(tmp_path / "ready"))
    monkeypatch.setattr(_probe, "_GRACE", 30)
    began = time.monotonic()
    script = f"trap '' TERM INT HUP; echo $$; sleep 600 & echo $! >{tmp_path}/child; touch {tmp_path}/ready"
    outcome = sh(f"{script}; wait; sleep 600")
    assert time.monotonic() - began < 30
    assert (outcome.returncode, outcome.hung, outcome.undead) == (None, True, False)
    assert is_over(int(outcome.output))
    assert is_over(int((tmp_path / "child").read_text()))


def test_a_child_that_has_closed_its_output_is_still_awaited() -> None:
    assert sh("exec >&- 2>&-; sleep 0.3; exit 4").returncode == 4
    assert sh("exec >&- 2>&-; sleep 600", timeout=0.3).hung


def test_a_process_that_it_leaves_behind_is_not_awaited(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = sh(f"sleep 600 & echo $! >{tmp_path}/child; echo done")
    assert time.monotonic() - began < 30
    assert (outcome.returncode, outcome.output) == (0, "done\n")
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_a_flood_is_cut() -> None:
    outcome = sh("yes", timeout=60)
    assert (outcome.returncode, outcome.hung, len(outcome.output)) == (None, False, _probe.OUTPUT_LIMIT)


# SIGKILL does not make this one disappear: it is traced by a process of another session, and a traced process stays,
# as one in the state D does, until its tracer has been told of its end. The tracer sleeps.
UNDEAD = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PTRACER, PTRACE_SEIZE = 0x59616d61, 0x4206
traced = os.getpid()
ready, go = os.pipe(), os.pipe()
tracer = os.fork()
if tracer == 0:
    os.setsid()
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    os.read(go[0], 1)
    libc.ptrace(PTRACE_SEIZE, traced, None, None)
    os.write(ready[1], str(ctypes.get_errno()).encode())
    time.sleep(600)
    os._exit(0)
libc.prctl(PR_SET_PTRACER, tracer, 0, 0, 0)
os.write(go[1], b"x")
print(os.read(ready[0], 9).decode(), tracer, traced, flush=True)
open(sys.argv[1], "w").close()
time.sleep(600)
"""


def test_a_child_that_does_not_die_is_left_alone(tmp_path: Path) -> None:
    # In a Python of its own, so that the end of an interpreter with such a child is seen as well.
    script = """
    import os, sys, time, types
    from ansible_collections.secondhand.diffusion.plugins.module_utils import _probe
    # The time is over as soon as the child is ready.
    later = lambda: time.monotonic() + 1000 * os.path.exists(sys.argv[2])
    _probe.time = types.SimpleNamespace(monotonic=later, sleep=time.sleep)
    began = time.monotonic()
    outcome = _probe.run_disposable([sys.executable, "-c", *sys.argv[1:]], 60)
    print(outcome.hung, outcome.undead, time.monotonic() - began < 30, outcome.output.strip())
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), UNDEAD, tmp_path / "ready"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert time.monotonic() - began < 60
    hung, undead, soon, error, tracer, traced = done.stdout.split()
    assert error == "0", os.strerror(int(error))
    # It is there, killed and not gone.
    assert state(int(traced)) == "Z"
    os.kill(int(tracer), signal.SIGKILL)
    assert (hung, undead, soon, done.returncode, done.stderr) == ("True", "True", "True", 0, "")
