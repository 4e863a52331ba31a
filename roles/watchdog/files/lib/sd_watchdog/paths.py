# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the watchdog's files lie. SD_WATCHDOG_ROOT moves all of them, which the tests use."""

from __future__ import annotations

import os
from pathlib import Path

BASE = Path(os.environ.get("SD_WATCHDOG_ROOT", "/"))

LIB = BASE / "usr/local/lib/sd-watchdog"
# Written by the role; the second one may hold tokens, so only root reads it.
CONFIG = BASE / "etc/sd-watchdog/config.json"
ALERTS_CONFIG = BASE / "etc/sd-watchdog/alerts.json"

# The supervisor's, which runs as the web UI's user: nobody may believe what stands in them blindly.
RUN = BASE / "run/sd-watchdog"
STATUS = RUN / "status.json"
METRICS = RUN / "metrics.prom"
REQUEST = RUN / "request.json"
STATE = BASE / "var/lib/sd-watchdog"
STATE_FILE = STATE / "state.json"
OUTBOX = STATE / "outbox"

# The root part's, which everybody may read.
ROOT_RUN = BASE / "run/sd-watchdog-root"
ANSWER = ROOT_RUN / "answer.json"
GPU = ROOT_RUN / "gpu.json"
ROOT_STATE = BASE / "var/lib/sd-watchdog-root"
ROOT_FILE = ROOT_STATE / "root.json"
MAINTENANCE = ROOT_STATE / "maintenance.json"
SENT = ROOT_STATE / "alerts.json"
