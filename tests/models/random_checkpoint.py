#!/usr/bin/python3
# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a checkpoint in the Stable Diffusion 1.x layout, filled with small random weights.

Every tensor has the name, shape and half precision of the real thing (2.1 GB), so an engine loads it, runs it at
the real speed and needs the real memory. Only the picture is noise. Nothing is downloaded, and the same file comes
out every time: the weights are slices of one SHAKE-256 stream.

Usage: random_checkpoint.py OUTPUT.safetensors
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

Tensor = tuple[str, tuple[int, ...]]

BLOCK_BYTES = 16 * 1024 * 1024
CHANNELS = (320, 640, 1280, 1280)
TEXT_WIDTH = 768


def linear(name: str, out: int, fan_in: int, bias: bool = True) -> Iterator[Tensor]:
    """A dense layer."""
    yield f"{name}.weight", (out, fan_in)
    if bias:
        yield f"{name}.bias", (out,)


def conv(name: str, out: int, fan_in: int, size: int = 3) -> Iterator[Tensor]:
    """A square convolution."""
    yield f"{name}.weight", (out, fan_in, size, size)
    yield f"{name}.bias", (out,)


def norm(name: str, width: int) -> Iterator[Tensor]:
    """A group or layer normalisation."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def unet_resblock(name: str, fan_in: int, out: int) -> Iterator[Tensor]:
    """A residual block that mixes in the time embedding (1280 wide)."""
    yield from norm(f"{name}.in_layers.0", fan_in)
    yield from conv(f"{name}.in_layers.2", out, fan_in)
    yield from linear(f"{name}.emb_layers.1", out, 1280)
    yield from norm(f"{name}.out_layers.0", out)
    yield from conv(f"{name}.out_layers.3", out, out)
    if fan_in != out:
        yield from conv(f"{name}.skip_connection", out, fan_in, 1)


def unet_transformer(name: str, width: int) -> Iterator[Tensor]:
    """A spatial transformer that attends to the prompt (768 wide)."""
    yield from norm(f"{name}.norm", width)
    yield from conv(f"{name}.proj_in", width, width, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, context in (("attn1", width), ("attn2", TEXT_WIDTH)):
        yield from linear(f"{block}.{attention}.to_q", width, width, bias=False)
        yield from linear(f"{block}.{attention}.to_k", width, context, bias=False)
        yield from linear(f"{block}.{attention}.to_v", width, context, bias=False)
        yield from linear(f"{block}.{attention}.to_out.0", width, width)
    yield from linear(f"{block}.ff.net.0.proj", width * 8, width)
    yield from linear(f"{block}.ff.net.2", width, width * 4)
    for index in (1, 2, 3):
        yield from norm(f"{block}.norm{index}", width)
    yield from conv(f"{name}.proj_out", width, width, 1)


def unet() -> Iterator[Tensor]:
    """The denoiser: four levels of two residual blocks, attention on the first three."""
    root = "model.diffusion_model"
    yield from linear(f"{root}.time_embed.0", 1280, 320)
    yield from linear(f"{root}.time_embed.2", 1280, 1280)
    yield from conv(f"{root}.input_blocks.0.0", 320, 4)
    skips, width, index = [320], 320, 1
    for level, out in enumerate(CHANNELS):
        for _ in range(2):
            yield from unet_resblock(f"{root}.input_blocks.{index}.0", width, out)
            if level < 3:
                yield from unet_transformer(f"{root}.input_blocks.{index}.1", out)
            width, index = out, index + 1
            skips.append(width)
        if level < 3:
            yield from conv(f"{root}.input_blocks.{index}.0.op", width, width)
            index += 1
            skips.append(width)
    yield from unet_resblock(f"{root}.middle_block.0", width, width)
    yield from unet_transformer(f"{root}.middle_block.1", width)
    yield from unet_resblock(f"{root}.middle_block.2", width, width)
    index = 0
    for level, out in reversed(list(enumerate(CHANNELS))):
        for position in range(3):
            yield from unet_resblock(f"{root}.output_blocks.{index}.0", width + skips.pop(), out)
            width = out
            if level < 3:
                yield from unet_transformer(f"{root}.output_blocks.{index}.1", out)
            if level and position == 2:
                slot = 2 if level < 3 else 1
                yield from conv(f"{root}.output_blocks.{index}.{slot}.conv", out, out)
            index += 1
    yield from norm(f"{root}.out.0", 320)
    yield from conv(f"{root}.out.2", 4, 320)


def text_encoder() -> Iterator[Tensor]:
    """CLIP ViT-L/14's text half: 12 layers of 768."""
    root = "cond_stage_model.transformer.text_model"
    yield f"{root}.embeddings.token_embedding.weight", (49408, TEXT_WIDTH)
    yield f"{root}.embeddings.position_embedding.weight", (77, TEXT_WIDTH)
    for layer in range(12):
        block = f"{root}.encoder.layers.{layer}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{block}.self_attn.{projection}", TEXT_WIDTH, TEXT_WIDTH)
        yield from norm(f"{block}.layer_norm1", TEXT_WIDTH)
        yield from linear(f"{block}.mlp.fc1", TEXT_WIDTH * 4, TEXT_WIDTH)
        yield from linear(f"{block}.mlp.fc2", TEXT_WIDTH, TEXT_WIDTH * 4)
        yield from norm(f"{block}.layer_norm2", TEXT_WIDTH)
    yield from norm(f"{root}.final_layer_norm", TEXT_WIDTH)


def vae_resblock(name: str, fan_in: int, out: int) -> Iterator[Tensor]:
    """A residual block of the picture autoencoder."""
    yield from norm(f"{name}.norm1", fan_in)
    yield from conv(f"{name}.conv1", out, fan_in)
    yield from norm(f"{name}.norm2", out)
    yield from conv(f"{name}.conv2", out, out)
    if fan_in != out:
        yield from conv(f"{name}.nin_shortcut", out, fan_in, 1)


def vae_middle(name: str) -> Iterator[Tensor]:
    """The autoencoder's bottleneck with its one attention."""
    yield from vae_resblock(f"{name}.block_1", 512, 512)
    yield from norm(f"{name}.attn_1.norm", 512)
    for projection in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.attn_1.{projection}", 512, 512, 1)
    yield from vae_resblock(f"{name}.block_2", 512, 512)


def vae() -> Iterator[Tensor]:
    """The picture autoencoder: 128, 256, 512, 512 channels, 4 latent channels."""
    root, widths = "first_stage_model", (128, 256, 512, 512)
    yield from conv(f"{root}.encoder.conv_in", 128, 3)
    width = 128
    for level, out in enumerate(widths):
        for block in range(2):
            yield from vae_resblock(f"{root}.encoder.down.{level}.block.{block}", width, out)
            width = out
        if level < 3:
            yield from conv(f"{root}.encoder.down.{level}.downsample.conv", out, out)
    yield from vae_middle(f"{root}.encoder.mid")
    yield from norm(f"{root}.encoder.norm_out", 512)
    yield from conv(f"{root}.encoder.conv_out", 8, 512)
    yield from conv(f"{root}.quant_conv", 8, 8, 1)
    yield from conv(f"{root}.post_quant_conv", 4, 4, 1)
    yield from conv(f"{root}.decoder.conv_in", 512, 4)
    yield from vae_middle(f"{root}.decoder.mid")
    width = 512
    for level, out in reversed(list(enumerate(widths))):
        for block in range(3):
            yield from vae_resblock(f"{root}.decoder.up.{level}.block.{block}", width, out)
            width = out
        if level:
            yield from conv(f"{root}.decoder.up.{level}.upsample.conv", out, out)
    yield from norm(f"{root}.decoder.norm_out", 128)
    yield from conv(f"{root}.decoder.conv_out", 3, 128)


def layout() -> list[Tensor]:
    """All tensors of a Stable Diffusion 1.x checkpoint, in file order."""
    return [*text_encoder(), *vae(), *unet()]


def exponent(shape: tuple[int, ...]) -> int:
    """The power of two just below 1/sqrt(fan-in), so that activations neither die out nor overflow."""
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4096
    return max(-14, math.floor(math.log2(1 / math.sqrt(fan_in))) - 1)


class Weights:
    """Random half-precision numbers of a given magnitude, cut from one block of noise."""

    def __init__(self) -> None:
        self._noise = hashlib.shake_256(b"secondhand.diffusion").digest(BLOCK_BYTES)
        self._blocks: dict[int, bytes] = {}

    def _block(self, power: int) -> bytes:
        """The noise with each number's magnitude forced into [2**power, 2**(power + 1))."""
        if power not in self._blocks:
            # The high byte of a half is sign, five bits of exponent (bias 15), two bits of fraction.
            table = bytes((byte & 0x83) | ((power + 15) << 2) for byte in range(256))
            block = bytearray(self._noise)
            block[1::2] = block[1::2].translate(table)
            self._blocks[power] = bytes(block)
        return self._blocks[power]

    def chunks(self, name: str, shape: tuple[int, ...]) -> Iterator[bytes]:
        """The bytes of one tensor; a normalisation's weight is 1."""
        left = 2 * math.prod(shape)
        if len(shape) == 1 and name.endswith(".weight"):
            yield struct.pack("<e", 1.0) * (left // 2)
            return
        block = self._block(exponent(shape))
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % (BLOCK_BYTES // 2) * 2
        while left:
            piece = block[start : start + left]
            yield piece
            left -= len(piece)
            start = 0


def write(path: Path) -> None:
    """Write the checkpoint under a temporary name and rename it when it is whole."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", "title": "random weights, pictures are noise"}}
    offset = 0
    for name, shape in layout():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    weights = Weights()
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in layout():
            for chunk in weights.chunks(name, shape):
                file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def main() -> int:
    """Write the file named on the command line."""
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".safetensors"):
        print("usage: random_checkpoint.py OUTPUT.safetensors", file=sys.stderr)
        return 2
    write(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
