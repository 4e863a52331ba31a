# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that are made on a host on purpose, and what becomes of them: python3 -m chaos FAULT, as root.

Prints one JSON object. Times in it are seconds after the fault, measured here: `detected` is the first word about it in
the journal, `ended` and `restarted` are the end of the old engine and the start of the new one as the kernel has them,
`ready` is the first answer of the new one to a health request; one is sent each 0.2 s.
"""
