"""The connection to this machine, which breaks while a file exists."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleConnectionFailure

if TYPE_CHECKING:

    class Local:
        def get_option(self, name: str) -> Any: ...
        def exec_command(self, *arguments: Any, **more: Any) -> Any: ...
        def put_file(self, *arguments: Any, **more: Any) -> Any: ...

else:
    from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = r"""
name: shaky
short_description: local, with interruptions
description:
  - As C(local), but not while a file exists.
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
extends_documentation_fragment:
  - connection_pipelining
options:
  broken:
    description: While this file exists, nothing gets through.
    type: path
    vars:
      - name: shaky_broken
  become_success_timeout:
    description: As for local.
    type: int
    default: 10
  become_strip_preamble:
    description: As for local.
    type: bool
    default: true
"""


class Connection(Local):
    transport = "shaky"

    def _check(self) -> None:
        if os.path.exists(self.get_option("broken")):
            raise AnsibleConnectionFailure("the line is dead")

    def exec_command(self, *arguments: Any, **more: Any) -> Any:
        self._check()
        answer = super().exec_command(*arguments, **more)
        self._check()
        return answer

    def put_file(self, *arguments: Any, **more: Any) -> Any:
        self._check()
        answer = super().put_file(*arguments, **more)
        self._check()
        return answer
