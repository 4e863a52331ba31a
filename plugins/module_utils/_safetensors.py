# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a safetensors file: sound or not, and what stands in it. Private to this collection."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

# The length of the header is in the first eight bytes. The reference implementation reads up to 100 MB; models have
# less than one, and to judge a hostile one of this size takes 126 MiB of memory already.
LENGTH_BYTES = 8
MAX_HEADER = 8_000_000

# Bits, because some types are smaller than a byte.
_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
# A type that is newer than this file: its tensors are not measured, the rest of the header is.
_NEWER_TYPE = re.compile(r"[A-Z][A-Z0-9_]{1,31}")
_MAX_DIGITS = 20
_MAX_ELEMENTS = 2**64


class HeaderError(ValueError):
    """The header is not sound; the message is the part of a sentence that says why."""


@dataclass(frozen=True)
class Header:
    # Name to shape.
    tensors: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


class _Tensor(NamedTuple):
    begin: int
    end: int
    shape: tuple[int, ...]


def header_length(head: bytes) -> int | None:
    """Bytes up to the end of the header; None for what is no safetensors file, however its header may look."""
    if len(head) <= LENGTH_BYTES or head[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        return None
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    return LENGTH_BYTES + length if 2 <= length <= MAX_HEADER else None


def read_header(head: bytes, size: int | None) -> Header:
    """Checks what can be known without the data: the layout, which has no gaps and ends where the file ends."""
    end = header_length(head)
    if end is None:
        raise HeaderError("it does not begin with a header's length and a header")
    if size is not None and end > size:
        raise HeaderError(f"its header of {end} bytes is longer than the file of {size}")
    if len(head) < end:
        raise HeaderError("it ends within its header")
    entries = _parse(head[LENGTH_BYTES:end])
    metadata = _metadata(entries.pop("__metadata__", {}))
    tensors: dict[str, _Tensor] = {}
    for name, entry in entries.items():
        if not isinstance(entry, _Tensor):
            raise HeaderError(f"its header has no type, shape and place for {_short(name)}")
        tensors[name] = entry
    at = 0
    for name, tensor in sorted(tensors.items(), key=_place):
        if tensor.begin != at:
            raise HeaderError(f"the data of {_short(name)} begins at {tensor.begin} instead of {at}")
        at = tensor.end
    if size is not None and end + at != size:
        raise HeaderError(f"it should have {end + at} bytes and has {size}")
    return Header(tensors={name: tensor.shape for name, tensor in tensors.items()}, metadata=metadata)


def _place(item: tuple[str, _Tensor]) -> tuple[int, int]:
    return item[1].begin, item[1].end


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        # From text, because JSON's own guess would take UTF-16 as well.
        content = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except HeaderError:
        raise
    except UnicodeDecodeError as exc:
        raise HeaderError("its header is not UTF-8") from exc
    except (ValueError, RecursionError) as exc:
        raise HeaderError("its header is not JSON") from exc
    if not isinstance(content, dict):
        raise HeaderError("its header describes no tensors")
    return content


def _object(pairs: list[tuple[str, Any]]) -> Any:
    content = dict(pairs)
    if len(content) != len(pairs):
        # Which of the two a program takes differs, so that a check and a loader may see different files.
        raise HeaderError("its header has the same name twice")
    shape = content.get("shape")
    offsets = content.get("data_offsets")
    if isinstance(shape, list) and isinstance(offsets, list):
        # At once, so that a header of many thousand tensors takes little memory.
        return _tensor(content.get("dtype"), shape, offsets)
    return content


def _tensor(dtype: Any, shape: list[Any], offsets: list[Any]) -> _Tensor:
    if not all(_is_count(number) for number in (*shape, *offsets)) or len(offsets) != 2:
        raise HeaderError("a tensor in its header has a shape or a place that is none")
    begin, end = offsets
    if not isinstance(dtype, str) or not (dtype in _BITS or _NEWER_TYPE.fullmatch(dtype)):
        raise HeaderError("a tensor in its header has no type")
    bits = _BITS.get(dtype)
    if end < begin or (bits is not None and _elements(shape) * bits != (end - begin) * 8):
        raise HeaderError(f"a tensor of the type {dtype} and the shape {_short(shape)} has {end - begin} bytes of data")
    return _Tensor(begin, end, tuple(shape))


def _elements(shape: list[int]) -> int:
    elements = 1
    for number in shape:
        elements *= number
        if elements >= _MAX_ELEMENTS:
            raise HeaderError("a tensor in its header is larger than anything")
    return elements


def _metadata(entry: Any) -> dict[str, str]:
    if isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values()):
        return entry
    raise HeaderError("the metadata in its header is not a list of texts")


def _is_count(number: Any) -> bool:
    # True and False are integers too.
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise HeaderError("its header has a number that is larger than anything")
    return int(digits)


def _no_number(_text: str) -> NoReturn:
    raise HeaderError("its header has a number that counts nothing")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
