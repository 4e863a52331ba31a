# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module that runs on the host as an asynchronous job, so that it outlives the SSH session that started it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import time
from typing import Any, Callable, NoReturn

from ansible.errors import AnsibleConnectionFailure
from ansible.vars.clean import remove_internal_keys
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._action_base import ActionBase
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._patience import GivenUp, Patience

# Seconds. Ansible ends a job after its limit; a slow line may need days.
JOB_LIMIT = 7 * 24 * 3600
# A host that restarts in the middle loses its job; what is on its disk is not lost, so the job is started again.
MOST_STARTS = 3
# A job that writes nothing for so many seconds is looked for among the host's processes.
SILENCE = 20.0
# How often a command may come back without its answer.
MOST_MISSES = 5
# More than any progress file has.
MOST_PROGRESS = 8192

MARK = "secondhand-job:"
# What Ansible writes into the file of a job that has not ended; the answer of a module never begins so.
STARTED = '{"started":'
# One command that waits on the host instead of many that ask: it returns when the job ends, or after its pauses.
WATCH = """\
state=gone
for pause in %(pauses)s; do
  job=; { read -r job < %(job)s; } 2>/dev/null
  case "$job" in %(started)s*) state=running; sleep $pause ;; ?*) state=finished; break ;; *) state=gone; break ;; esac
done
echo %(mark)s$state
if test $state = finished; then cat %(job)s; else head -c %(most)d %(progress)s 2>/dev/null; fi"""
# A module that has begun to work no longer needs its file, which has the options in it, so a token as well.
FORGET = "\nif test -s %(progress)s; then rm -f %(folder)s/AnsiballZ_* 2>/dev/null; fi; true"


class Job:
    """Starts a module as a job, follows it, and brings its result."""

    def __init__(
        self,
        action: ActionBase,
        module: str,
        args: dict[str, Any],
        task_vars: dict[str, Any],
        tell: Callable[[str], None],
    ) -> None:
        self._action = action
        self._module = module
        self._args = args
        self._task_vars = task_vars
        self._tell = tell
        self._patience = Patience(
            action._connection,
            tell,
            "the connection is lost and the host goes on by itself",
            "see to it that it can be reached, and run again to join what goes on there",
        )
        # Nobody else on the host can guess it.
        self._progress_name = f"secondhand-diffusion-{secrets.token_hex(16)}.json"
        self._job_file = ""
        self._old_job_files: list[str] = []
        self._starts = 0
        self._last_progress = ""
        self._last_change = 0.0
        self._losses = 0
        self._misses = 0
        self._answer = ""
        # Where Ansible has put the module's file on the host, if it may be removed.
        self._folder: str | None = None

    def start(self) -> dict[str, Any] | None:
        """Starts the job; what it returns is the failure when that was not possible."""
        task, shell = self._action._task, self._action._connection._shell
        if shell.tmpdir is None:
            self._action._make_tmp_path()
        # Not when somebody debugs a module (keep_remote_files).
        self._folder = shell.tmpdir if self._action._should_remove_tmp_path(shell.tmpdir) else None
        async_dir = self._action.get_shell_option("async_dir", default="~/.ansible_async")
        # In the directory that Ansible makes for the jobs of this user, whoever that is by become.
        args = {**self._args, "_progress": os.path.join(async_dir, self._progress_name)}
        before = task.async_val
        # Ansible takes the job's time limit from the task.
        task.async_val = JOB_LIMIT
        try:
            answer = self._action._execute_module(
                module_name=self._module, module_args=args, task_vars=self._task_vars, wrap_async=True
            )
        finally:
            task.async_val = before
        if not answer.get("results_file"):
            return answer
        self._starts += 1
        self._job_file = str(answer["results_file"])
        self._last_progress, self._last_change = "", time.monotonic()
        return None

    def watch(self, seconds: float) -> str | None:
        """Waits until the job has ended, but not much longer than so; gives what it last wrote, None after its end."""
        state, text = self._patience.ask(lambda: self._look(_pauses(seconds)))
        if state == "running" and text != self._last_progress:
            self._last_progress, self._last_change = text, time.monotonic()
        # A lost connection may have been a restart.
        silent = time.monotonic() - self._last_change > SILENCE or self._losses != self._patience.losses
        self._losses = self._patience.losses
        if state == "gone" or (state == "running" and silent and not self._patience.ask(self._is_alive)):
            # It may have ended between the two questions.
            state, text = self._patience.ask(lambda: self._look(["0"]))
            if state != "finished":
                self._start_again()
                return ""
        if state == "finished":
            self._answer = text
            return None
        return text

    def result(self) -> dict[str, Any]:
        """What the module has answered; leaves nothing of the job on the host."""
        folder, job = os.path.split(self._job_file)
        answer = _plain(self._answer) or self._patience.ask(lambda: self._status(folder, job))
        progress = os.path.join(folder, self._progress_name)
        # What "mode: cleanup" of async_status does, without starting Python for it.
        files = [*self._old_job_files, self._job_file, progress, f"{progress}.new"]
        remove = f"rm -f {' '.join(map(shlex.quote, files))}"
        self._patience.ask(lambda: self._action._low_level_execute_command(remove))
        if self._folder and self._action._is_become_unprivileged():
            # Ansible's wrapper, which removes it otherwise, may not do so as this user.
            self._action._remove_tmp_path(self._folder, force=True)
        for name in ("ansible_job_id", "started", "finished", "results_file"):
            answer.pop(name, None)
        if answer.get("failed") and "cmd" in answer and {"data", "outdata"} & set(answer):
            # Ansible's wrapper got no answer from the module, and gives its own traceback instead.
            raise GivenUp(
                f"{self._module} ended on the host without an answer, {_ending(answer)}: look into the host's journal"
                " for what ended it, and run again; what was transferred is kept."
            )
        answer.get("invocation", {}).get("module_args", {}).pop("_progress", None)
        return answer

    def _look(self, pauses: list[str]) -> tuple[str, str]:
        progress = shlex.quote(os.path.join(os.path.dirname(self._job_file), self._progress_name))
        command = WATCH % {
            "pauses": " ".join(pauses),
            "job": shlex.quote(self._job_file),
            "started": shlex.quote(STARTED),
            "mark": MARK,
            "most": MOST_PROGRESS,
            "progress": progress,
        }
        if self._folder and not self._last_progress:
            command += FORGET % {"progress": progress, "folder": shlex.quote(self._folder.rstrip("/"))}
        answer = self._action._low_level_execute_command(command)
        # A terminal, which sudo may want, has its own line ends.
        found = re.search(rf"^{MARK}(\w+)\r?\n", answer["stdout"], re.MULTILINE)
        if not found:
            self._give_up_on(answer)
        return found[1], answer["stdout"][found.end() :]

    def _is_alive(self) -> bool:
        """Whether the job's wrapper still runs: its command line has the job's name."""
        job = os.path.basename(self._job_file).split(".")[0]
        # The brackets keep the command from finding itself.
        pattern = shlex.quote(f"[{job[0]}]{job[1:]}")
        command = f"grep -qs {pattern} /proc/[0-9]*/cmdline && echo {MARK}alive || echo {MARK}ended"
        answer = self._action._low_level_execute_command(command)
        if MARK not in answer["stdout"]:
            self._give_up_on(answer)
        self._last_change = time.monotonic()
        return f"{MARK}alive" in answer["stdout"]

    def _give_up_on(self, answer: dict[str, Any]) -> NoReturn:
        """A command came through, and what came back is not its answer: a few times that may be the line."""
        self._misses += 1
        words = (answer["stderr"] or answer["stdout"]).strip()[-300:]
        if self._misses < MOST_MISSES:
            raise AnsibleConnectionFailure(f"no answer to a command: {words}")
        raise GivenUp(
            f"{self._module} runs on the host as job {os.path.basename(self._job_file)}, which cannot be followed, as"
            f" a command there ended with status {answer['rc']} and said '{words}': repair that, and run again to join"
            " it."
        )

    def _start_again(self) -> None:
        if self._starts >= MOST_STARTS:
            raise GivenUp(
                f"{self._module} was started {self._starts} times on the host and vanished each time: look into the"
                " host's journal for what ends it, and run again; what was transferred is kept."
            )
        self._tell("the job is gone, as after a restart of the host; starting it again")
        self._old_job_files.append(self._job_file)
        if self._folder:
            # The wrapper would have removed it.
            folder = self._folder
            self._patience.ask(lambda: self._action._remove_tmp_path(folder, force=True))
        answer = self._patience.ask(self.start)
        if answer is not None:
            raise GivenUp(f"{self._module} could not be started again: {answer.get('msg', answer)}")

    def _status(self, folder: str, job: str) -> dict[str, Any]:
        answer = self._action._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={"jid": job, "_async_dir": folder},
            task_vars=self._task_vars,
        )
        if not answer.get("_ansible_parsed", True):
            raise AnsibleConnectionFailure(f"the result could not be read: {answer.get('module_stderr', '')}"[:300])
        return answer


def _pauses(seconds: float) -> list[str]:
    """Seconds to sleep between two looks at the job: short ones first, for a job that ends at once."""
    pauses, total, pause = [], 0.0, 0.05
    while total < seconds:
        pauses.append(f"{pause:.3g}")
        total += pause
        pause = min(0.5, pause * 1.5)
    return pauses


def _plain(text: str) -> dict[str, Any] | None:
    """A module's good answer; None for one with a failure or with warnings, which Ansible reads better itself."""
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    if not isinstance(answer, dict) or answer.get("failed") or "__ansible_type" in text:
        return None
    remove_internal_keys(answer)
    return answer


def _ending(answer: dict[str, Any]) -> str:
    words = str(answer.get("stderr") or "").strip().splitlines()
    return f"its last words were '{words[-1][:200]}'" if words else "as after SIGKILL or when memory is used up"
