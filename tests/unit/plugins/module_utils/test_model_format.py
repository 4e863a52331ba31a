"""What a file is by its content, and what its name may not promise."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._model_format import (
    Format,
    FormatError,
    check_policy,
    extension_of,
    header_bytes,
    inspect,
    judge,
)


def safetensors(tensors: dict[str, tuple[int, ...]] | None = None, **metadata: str) -> bytes:
    """A whole file of zeros."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, shape in (tensors or {"a": (3,)}).items():
        end = at + 2
        for number in shape:
            end = at + (end - at) * number
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(at)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def look(content: bytes, name: str) -> Format:
    """As a download does it: the first bytes, then as many as are asked for."""
    needed = header_bytes(content[:512])
    return judge(content[:needed], len(content), name)


MODEL = safetensors({"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 768)})
PICKLE = pickle.dumps({"state_dict": OrderedDict(a=[1, 2, 3])}, protocol=2)
ASCII_PICKLE = pickle.dumps({"state_dict": OrderedDict(a=[1, 2, 3])}, protocol=0)
TORCH = zipped({"archive/data.pkl": PICKLE, "archive/version": b"3\n", "archive/data/0": bytes(64)})
PAGE = b"<!DOCTYPE html>\n<html><body>Log in to continue</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
MESSAGE = b'{"error": "Invalid username\\n or password."}'
S3_MESSAGE = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(range(256))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(300)
GGUF = b"GGUF\x03\x00\x00\x00" + bytes(300)


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (MODEL, "a.safetensors", Format("safetensors", base_model="SD 1.5")),
        (MODEL, "A.SAFETENSORS", Format("safetensors", base_model="SD 1.5")),
        (MODEL, "a.sft", Format("safetensors", base_model="SD 1.5")),
        (MODEL, "download", Format("safetensors", base_model="SD 1.5")),
        (
            safetensors(ss_base_model_version="sdxl_base_v1-0"),
            "a.safetensors",
            Format("safetensors", False, "SDXL 1.0"),
        ),
        (MODEL[:-1], "download", Format("unknown")),
        (GGUF, "a.gguf", Format("gguf")),
        (PICKLE, "a.ckpt", Format("pickle", pickle=True)),
        (PICKLE, "a.data", Format("pickle", pickle=True)),
        (PICKLE, "a", Format("pickle", pickle=True)),
        (ASCII_PICKLE, "a.pt", Format("pickle", pickle=True)),
        (ASCII_PICKLE, "a.dump", Format("pickle", pickle=True)),
        (ASCII_PICKLE + b"x" * 1000, "a.pth", Format("pickle", pickle=True)),
        (pickle.dumps(list(range(3000)), 0), "a.dump", Format("pickle", pickle=True)),
        (TORCH, "a.pt", Format("pickle", pickle=True)),
        (TORCH, "a.zip", Format("pickle", pickle=True)),
        (TORCH, "a.onnx", Format("pickle", pickle=True)),
        (zipped({"readme": b""}), "a.bin", Format("pickle", pickle=True)),
        (zipped({"readme": b""}), "a.zip", Format("zip")),
        (zipped({}), "a.zip", Format("zip")),
        (tarred(), "a.tar", Format("tar")),
        # PyTorch reads old files that are one.
        (tarred(), "a.pth", Format("tar", pickle=True)),
        (b"\x08\x07\x12\x07pytorch" + bytes(300), "a.onnx", Format("unknown")),
        (bytes(300), "a.bin", Format("unknown", pickle=True)),
        (SEVEN_ZIP, "a.7z", Format("7z")),
        (PNG, "a.png", Format("png")),
        (b"\xff\xd8\xff\xe0" + bytes(99), "a.jpeg", Format("jpeg")),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "a.webp", Format("webp")),
        (b"\x1f\x8b\x08" + bytes(99), "a.tar.gz", Format("gzip")),
        (b"\x93NUMPY\x01\x00" + bytes(99), "a.npy", Format("npy")),
        (b'{"model_type": "clip"}', "config.json", Format("json")),
        (b"\xef\xbb\xbf[1, 2]", "a.json", Format("text")),
        (b'\xef\xbb\xbf["a"]', "a.json", Format("json")),
        (PAGE, "model.html", Format("html")),
        (b'<p align="center"><html></p>', "README.md", Format("text")),
        (b"Permission is hereby granted " * 90, "LICENSE", Format("text")),
        ("ä".encode() * 600, "notes.txt", Format("text")),
        ("ä".encode("latin-1") * 600, "notes.txt", Format("unknown")),
        (ASCII_PICKLE, "notes.txt", Format("text")),
        # All of them are opcodes, but not in this order.
        (b"other" * 1000, "a.dat", Format("text")),
        (b"N.", "a.dat", Format("text")),
        (b"", "empty", Format("unknown")),
        (b"", "empty.ckpt", Format("unknown", pickle=True)),
    ],
)
def test_what_it_is(content: bytes, name: str, expected: Format) -> None:
    assert look(content, name) == expected


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (PICKLE, "a pickle"),
        (TORCH, "a ZIP file"),
        (SEVEN_ZIP, "a 7z archive"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(99), "a RAR archive"),
        (GGUF, "a GGUF file"),
        (PNG, "a picture"),
        (ASCII_PICKLE, "a pickle"),
        (b"Not found\n", "a text"),
        (tarred(), "something else"),
    ],
)
def test_safetensors_that_are_something_else(content: bytes, what: str) -> None:
    with pytest.raises(FormatError) as caught:
        look(content, "model.safetensors")
    assert str(caught.value) == (
        f"model.safetensors is {what} and not what its name promises: "
        "check the address, and do not load the file under another name."
    )


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "a.pt", "a.pth", "a.bin", "a.gguf", "a.onnx", "A.CKPT"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (PAGE, "a web page"),
        (b"\xef\xbb\xbf\r\n<!-- error -->\n<HTML lang=en>", "a web page"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "">', "a web page"),
        (S3_MESSAGE, "an XML message"),
        (b'{"detail": {"a": 1}}', "a JSON message"),
        (b'[{"a": 1}]', "a JSON message"),
    ],
)
def test_answers_instead_of_models(content: bytes, what: str, name: str) -> None:
    with pytest.raises(FormatError) as caught:
        look(content, name)
    assert str(caught.value) == (
        f"The server sent {what} instead of {name}: check the address, and whether it asks for a login (token)."
    )


def test_what_the_server_says_is_repeated() -> None:
    with pytest.raises(FormatError, match=r"instead of a\.pt \('Invalid username or password\.'\): check"):
        look(MESSAGE, "a.pt")


@pytest.mark.parametrize("name", ["model-v1.5", "download", "a.zip", "a.png"])
def test_pages_and_messages_in_other_binary_files(name: str) -> None:
    for content in (PAGE, S3_MESSAGE):
        with pytest.raises(FormatError, match=f"instead of {name}"):
            look(content, name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.json", "a.txt", "a"])
def test_git_lfs_pointers_are_never_wanted(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        look(POINTER, name)
    assert str(caught.value) == (
        f"{name} is a Git LFS pointer, which only names the real file: "
        "take the address that leads to the file itself, with /resolve/ or /media/."
    )


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.pth", "a.bin", "a.pkl", "a.onnx", "a.gguf"])
def test_what_only_disguises_itself_as_a_model(name: str) -> None:
    for content in (SEVEN_ZIP, PNG):
        with pytest.raises(FormatError, match=r"(a 7z archive|a picture) and not what its name promises"):
            look(content, name)


def test_gguf_needs_its_signature() -> None:
    for content in (PICKLE, TORCH, bytes(600), b"text"):
        with pytest.raises(FormatError, match=r"a\.gguf is (a pickle|a ZIP file|a text|something else) and not"):
            look(content, "a.gguf")


@pytest.mark.parametrize(("content", "kind"), [(MODEL, "safetensors"), (GGUF, "gguf")])
def test_safe_formats_under_names_that_are_unpickled(content: bytes, kind: str) -> None:
    with pytest.raises(FormatError, match=rf"programs unpickle: .* name as 'my\.model\.{kind}' in dest"):
        look(content, "my.model.ckpt")


def test_a_file_may_be_both() -> None:
    # The length and the brace are a text to the unpickler, and what follows are its opcodes.
    content = b"U\x07" + bytes(6) + b"{" + b"." + b" " * 3000
    assert [opcode.name for opcode, _argument, _place in pickletools.genops(content)] == ["SHORT_BINSTRING", "STOP"]
    assert header_bytes(content) > 512
    with pytest.raises(FormatError, match="a safetensors file under an extension that programs unpickle"):
        judge(content, None, "a.pt")


def test_the_header_is_asked_for_whole() -> None:
    assert header_bytes(MODEL[:512]) == max(512, 8 + int.from_bytes(MODEL[:8], "little"))
    large = safetensors({f"tensor {number}": (2,) for number in range(500)})
    assert header_bytes(large[:512]) == len(large) - 2000
    assert look(large, "a.safetensors") == Format("safetensors")
    for content in (PICKLE, PAGE, b"", b"{", (2**40).to_bytes(8, "little") + b"{", b"\xff" * 512):
        assert header_bytes(content) == 512


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (MODEL[:-1], "it should have .* bytes and has"),
        (MODEL + b"x", "it should have .* bytes and has"),
        (MODEL[:100], "its header of .* bytes is longer than the file of 100"),
        ((2**40).to_bytes(8, "little") + b"{" * 600, "it does not begin with"),
        (bytes(600), "it does not begin with"),
        (b"", "it does not begin with"),
        (MODEL[:8] + b"{" + b"x" * (len(MODEL) - 9), "its header is not (JSON|UTF-8)"),
    ],
)
def test_a_safetensors_file_that_is_not_sound(content: bytes, reason: str) -> None:
    pattern = rf"a\.safetensors is not a whole safetensors file, because {reason}.*: fetch it again, or"
    with pytest.raises(FormatError, match=pattern):
        look(content, "a.safetensors")


@pytest.mark.parametrize(
    ("name", "extension"),
    [("a.CKPT", ".ckpt"), ("a", ""), ("model-v1.5", ""), (".hidden", ""), ("a.tar.gz", ".gz"), ("a.", ""), ("", "")],
)
def test_extensions(name: str, extension: str) -> None:
    assert extension_of(name) == extension


# Whole files


@pytest.mark.parametrize(
    ("members", "pickled"),
    [
        ({"a.txt": b"text", "b/c.safetensors": MODEL}, False),
        ({"a.txt": b"text", "b/model.pkl": PICKLE}, True),
        ({"a.txt": b"text", "b/model.CKPT": b""}, True),
        ({"a.txt": b"text", "b/model": PICKLE}, True),
        ({"a.txt": b"text", "nested.pt": TORCH}, True),
        # Raw numbers that begin like a pickle.
        ({"a.txt": b"text", "archive/data/17": PICKLE}, False),
        ({}, False),
    ],
)
def test_a_zip_file_is_looked_into(tmp_path: Path, members: dict[str, bytes], pickled: bool) -> None:
    path = tmp_path / "models.zip.part"
    path.write_bytes(zipped(members))
    assert inspect(str(path), "models.zip") == Format("zip", pickle=pickled)


def test_a_zip_file_that_nobody_can_look_into_counts_as_a_pickle(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.txt": b"text"}))
    for place in (6, content.index(b"PK\x01\x02") + 8):
        # Encrypted.
        content[place] |= 1
    path = tmp_path / "models.zip"
    packed = bytearray(zipped({"a.txt": b"text" * 100}, zipfile.ZIP_DEFLATED))
    packed[35] = 0xFF
    for broken in (bytes(content), bytes(packed), zipped({"a.txt": b"text"})[:-10]):
        path.write_bytes(broken)
        assert inspect(str(path), path.name) == Format("zip", pickle=True)


def test_a_whole_file_is_judged_by_its_whole_header(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    path.write_bytes(safetensors({f"tensor {number}": (2,) for number in range(500)}, ss_base_model_version="sd_v1"))
    assert inspect(str(path), "a.safetensors") == Format("safetensors", base_model="SD 1.5")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(FormatError, match="it should have"):
        inspect(str(path), "a.safetensors")


# What is wanted


def test_only_pickles_need_a_decision() -> None:
    for policy in ("deny", "scan", "allow"):
        assert check_policy(Format("safetensors"), None, policy, "/nonexistent", "a.safetensors") is None


def test_a_pickle_is_denied() -> None:
    with pytest.raises(FormatError) as caught:
        check_policy(Format("pickle", pickle=True), None, "deny", None, "a.ckpt")
    assert str(caught.value) == (
        "a.ckpt is a pickle, and loading it could run code: take the safetensors version, or set pickle to scan, "
        "or to allow when you trust this very file by its sha256."
    )
    for found, what in ((Format("zip", True), "a ZIP file with pickles in it"), (Format("tar", True), "a file that")):
        with pytest.raises(FormatError, match=f"is {what}"):
            check_policy(found, None, "deny", None, "a.bin")


def test_a_pickle_is_allowed() -> None:
    note = check_policy(Format("pickle", pickle=True), None, "allow", None, "a.ckpt")
    assert note == "a.ckpt is a pickle, and loading it could run code."


def test_the_scanner_is_missed_before_the_download() -> None:
    with pytest.raises(FormatError, match=r"picklescan is not at /nonexistent/picklescan: install it on this host"):
        check_policy(Format("pickle", pickle=True), None, "scan", "/nonexistent/picklescan", "a.ckpt")
