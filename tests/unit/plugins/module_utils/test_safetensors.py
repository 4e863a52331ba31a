"""A safetensors header is believed only when everything in it fits together."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._safetensors import (
    MAX_HEADER,
    Header,
    HeaderError,
    header_length,
    read_header,
)


def raw(header: bytes, data: int = 0) -> tuple[bytes, int]:
    """The head of a file with this header, and the size of the whole file."""
    head = len(header).to_bytes(8, "little") + header
    return head, len(head) + data


def made(entries: dict[str, Any], data: int) -> tuple[bytes, int]:
    return raw(json.dumps(entries).encode(), data)


def tensor(begin: int, end: int, shape: list[Any], dtype: Any = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# Two tensors that are listed in another order than they lie in, as writers do.
SOUND = {
    "__metadata__": {"format": "pt"},
    "b.weight": tensor(12, 28, [2, 2, 2]),
    "a.weight": tensor(0, 12, [2, 3]),
}


def test_a_sound_header() -> None:
    assert read_header(*made(SOUND, 28)) == Header(
        tensors={"b.weight": (2, 2, 2), "a.weight": (2, 3)}, metadata={"format": "pt"}
    )


def test_the_size_may_be_unknown_and_more_than_the_header_may_come() -> None:
    head, _size = made(SOUND, 28)
    assert read_header(head + b"x" * 28, None).tensors.keys() == {"a.weight", "b.weight"}


def test_spaces_at_the_end_align_the_data() -> None:
    assert read_header(*raw(json.dumps(SOUND).encode() + b"   ", 28)).metadata == {"format": "pt"}


def test_without_tensors_and_with_empty_ones() -> None:
    assert read_header(*made({}, 0)).tensors == {}
    assert read_header(*made({"a": tensor(0, 0, [0, 5]), "b": tensor(0, 2, [])}, 2)).tensors == {"a": (0, 5), "b": ()}


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        *((name, 8) for name in ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")),
        *((name, 16) for name in ("U16", "I16", "F16", "BF16")),
        *((name, 32) for name in ("U32", "I32", "F32")),
        *((name, 64) for name in ("U64", "I64", "F64", "C64")),
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
    ],
)
def test_every_type_has_its_size(dtype: str, bits: int) -> None:
    size = 12 * bits // 8
    assert read_header(*made({"a": tensor(0, size, [3, 4], dtype)}, size)).tensors == {"a": (3, 4)}
    with pytest.raises(HeaderError, match=rf"a tensor of the type {dtype} and the shape \[3, 4\] has {size + 1} bytes"):
        read_header(*made({"a": tensor(0, size + 1, [3, 4], dtype)}, size + 1))


def test_half_bytes_must_come_in_pairs() -> None:
    with pytest.raises(HeaderError, match="of the type F4"):
        read_header(*made({"a": tensor(0, 2, [3], "F4")}, 2))


def test_a_type_from_the_future_is_not_measured_but_placed() -> None:
    assert read_header(*made({"a": tensor(0, 5, [7], "F3_E1M1")}, 5)).tensors == {"a": (7,)}
    with pytest.raises(HeaderError, match="'a' begins at 1 instead of 0"):
        read_header(*made({"a": tensor(1, 5, [7], "F3_E1M1")}, 5))


BROKEN = {
    "a gap": ({**SOUND, "c": tensor(30, 32, [1])}, 32, "the data of 'c' begins at 30 instead of 28"),
    "an overlap": ({**SOUND, "c": tensor(26, 28, [1])}, 28, "the data of 'c' begins at 26 instead of 28"),
    "not from zero": ({"a": tensor(2, 4, [1])}, 4, "the data of 'a' begins at 2 instead of 0"),
    "backwards": ({"a": tensor(4, 2, [1])}, 4, "has -2 bytes of data"),
    "too short for its shape": ({"a": tensor(0, 10, [2, 3])}, 10, r"the shape \[2, 3\] has 10 bytes"),
    "too large for anything": ({"a": tensor(0, 8, [2**40, 2**40])}, 8, "larger than anything"),
    "negative shape": ({"a": tensor(0, 2, [-1])}, 2, "a shape or a place that is none"),
    "shape of fractions": ({"a": tensor(0, 2, [1.0])}, 2, "counts nothing"),
    "shape of truth": ({"a": tensor(0, 2, [True])}, 2, "a shape or a place that is none"),
    "shape of texts": ({"a": tensor(0, 2, ["1"])}, 2, "a shape or a place that is none"),
    "three offsets": ({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2, 2]}}, 2, "a shape or a place"),
    "no shape": ({"a": {"dtype": "F16", "data_offsets": [0, 2]}}, 2, "no type, shape and place for 'a'"),
    "no type": ({"a": {"shape": [1], "data_offsets": [0, 2]}}, 2, "has no type"),
    "an odd type": ({"a": tensor(0, 2, [1], "f16; rm")}, 2, "has no type"),
    "type of a number": ({"a": tensor(0, 2, [1], 16)}, 2, "has no type"),
    "a number for a tensor": ({"a": 3}, 0, "no type, shape and place for 'a'"),
    "a long name": ({"a" * 500: 3}, 0, r"for 'a{76}\.\.\."),
    "metadata of numbers": ({"__metadata__": {"step": 3}}, 0, "the metadata in its header is not a list of texts"),
    "metadata of nothing": ({"__metadata__": None}, 0, "the metadata in its header is not a list of texts"),
    "data missing": (SOUND, 27, "and has"),
    "data too many": (SOUND, 29, "and has"),
}


@pytest.mark.parametrize(("entries", "data", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_header(entries: dict[str, Any], data: int, reason: str) -> None:
    with pytest.raises(HeaderError, match=reason):
        read_header(*made(entries, data))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b'{"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1], "dtype": "U8"}}', "the same name twice"),
        (
            b'{"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},'
            b' "a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}}',
            "the same name twice",
        ),
        (b'{"__metadata__": {"a": "1", "a": "2"}}', "the same name twice"),
        (b'{"a\xff": 1}', "not UTF-8"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": NaN}', "counts nothing"),
        (b'{"a": 1e3}', "counts nothing"),
        (b'{"a": ' + b"9" * 5000 + b"}", "larger than anything"),
        (b'{"a": ' + b"[" * 50000 + b"]" * 50000 + b"}", "not JSON|no type, shape"),
        (b"{} {}", "not JSON"),
        (b'{"shape": [1], "data_offsets": [0, 1], "dtype": "U8"}', "describes no tensors"),
    ],
)
def test_a_header_that_is_no_list_of_tensors(header: bytes, reason: str) -> None:
    with pytest.raises(HeaderError, match=reason):
        read_header(*raw(header, 1))


def test_json_in_another_encoding_is_not_guessed() -> None:
    header = '{"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}}'.encode("utf-16-le")
    with pytest.raises(HeaderError, match="not JSON"):
        read_header(*raw(header, 1))


def test_a_length_that_cannot_be() -> None:
    head, size = made(SOUND, 28)
    with pytest.raises(
        HeaderError, match=f"its header of {len(head)} bytes is longer than the file of {len(head) - 1}"
    ):
        read_header(head, len(head) - 1)
    with pytest.raises(HeaderError, match="it ends within its header"):
        read_header(head[:-1], size)
    for start in (b"", b"\0" * 8, b"\2" + b"\0" * 7, (MAX_HEADER + 1).to_bytes(8, "little") + b"{", b"\xff" * 8 + b"{"):
        assert header_length(start) is None
        with pytest.raises(HeaderError, match="it does not begin with"):
            read_header(start, None)
    assert header_length(MAX_HEADER.to_bytes(8, "little") + b"{") == MAX_HEADER + 8


def test_nothing_but_a_verdict_comes_out_of_noise() -> None:
    """Every damage to a header is refused, but for one inside a name or a text, which nobody can see."""
    random.seed(5)
    head, size = made(SOUND, 28)
    sound = read_header(head, size)
    unseen = 0
    for _ in range(4000):
        broken = bytearray(head)
        place = random.randrange(len(head))
        kind = random.randrange(3)
        if kind == 0:
            broken[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            del broken[place]
        else:
            broken.insert(place, random.randrange(256))
        try:
            found = read_header(bytes(broken), size)
        except HeaderError as exc:
            assert str(exc).isascii() and len(str(exc)) < 300
            continue
        unseen += 1
        assert sorted(found.tensors.values()) == sorted(sound.tensors.values()), bytes(broken)
    assert 0 < unseen < 1000


def test_random_bytes_end_in_a_verdict() -> None:
    random.seed(6)
    alphabet = b'{}[]":,0123456789.-eEtrufalsn \\u_dtypeshapdata_offsets'
    for _ in range(3000):
        header = b"{" + bytes(random.choices(alphabet, k=random.randrange(1, 200)))
        with pytest.raises(HeaderError):
            read_header(*raw(header, random.randrange(50)))


def test_many_tensors_cost_little_time_and_memory() -> None:
    seconds = []
    for count in (2000, 20000):
        entries = {f"model.diffusion_model.blocks.{n}.weight": tensor(2 * n, 2 * n + 2, [1]) for n in range(count)}
        head, size = made(entries, 2 * count)
        tracemalloc.start()
        # The processor's: what else the machine does is no time of this.
        started = time.process_time()
        assert len(read_header(head, size).tensors) == count
        seconds.append(time.process_time() - started)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * len(head)
    # Ten times as many cost about ten times as much, and not a hundred times.
    assert seconds[1] < 40 * seconds[0]
