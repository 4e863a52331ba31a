# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a module that transfers files as a job on the host, and shows its progress meanwhile."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible_collections.secondhand.diffusion.plugins.module_utils._download import GLANCE
from ansible_collections.secondhand.diffusion.plugins.plugin_utils import _progress_line
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._action_base import ActionBase
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._job import Job
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._lines import Lines
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._patience import GivenUp, first_line


class TransferAction(ActionBase):
    """The action plugin of a module that transfers files; a subclass says which module that is."""

    module = ""
    # Only to refuse it with a better sentence than Ansible's.
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        if self._task.async_val:
            raise AnsibleActionFail(
                f"'async' cannot be used with {self._task.action}: take it out of the task, which runs as an"
                " asynchronous job by itself, outlives a lost connection, and shows its progress."
            )
        args = dict(self._task.args)
        try:
            return self.transfer(args, task_vars or {}, self._lines(args, task_vars or {}))
        except GivenUp as exc:
            # Ansible shows causes as well, and this sentence has them.
            raise AnsibleActionFail(str(exc)) from None

    def transfer(self, args: dict[str, Any], task_vars: dict[str, Any], lines: Lines) -> dict[str, Any]:
        """Does the work; a download is one run of the module."""
        if not self._task.check_mode:
            # A job costs half a second and more, too much for a file that is there.
            answer = self.run_directly({**args, "_progress": GLANCE}, task_vars)
            if not answer.get("later"):
                answer.get("invocation", {}).get("module_args", {}).pop("_progress", None)
                return answer
        result = self.run_module(args, task_vars, lines)
        if not result.get("failed"):
            lines.finish(result)
        return result

    def run_module(self, args: dict[str, Any], task_vars: dict[str, Any], lines: Lines) -> dict[str, Any]:
        """As a job, where there is something to do and the connection can leave one behind."""
        if self._task.check_mode or not self._can_leave_job():
            return self.run_directly(args, task_vars)
        job = Job(self, self.module, args, task_vars, lines.announce)
        try:
            failure = job.start()
        except AnsibleConnectionFailure:
            raise
        except AnsibleError as exc:
            if not self._is_become_unprivileged():
                raise
            # Ansible hands files to another user with setfacl; a module that runs at once needs no file.
            lines.announce(
                f"runs without a job and shows no progress, install acl on the host for that ({first_line(exc)})"
            )
            self._remove_tmp_path(self._connection._shell.tmpdir)
            return self.run_directly(args, task_vars)
        if failure is not None:
            return failure
        while (text := job.watch(lines.pause)) is not None:
            lines.show(_progress_line.parse(text))
        return job.result()

    def run_directly(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        return self._execute_module(module_name=self.module, module_args=args, task_vars=task_vars)

    def _can_leave_job(self) -> bool:
        names = ("always_pipeline_modules", "has_native_async", "_remote_is_local")
        return not any(getattr(self._connection, name, False) for name in names)

    def _lines(self, args: dict[str, Any], task_vars: dict[str, Any]) -> Lines:
        host = str(task_vars.get("inventory_hostname", "host"))
        if self._task.delegate_to:
            host = f"{host} -> {self._task.delegate_to}"
        secrets = [str(args["token"])] if args.get("token") else []
        return Lines(str(args.get("progress") or "auto"), host, secrets, anonymous=bool(self._task.no_log))
