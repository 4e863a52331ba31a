"""Stands in for get-pip.py, which ansible-test would fetch from a host of its own: puts the same pip in from PyPI.

ansible-test makes an empty virtual environment for each of its tools and runs the script that it finds in its
cache there, with the packages that it wants (``pip==24.2``) as arguments. A machine that reaches PyPI needs no more.
"""

from __future__ import annotations

import subprocess
import sys

# Options that only get-pip.py knows.
arguments = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments], check=True)
