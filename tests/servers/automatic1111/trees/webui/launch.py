# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the web UI is started, directly or by webui.sh; it is imported once more as a module, as upstream's is."""

from __future__ import annotations

import importlib
from typing import Any

launch_utils: Any = importlib.import_module("modules.launch_utils")
# Upstream's shared_cmd_options asks for both below the name of this module.
args = launch_utils.args
list_extensions = launch_utils.list_extensions


def main() -> None:
    """Prepare, unless the preparation is to be skipped, and start."""
    if not args.skip_prepare_environment:
        launch_utils.prepare_environment()
    launch_utils.start()


if __name__ == "__main__":
    main()
