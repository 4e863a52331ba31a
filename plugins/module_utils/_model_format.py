# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file is by its content, and whether loading it could run code. Private to this collection."""

from __future__ import annotations

import io
import json
import os
import pickletools
import re
from dataclasses import dataclass

from ansible_collections.secondhand.diffusion.plugins.module_utils import _picklescan
from ansible_collections.secondhand.diffusion.plugins.module_utils._base_model import base_model
from ansible_collections.secondhand.diffusion.plugins.module_utils._safetensors import (
    HeaderError,
    header_length,
    read_header,
)

# Enough for every signature below, and for an error page or message to be known as one.
_HEAD = 512

_SAFETENSORS = (".safetensors", ".sft")
# Programs unpickle what has one of these, whatever is in it.
_PICKLES = _picklescan.PICKLE_EXTENSIONS
_MODELS = (*_SAFETENSORS, *_PICKLES, ".gguf", ".onnx")
# Where a page or a message of the server can only be an error; a file without an extension is one of them.
_BINARY = (
    *_MODELS,
    *(".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".npy", ".npz", ".h5", ".tflite"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".pdf", ""),
)
# What nobody unpickles. LICENSE has no extension either.
_TEXTS = (
    *("", ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".log"),
    *(".html", ".htm", ".xml", ".svg", ".css", ".js", ".py", ".sh"),
)

_SIGNATURES = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"GGUF", "gguf"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"%PDF-", "pdf"),
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x93NUMPY", "npy"),
    # These would read as the beginning of one of the oldest pickles.
    (b"PAR1", "parquet"),
    (b"SQLite format 3\0", "sqlite"),
    (b"glTF\x02\0\0\0", "glb"),
    (b"II*\0", "tiff"),
    (b"ID3", "mp3"),
    (b"version https://git-lfs.github.com/spec/", "lfs"),
)
_PICKLE = re.compile(rb"\x80[\x00-\x05]")
_HTML = re.compile(rb"(?i)(\s|<!--.*?-->|<\?xml[^>]*>)*<(!doctype html|html|head|body)\b", re.DOTALL)
_XML = re.compile(rb"\s*<\?xml\b")
_JSON = re.compile(rb"\s*(\{\s*(\"|\}\s*$)|\[\s*[\[{\"\]])")
# Control characters that no text has.
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_EXTENSION = re.compile(r"\.[a-z][a-z0-9]*")

_WORDS = {
    "html": "a web page",
    "xml": "an XML message",
    "json": "a JSON message",
    "lfs": "a Git LFS pointer, which only names the real file",
    "zip": "a ZIP file",
    "7z": "a 7z archive",
    "rar": "a RAR archive",
    "gguf": "a GGUF file",
    "pickle": "a pickle",
    "text": "a text",
    "safetensors": "a safetensors file",
    "pdf": "a PDF",
}
_PICTURES = ("png", "jpeg", "gif", "webp")
# What none of the programs that unpickle can load; under such a name it is a mistake or a disguise.
_NO_PICKLES = ("7z", "rar", "pdf", *_PICTURES)


class FormatError(Exception):
    """The content is not what the name promises, or is not wanted; the message is one sentence with the next step."""


@dataclass(frozen=True)
class Format:
    # safetensors, gguf, zip, pickle, 7z, png, html, json, text, unknown and so on.
    name: str
    # Whether loading it could run code.
    pickle: bool = False
    # In Civitai's words, where the file tells it.
    base_model: str | None = None


def header_bytes(head: bytes) -> int:
    """How many bytes from the file's start `judge` needs, seen from the first 512 or fewer."""
    length = header_length(head)
    return _HEAD if length is None else max(_HEAD, length)


def judge(head: bytes, size: int | None, name: str) -> Format:
    """What a file of this name is, by its first `header_bytes`, or all of it when it is shorter."""
    extension = extension_of(name)
    kind = _kind(head, size, extension)
    if kind == "lfs" or (kind in ("html", "xml") and extension in _BINARY) or (kind == "json" and extension in _MODELS):
        raise FormatError(_no_file(name, kind, head))
    if extension in _SAFETENSORS:
        return _safetensors(head, size, name, kind)
    if extension in _PICKLES:
        return _pickled(head, name, kind)
    if extension in _MODELS and kind in _NO_PICKLES:
        raise FormatError(_contradiction(name, kind))
    if extension == ".gguf" and kind != "gguf":
        raise FormatError(_contradiction(name, kind))
    if kind == "zip":
        pickled = extension in _MODELS or _extension_of_member(head) in _PICKLES
        return Format("pickle" if pickled else "zip", pickle=pickled)
    if kind == "safetensors":
        try:
            return Format("safetensors", base_model=base_model(read_header(head, size)))
        except HeaderError:
            kind = "unknown"
    return Format(kind, pickle=kind == "pickle")


def inspect(path: str, name: str) -> Format:
    """As judge, of a whole file, with a look at the members of a ZIP file."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        head += file.read(max(0, header_bytes(head) - len(head)))
    found = judge(head, size, name)
    if found.name != "zip":
        return found
    try:
        return Format("zip", pickle=bool(_picklescan.pickle_members(path)))
    except OSError:
        raise
    except Exception:
        # Encrypted, damaged, or packed in a way that only others read: nobody can say what is inside.
        return Format("zip", pickle=True)


def check_policy(fmt: Format, path: str | None, policy: str, scanner: str | None, name: str) -> str | None:
    """Whether the file is wanted: raises FormatError when not; what it returns is for the person who reads the result.

    Without a path the file is not there yet, and only what can be known before is checked.
    """
    if not fmt.pickle:
        return None
    what = f"{name} is {_a_pickle(fmt)}, and loading it could run code"
    if policy == "allow":
        return f"{what}."
    if policy == "deny":
        raise FormatError(
            f"{what}: take the safetensors version, or set pickle to scan, "
            "or to allow when you trust this very file by its sha256."
        )
    program = _picklescan.find(scanner)
    if program is None:
        where = f"not at {scanner}" if scanner else f"neither in PATH nor at {_picklescan.INSTALLED}"
        raise FormatError(f"{what}, and picklescan is {where}: install it on this host, or set picklescan to its path.")
    if path is None:
        return None
    try:
        _picklescan.scan(path, program)
    except _picklescan.UnsafeError as exc:
        raise FormatError(
            f"{what}, and {exc}: take the safetensors version, "
            "or set pickle to allow when you trust this very file by its sha256."
        ) from exc
    return f"{what}; picklescan found nothing in it, which is no proof."


def extension_of(name: str) -> str:
    """In lower case; nothing for the .5 of model-v1.5."""
    extension = os.path.splitext(name)[1].lower()
    return extension if _EXTENSION.fullmatch(extension) else ""


def _kind(head: bytes, size: int | None, extension: str) -> str:
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if _PICKLE.match(head):
        return "pickle"
    if header_length(head) is not None:
        return "safetensors"
    if head[257:262] == b"ustar":
        return "tar"
    start = head[:_HEAD]
    is_text = bool(start) and not _NO_TEXT.search(start) and _is_utf8(start)
    if is_text:
        # A byte order mark is no part of the text.
        text = start[3:] if start.startswith(b"\xef\xbb\xbf") else start
        for kind, pattern in (("html", _HTML), ("xml", _XML), ("json", _JSON)):
            if pattern.match(text):
                return kind
    if extension not in _TEXTS and _reads_as_pickle(start, size):
        return "pickle"
    return "text" if is_text else "unknown"


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as exc:
        # A character that the cut has halved.
        return exc.start >= _HEAD - 3
    return True


def _reads_as_pickle(start: bytes, size: int | None) -> bool:
    """The old protocols have no signature, but few other files are opcodes that fit together from the first byte on."""
    stream = io.BytesIO(start)
    listing = io.StringIO()
    try:
        pickletools.dis(stream, listing)
    except Exception as exc:
        # Storing twice under one number, which no unpickler minds.
        if "already defined" in str(exc):
            return True
        # Whatever pickletools meets in bytes that are none. Opcodes that only the cut ends are a pickle all the same.
        is_cut = stream.tell() >= len(start) and (size is None or size > len(start))
        # One of 36 random beginnings is an opcode that takes so many bytes; more than there are is no pickle.
        return is_cut and (size is None or bool(listing.getvalue()) or _first_length(start) < size)
    # An opcode, the one that ends it, and a line below them are too little to say.
    return listing.getvalue().count("\n") > 3


def _first_length(start: bytes) -> int:
    """Bytes that the first opcode takes, when it says how many come: BINSTRING, BINBYTES and their like."""
    width = {"T": 4, "B": 4, "X": 4, "\x8b": 4, "\x8d": 8, "\x8e": 8, "\x96": 8}.get(chr(start[0]), 0)
    return 1 + width + int.from_bytes(start[1 : 1 + width], "little")


def _safetensors(head: bytes, size: int | None, name: str, kind: str) -> Format:
    if kind not in ("safetensors", "unknown"):
        raise FormatError(_contradiction(name, kind))
    try:
        return Format("safetensors", base_model=base_model(read_header(head, size)))
    except HeaderError as exc:
        raise FormatError(
            f"{name} is not a whole safetensors file, because {exc}: "
            "fetch it again, or take it from another source if that does not help."
        ) from exc


def _pickled(head: bytes, name: str, kind: str) -> Format:
    if kind in _NO_PICKLES:
        raise FormatError(_contradiction(name, kind))
    if kind in ("safetensors", "gguf"):
        # Both can be made so that they are a pickle as well.
        right = os.path.splitext(name)[0] + "." + kind
        raise FormatError(
            f"{name} holds {_WORDS[kind]} under an extension that programs unpickle: "
            f"if that is what you want, give it a name as '{right}' in dest."
        )
    # What is not known is still given to the unpickler by whoever opens a file of this name.
    return Format("pickle" if kind == "zip" else kind, pickle=True)


def _extension_of_member(head: bytes) -> str:
    """Of the first member, whose name is in the first bytes."""
    length = int.from_bytes(head[26:28], "little")
    return extension_of(head[30 : 30 + length].decode("utf-8", "replace"))


def _a_pickle(fmt: Format) -> str:
    if fmt.name == "pickle":
        return "a pickle"
    if fmt.name == "zip":
        return "a ZIP file with pickles in it"
    return "a file that programs unpickle"


def _words(kind: str) -> str:
    if kind in _PICTURES:
        return "a picture"
    return _WORDS.get(kind, "something else")


def _contradiction(name: str, kind: str) -> str:
    return (
        f"{name} is {_words(kind)} and not what its name promises: "
        "check the address, and do not load the file under another name."
    )


def _no_file(name: str, kind: str, head: bytes) -> str:
    if kind == "lfs":
        return f"{name} is {_WORDS[kind]}: take the address that leads to the file itself, with /resolve/ or /media/."
    said = _said(head) if kind == "json" else ""
    return (
        f"The server sent {_words(kind)} instead of {name}{said}: "
        "check the address, and whether it asks for a login (token)."
    )


def _said(head: bytes) -> str:
    """The reason inside an error message, as both hubs write it."""
    try:
        content = json.loads(head)
    except ValueError:
        return ""
    reasons = [content.get(key) for key in ("error", "message", "detail")] if isinstance(content, dict) else []
    reason = next((text for text in reasons if isinstance(text, str)), "")
    plain = " ".join(reason.split())[:160]
    return f" ('{plain}')" if plain else ""
