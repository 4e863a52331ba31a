# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where pieces of a file arrive on the host: Ansible's temporary folder for the task."""

from __future__ import annotations

import contextlib
import os

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._action_base import ActionBase
from ansible_collections.secondhand.diffusion.plugins.plugin_utils._patience import GivenUp, Patience, first_line

# How often a piece may not be taken although the host can be reached.
MOST_FAILURES = 3


class Inbox:
    def __init__(self, action: ActionBase, patience: Patience) -> None:
        self._action = action
        self._patience = patience
        self._failures = 0

    def put(self, piece: str, name: str) -> str:
        """Puts a file of the controller there, and gives its path on the host."""
        self._failures = 0
        return self._patience.ask(lambda: self._try(piece, name))

    def _try(self, piece: str, name: str) -> str:
        shell = self._action._connection._shell
        if shell.tmpdir is None:
            self._action._make_tmp_path()
        target = os.path.join(shell.tmpdir, name)
        try:
            self._action._transfer_file(piece, target)
            # For a user who is neither root nor the one who connects.
            self._action._fixup_perms2([shell.tmpdir, target], execute=False)
        except AnsibleConnectionFailure:
            raise
        except Exception as exc:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise GivenUp(
                    f"A piece could not be handed over in {target} on the host ({first_line(exc)}): see that there is"
                    " room, install acl there if you become another user than root, and run again; what was copied is"
                    " kept."
                ) from exc
            # The folder may be gone, as after a restart of the host.
            with contextlib.suppress(AnsibleError):
                self._action._remove_tmp_path(shell.tmpdir)
            shell.tmpdir = None
            raise
        return target
