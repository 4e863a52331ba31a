# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print, as JSON, which of the packages named in the JSON argument nothing else on this host needs. Changes nothing.

apt's own autoremove counts what is merely suggested as needed, and removes what was unneeded before us too.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def main() -> None:
    """See our packages as installed for others only, and ask apt which of them are superfluous then."""
    apt: Any = importlib.import_module("apt")
    apt_pkg: Any = importlib.import_module("apt_pkg")
    cache = apt.Cache()
    for kind in ("Recommends", "Suggests"):
        apt_pkg.config.set(f"APT::AutoRemove::{kind}Important", "false")
    ours = [cache[name] for name in json.loads(sys.argv[1]) if name in cache and cache[name].is_installed]
    with cache.actiongroup():
        for package in ours:
            package.mark_auto()
    json.dump([package.name for package in ours if package.is_auto_removable], sys.stdout)


if __name__ == "__main__":
    main()
