"""The PNG check, against pictures written here with every row filter and colour type."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._benchmark_image import BadImageError, inspect_png

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def paeth(left: int, up: int, corner: int) -> int:
    return min((left, up, corner), key=lambda value: (abs(left + up - corner - value), [left, up, corner].index(value)))


def encode(
    rows: list[bytes], width: int, colour: int = 2, depth: int = 8, row_filter: int = 0, parts: int = 1
) -> bytes:
    """Written from the PNG specification, and on purpose not with the code under test."""
    pixel = SAMPLES[colour] * depth // 8
    raw = bytearray()
    above = bytes(width * pixel)
    for row in rows:
        raw.append(row_filter)
        for index, value in enumerate(row):
            left = row[index - pixel] if index >= pixel else 0
            up = above[index]
            corner = above[index - pixel] if index >= pixel else 0
            guess = {0: 0, 1: left, 2: up, 3: (left + up) // 2, 4: paeth(left, up, corner)}[row_filter]
            raw.append((value - guess) % 256)
        above = row
    packed = zlib.compress(bytes(raw))
    step = -(-len(packed) // parts)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)),
        (b"tEXt", b"parameters\0a chair"),
    ]
    chunks += [(b"IDAT", packed[start : start + step]) for start in range(0, len(packed), step)]
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def noise(width: int, height: int, pixel: int) -> list[bytes]:
    source = random.Random(1)
    return [source.randbytes(width * pixel) for _row in range(height)]


@pytest.mark.parametrize("row_filter", range(5))
@pytest.mark.parametrize("colour", SAMPLES)
@pytest.mark.parametrize("depth", [8, 16])
def test_size_and_blankness(row_filter: int, colour: int, depth: int) -> None:
    pixel = SAMPLES[colour] * depth // 8
    picture = inspect_png(encode(noise(9, 7, pixel), 9, colour, depth, row_filter, parts=3))
    assert (picture.width, picture.height, picture.blank) == (9, 7, False)
    grey = bytes(range(100, 100 + pixel)) * 9
    assert inspect_png(encode([grey] * 7, 9, colour, depth, row_filter)).blank


@pytest.mark.parametrize("row_filter", range(5))
def test_one_other_pixel_is_enough(row_filter: int) -> None:
    rows = [bytes(30)] * 9 + [bytes(29) + b"\1"]
    assert not inspect_png(encode(rows, 10, row_filter=row_filter)).blank


def test_a_black_picture_of_full_size_is_found() -> None:
    assert inspect_png(encode([bytes(512 * 3)] * 512, 512, row_filter=4)).blank


def test_every_cut_is_noticed() -> None:
    data = encode(noise(4, 4, 3), 4)
    for length in range(len(data)):
        with pytest.raises(BadImageError):
            inspect_png(data[:length])


def test_every_changed_byte_is_noticed() -> None:
    data = encode(noise(4, 4, 3), 4)
    for index in range(len(data)):
        changed = bytearray(data)
        changed[index] ^= 0x10
        with pytest.raises(BadImageError):
            inspect_png(bytes(changed))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not start as a PNG"),
        (b"\xff\xd8\xff\xe0", "does not start as a PNG"),
        (b"\x89PNG\r\n\x1a\n", "its end is missing"),
        (encode([b"\0\0\0"], 1, colour=2)[:-12], "its end is missing"),
    ],
)
def test_what_is_said(data: bytes, said: str) -> None:
    with pytest.raises(BadImageError, match=said):
        inspect_png(data)


def test_a_header_that_promises_too_much() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with pytest.raises(BadImageError, match="60000x60000"):
        inspect_png(data)
