# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What our action plugins use of Ansible's ActionBase, with types; at run time it is ActionBase itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class ActionBase:
        _task: Any
        _connection: Any
        _supports_async: bool
        _supports_check_mode: bool

        def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]: ...

        def get_shell_option(self, option: str, default: str | None = None) -> str: ...

        def _execute_module(
            self,
            *,
            module_name: str,
            module_args: dict[str, Any],
            task_vars: dict[str, Any],
            wrap_async: bool = False,
        ) -> dict[str, Any]: ...

        def _low_level_execute_command(self, cmd: str, sudoable: bool = True) -> dict[str, Any]: ...

        def _make_tmp_path(self) -> str: ...

        def _should_remove_tmp_path(self, tmp_path: str | None) -> bool: ...

        def _remove_tmp_path(self, tmp_path: str | None, force: bool = False) -> None: ...

        def _is_become_unprivileged(self) -> bool: ...

        def _transfer_file(self, local_path: str, remote_path: str) -> str: ...

        def _fixup_perms2(self, remote_paths: list[str], execute: bool = True) -> list[str]: ...

        def _find_needle(self, dirname: str, needle: str) -> str: ...

else:
    from ansible.plugins.action import ActionBase

__all__ = ["ActionBase"]
