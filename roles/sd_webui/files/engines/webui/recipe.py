# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two build scripts share: the recipe from the role, and how a failure reaches the person who ran it.

Both run unprivileged in a transient unit of systemd. The recipe comes as a credential, because an address of a mirror
may hold a password; it never stands on a command line or in the release.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

CACHE = Path(os.environ.get("CACHE_DIRECTORY", "."))
OUT = CACHE / "out"


class Problem(Exception):
    """One sentence: what went wrong, and the next step."""


def read() -> dict[str, typing.Any]:
    """The recipe: see tasks/engines/webui.yml for its keys."""
    text = (Path(os.environ["CREDENTIALS_DIRECTORY"]) / "recipe").read_text(encoding="utf-8")
    recipe: dict[str, typing.Any] = json.loads(text)
    return recipe


def without_password(text: str) -> str:
    """The text with the passwords of its addresses left out."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def last_line(said: str) -> str:
    """What a command said last, which is where most put their reason."""
    return (said.strip().splitlines() or ["no reason given"])[-1]


def run(command: list[str], environment: dict[str, str] | None = None, directory: Path | None = None) -> str:
    """Run a command, pass what it says on to the journal, and return it; raises CalledProcessError."""
    lines = []
    with subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        # As it comes: whoever follows the journal sees that minutes of downloading are not a hang.
        for line in typing.cast(typing.IO[str], process.stdout):
            lines.append(without_password(line))
            print(lines[-1], end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[0], "".join(lines))
    return "".join(lines)


def compile_code(python: Path) -> None:
    """Compile the web UI's own code: the service cannot, so it would at each start. What is no Python 3 stays."""
    with contextlib.suppress(subprocess.CalledProcessError):
        run([str(python), "-I", "-m", "compileall", "-qq", "-j", "0", str(OUT / "webui")])


def main(build: typing.Callable[[dict[str, typing.Any]], None]) -> int:
    """Build, and leave the sentence of a failure where the role finds it."""
    sentence = ""
    try:
        build(read())
    except Problem as problem:
        sentence = str(problem)
    except subprocess.CalledProcessError as error:
        sentence = (
            f"{Path(error.cmd).name} failed ({last_line(error.output)}); see journalctl -u 'sd-webui-build-*' on the "
            "host and run again"
        )
    except OSError as error:
        sentence = f"{error}; make room or repair the disk, and run again"
    if sentence:
        sentence = without_password(sentence)
        print(f"error: {sentence}", file=sys.stderr)
        (CACHE / "problem").write_text(sentence, encoding="utf-8")
    return 1 if sentence else 0
