# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks a PNG with the standard library alone. Private to this collection: not an interface for other collections."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Samples per pixel of each PNG colour type: grey, RGB, palette, grey + alpha, RGBA.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# A picture of this many pixels is more than any preset asks for; more is an answer not worth decoding.
_MAX_PIXELS = 64 * 1024 * 1024


class BadImageError(ValueError):
    """The data is not a whole, valid PNG; the message says what is wrong with it."""


@dataclass(frozen=True)
class PngFacts:
    width: int
    height: int
    # True when every pixel has the same colour, as a picture ruined by NaN values has.
    blank: bool


def inspect_png(data: bytes) -> PngFacts:
    """Checks signature, checksums, header and pixel data of a PNG and says whether it shows anything."""
    header: bytes | None = None
    compressed = bytearray()
    for kind, body in _chunks(data):
        if header is None:
            if kind != b"IHDR" or len(body) != 13:
                raise BadImageError("its header chunk is missing")
            header = body
        elif kind == b"IDAT":
            compressed += body
    if header is None:
        raise BadImageError("it has no header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if colour not in _SAMPLES or depth not in (8, 16) or compression or filtering or interlace:
        raise BadImageError("it is of a PNG kind that no web UI makes (interlaced or below 8 bits)")
    if not 0 < width * height <= _MAX_PIXELS:
        raise BadImageError(f"its header says {width}x{height} pixels")
    pixel = _SAMPLES[colour] * depth // 8
    stride = width * pixel
    size = height * (stride + 1)
    try:
        raw = zlib.decompressobj().decompress(bytes(compressed), size)
    except zlib.error as exc:
        raise BadImageError(f"its pixel data cannot be decompressed ({exc})") from exc
    if len(raw) != size:
        raise BadImageError(f"it holds {len(raw)} of the {size} bytes that its size needs")
    return PngFacts(width=width, height=height, blank=_is_blank(raw, height, stride, pixel))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(_SIGNATURE):
        raise BadImageError("it does not start as a PNG does")
    offset = len(_SIGNATURE)
    while offset < len(data):
        if offset + 12 > len(data):
            raise BadImageError("it is cut off")
        (length,) = struct.unpack(">I", data[offset : offset + 4])
        kind = data[offset + 4 : offset + 8]
        end = offset + 8 + length
        if end + 4 > len(data):
            raise BadImageError("it is cut off")
        (checksum,) = struct.unpack(">I", data[end : end + 4])
        if zlib.crc32(data[offset + 4 : end]) != checksum:
            raise BadImageError("a checksum in it is wrong")
        yield kind, data[offset + 8 : end]
        if kind == b"IEND":
            return
        offset = end + 4
    raise BadImageError("its end is missing")


def _is_blank(raw: bytes, height: int, stride: int, pixel: int) -> bool:
    # Row by row, and done at the first pixel that differs: a real picture costs one row, not the whole image.
    above = bytes(stride)
    first: bytes | None = None
    for row in range(height):
        start = row * (stride + 1)
        line = _unfilter(raw[start], raw[start + 1 : start + 1 + stride], above, pixel)
        if first is None:
            first = line[:pixel]
        if line != first * (stride // pixel):
            return False
        above = line
    return True


def _unfilter(kind: int, line: bytes, above: bytes, pixel: int) -> bytes:
    if kind == 0:
        return line
    if kind > 4:
        raise BadImageError(f"it uses the unknown row filter {kind}")
    out = bytearray(line)
    for index in range(len(out)):
        left = out[index - pixel] if index >= pixel else 0
        up = above[index]
        corner = above[index - pixel] if index >= pixel else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        else:
            guess = _paeth(left, up, corner)
        out[index] = (out[index] + guess) & 0xFF
    return bytes(out)


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner
    by_left, by_up, by_corner = abs(estimate - left), abs(estimate - up), abs(estimate - corner)
    if by_left <= by_up and by_left <= by_corner:
        return left
    return up if by_up <= by_corner else corner
