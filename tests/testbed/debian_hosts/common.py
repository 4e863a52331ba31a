"""What every part of the test bed needs: errors, commands, locks and the cache directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

RELEASES = ("bookworm", "trixie", "bullseye")
FLAVOURS = ("managed", "installer")


class TestbedError(Exception):
    """A problem told in one sentence: what is wrong, where, and the next step."""


def say(message: str) -> None:
    """Tell a person what takes time; stdout stays free for results."""
    print(message, file=sys.stderr, flush=True)


def cache_dir() -> pathlib.Path:
    """The directory that keeps the SSH key, the root file systems and the proofs between runs."""
    own = pathlib.Path(os.environ.get("HOME") or "/root") / ".cache" / "secondhand.diffusion"
    path = pathlib.Path(os.environ.get("SECONDHAND_CACHE_DIR") or own).resolve() / "testbed"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a machine-wide lock, so that test beds at work side by side do not build or number the same thing twice."""
    folder = pathlib.Path("/run/lock/secondhand-testbed")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def attempt(command: Sequence[str], timeout: float = 60, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command whatever its exit status; a timeout gives the status 124, as timeout(1) does."""
    try:
        return subprocess.run(
            list(command), input=stdin if stdin is not None else "", capture_output=True, text=True,
            errors="replace", timeout=timeout, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise TestbedError(f"{command[0]} is not installed; run `tests/testbed/testbed setup` first") from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(command), 124, "", f"no answer in {timeout:.0f} s")


def run(command: Sequence[str], timeout: float = 60, stdin: str | None = None, doing: str = "") -> str:
    """Run a command and give its output; a failure is told in one sentence with the command's own last line."""
    done = attempt(command, timeout, stdin)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise TestbedError(f"{doing or ' '.join(command[:3])} failed: {lines[-1]}")
    return done.stdout
