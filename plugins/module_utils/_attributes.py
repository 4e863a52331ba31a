# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Owner, group and mode of files, where Ansible's own helpers stop. Private to this collection."""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule


def would_change(module: AnsibleModule, path: str) -> bool:
    """Whether owner, group or mode are not what the task wants."""
    arguments = module.load_file_common_arguments(module.params, path=path)
    real, module.check_mode = module.check_mode, True
    try:
        return bool(module.set_fs_attributes_if_different(arguments, False))
    finally:
        module.check_mode = real


def new_mode() -> int:
    """What any new file gets."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
