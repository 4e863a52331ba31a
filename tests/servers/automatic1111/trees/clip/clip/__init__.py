# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for CLIP: what needs it can import it."""

from .simple_tokenizer import SimpleTokenizer

__all__ = ["SimpleTokenizer"]
