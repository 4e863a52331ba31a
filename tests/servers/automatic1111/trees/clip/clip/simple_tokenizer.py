# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of tokens, under the names that the real one has; it turns no text into tokens."""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path

# The real one needs both of them to be imported.
importlib.import_module("ftfy")
importlib.import_module("regex")

TABLE = Path(__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
# As many pairs as the real one takes of its table, which has more lines.
PAIRS = 49152 - 256 - 2


class SimpleTokenizer:
    """`encoder` has the number of each token, `bpe_ranks` that of each pair."""

    def __init__(self, bpe_path: str = str(TABLE)) -> None:
        lines = gzip.decompress(Path(bpe_path).read_bytes()).decode("utf-8").split("\n")[1 : PAIRS + 1]
        pairs = [(line.split()[0], line.split()[1]) for line in lines]
        # One character for each of the 256 bytes.
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        signs = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
        tokens = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(pair) for pair in pairs)]
        tokens += ["<|startoftext|>", "<|endoftext|>"]
        self.encoder = {token: number for number, token in enumerate(tokens)}
        self.bpe_ranks = {pair: number for number, pair in enumerate(pairs)}
