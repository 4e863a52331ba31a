# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ExecStart of sd-webui.service where role watchdog is installed: supervise the engine."""

from __future__ import annotations

import sys

from sd_watchdog.supervisor import main

if __name__ == "__main__":
    sys.exit(main())
