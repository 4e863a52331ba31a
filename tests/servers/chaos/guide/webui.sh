#!/bin/bash
# As upstream's webui.sh ends: Python is its child.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
python3 -u launch.py "$@"
