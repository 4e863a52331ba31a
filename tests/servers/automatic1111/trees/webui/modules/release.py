# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which release of the stand-in this is; the builder writes another file for the other releases."""

VERSION = "1.10.1"
# "" for a good one, "exit", "silent" or "no_model".
FAULT = ""
