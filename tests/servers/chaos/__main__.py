# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One fault; its name is the only argument."""

from __future__ import annotations

import json
import sys

from chaos import card, engine, guide, host, patience, webui
from chaos.fault import FAULTS

# Each of them adds its faults.
FOUND = (card, engine, guide, host, patience, webui)


def main() -> int:
    """Make it and tell."""
    if len(sys.argv) != 2 or sys.argv[1] not in FAULTS:
        print(f"usage: python3 -m chaos {'|'.join(FAULTS)}", file=sys.stderr)
        return 2
    print(json.dumps(FAULTS[sys.argv[1]]()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
