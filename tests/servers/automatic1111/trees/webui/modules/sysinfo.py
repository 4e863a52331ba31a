# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What /internal/sysinfo tells: arguments and environment as they are, which is how upstream's tells passwords."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from . import extensions, launch_utils, paths_internal, release, shared


def get() -> dict[str, Any]:
    """A secret is hidden in the arguments, where it is one of their values, and not in the environment."""
    secrets = {shared.cmd_opts.gradio_auth, shared.cmd_opts.api_auth} - {None}
    return {
        "Platform": platform.platform(),
        "Python": platform.python_version(),
        "Version": f"v{release.VERSION}",
        "Commit": launch_utils.commit_hash(),
        "Script path": paths_internal.script_path,
        "Data path": paths_internal.data_path,
        "Extensions dir": paths_internal.extensions_dir,
        "Commandline": ["<hidden>" if word in secrets else word for word in sys.argv],
        "Extensions": [found.name for found in extensions.extensions if not found.is_builtin and found.enabled],
        "Environment": {
            name: os.environ[name]
            for name in sorted(os.environ)
            if name in ("COMMANDLINE_ARGS", "GIT", "INDEX_URL", "PYTHONPATH", "TORCH_COMMAND", "REQS_FILE")
        },
        "Config": shared.opts.data,
    }
