# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of any size, made up block by block: the same for the same seed, and no block like another."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 20
# The first of each kind that web UIs tell base models by, with Stable Diffusion 1.5's shape.
SD15_TENSORS: dict[str, tuple[int, ...]] = {
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)
}


@dataclass(frozen=True)
class StoredFile:
    """A file that a storage server has."""

    name: str
    path: Path
    size: int
    sha256: str
    # Where anybody gets it without a signature.
    url: str

    @property
    def etag(self) -> str:
        """As long as a SHA-256, and none of the content: so it is with Hugging Face's storage, and has fooled many."""
        return f'"{hashlib.sha256(self.sha256.encode()).hexdigest()}"'

    @property
    def next_etag(self) -> str:
        """What it becomes when the file is changed on the way."""
        return f'"{hashlib.sha256(self.etag.encode()).hexdigest()}"'


def blocks(size: int, seed: int, head: bytes = b"") -> Iterator[bytes]:
    """`size` bytes that begin with `head`."""
    if len(head) > size:
        raise ValueError(f"a head of {len(head)} bytes does not fit into {size} bytes")
    if head:
        yield head
    size -= len(head)
    noise = random.Random(seed).randbytes(BLOCK)
    for number in range(-(-size // BLOCK)):
        # A text first: by chance it could be the mark of some other format.
        label = f"{seed:>16}{number:>16}".encode()[:32]
        yield (label + noise[len(label) :])[: min(BLOCK, size - number * BLOCK)]


def write(path: Path, parts: Iterable[bytes]) -> tuple[int, str]:
    """Write a file, and give its size and SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        return file.tell(), digest.hexdigest()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def safetensors_head(
    size: int,
    tensors: dict[str, tuple[int, ...]] | None = None,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """The head of a safetensors file of `size` bytes in all: F16 tensors of these shapes, then one of bytes."""
    listed: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in (SD15_TENSORS if tensors is None else tensors).items():
        count = 2
        for length in shape:
            count *= length
        listed[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + count]}
        end += count
    # The last tensor takes what is left; how long its numbers are written decides how much that is.
    rest = 0
    while True:
        listed["filling"] = {"dtype": "U8", "shape": [rest], "data_offsets": [end, end + rest]}
        text = json.dumps(listed).encode()
        text += b" " * (-len(text) % 8)
        left = size - 8 - len(text) - end
        if left < 0:
            raise ValueError(f"{size} bytes are too few for these tensors: they need {size - left}")
        if left == rest:
            return struct.pack("<Q", len(text)) + text
        rest = left
