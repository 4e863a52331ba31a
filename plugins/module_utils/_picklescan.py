# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Has a pickle looked at by picklescan, and believes it only when it has seen everything. Private to this collection.

picklescan lists what a pickle imports, without loading it. It has been fooled by odd extensions, by ZIP files that
say two things, by wrong checksums and by pickles that break off, and most of that ends in a warning and exit status
0. So the file is shown to it under an extension that it knows, what is odd is refused here, and the answer must be one
that leaves nothing open: every pickle scanned, no warning, and nothing imported but what picklescan knows as harmless.
"""

from __future__ import annotations

import os
import pickletools
import re
import shutil
import struct
import subprocess
import tempfile
import zipfile
from typing import IO

# Where the role puts it.
INSTALLED = "/opt/secondhand-diffusion/picklescan/bin/picklescan"
PICKLE_EXTENSIONS = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".th", ".ptl")
# PyTorch's own files: how the first of the pickles of the old format begins, and how many there are.
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PICKLES = 5
# Members of a ZIP file that picklescan reads besides those.
_READ_TOO = (".dat", ".data", ".npy")
_PROTOCOLS = tuple(bytes([0x80, number]) for number in range(6))
_TIMEOUT = 600
# A tensor's raw data, which nobody unpickles, may begin like a pickle by chance.
_TENSOR_DATA = re.compile(r"[^/:]+/data/\d+")
_CHANCE = re.compile(r"WARNING: could not parse [^:]+:([^:]+) as pickle: .*")
_GLOBAL = re.compile(r"  \* (.+) - (innocuous|suspicious|dangerous)")
_LOCAL_HEADER = struct.Struct("<4s2B4HL2L2H")
_ENCRYPTED_OR_PATCHED = 0x1 | 0x20 | 0x40 | 0x2000


class UnsafeError(Exception):
    """The pickle is not known to be harmless; the message is the part of a sentence that says why."""


def find(option: str | None) -> str | None:
    """The program: the option's, else the one in PATH, else the one that the role has installed."""
    for candidate in (option,) if option else ("picklescan", INSTALLED):
        found = shutil.which(candidate)
        if found:
            return found
    return None


def is_pickle_member(name: str, start: bytes) -> bool:
    """Whether a member of a ZIP file is one that PyTorch or a program that unpacks it would unpickle."""
    return _extension(name) in PICKLE_EXTENSIONS or (start.startswith(_PROTOCOLS) and not _TENSOR_DATA.fullmatch(name))


def pickle_members(path: str) -> list[str]:
    """Raises OSError for a disk that fails, and many others for a ZIP file that cannot be read."""
    with zipfile.ZipFile(path) as archive:
        return [member.filename for member in archive.infolist() if is_pickle_member(*_start(archive, member))]


def scan(path: str, scanner: str) -> None:
    """Returns when the whole file was scanned and nothing was found; raises UnsafeError for anything else."""
    with open(path, "rb") as file:
        start = file.read(len(_LEGACY_TORCH))
    if start.startswith(b"PK"):
        extension, expected = ".pt", _check_zip(path)
    else:
        extension, expected = _check_plain(path, start), 1
    with tempfile.TemporaryDirectory(prefix="picklescan-") as folder:
        # The file has the name of an unfinished download, and by that name picklescan would choose another way to read.
        shown = os.path.join(folder, "model" + extension)
        os.symlink(os.path.abspath(path), shown)
        _judge(*_run(scanner, shown), expected)


def _run(scanner: str, shown: str) -> tuple[int, list[str]]:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [scanner, "--globals", "--path", shown],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise UnsafeError(f"picklescan was not done with it after {_TIMEOUT} seconds") from exc
    except OSError as exc:
        raise UnsafeError(f"{scanner} cannot be started ({exc.strerror})") from exc
    return done.returncode, done.stdout.decode("utf-8", "replace").splitlines()


def _judge(status: int, lines: list[str], expected: int) -> None:
    counts: dict[str, int] = {}
    found: list[str] = []
    odd: list[str] = []
    for line in lines:
        name, _colon, number = line.partition(": ")
        imported = _GLOBAL.fullmatch(line)
        by_chance = _CHANCE.fullmatch(line)
        if name in _SUMMARY and number.isascii() and number.isdigit() and name not in counts:
            counts[name] = int(number)
        elif imported:
            found += [imported[1]] if imported[2] != "innocuous" else []
        elif line not in _TITLES and not (by_chance and _TENSOR_DATA.fullmatch(by_chance[1])):
            odd.append(line)
    if found or counts.get("Infected files", 0) or counts.get("Dangerous globals", 0):
        names = ", ".join(ascii(name)[1:-1] for name in sorted(found)[:5]) or "something dangerous"
        raise UnsafeError(f"picklescan found that it imports {names}")
    if status != 0 or odd or any(counts.get(name, 0) for name in _SUMMARY if name != "Scanned files"):
        said = f" ({ascii(odd[0])[1:161]})" if odd else ""
        raise UnsafeError(f"picklescan could not look at all of it, and ended with status {status}{said}")
    # As many as there are and no more: one that was not looked at must not hide behind one that did not count.
    if "Infected files" not in counts or counts.get("Scanned files") != expected:
        raise UnsafeError(f"picklescan looked at {counts.get('Scanned files', 0)} of its {expected} pickles")


_SUMMARY = ("Scanned files", "Infected files", "Suspicious globals", "Dangerous globals")
_TITLES = ("----------- SCAN SUMMARY -----------", "All globals found:")


def _check_plain(path: str, start: bytes) -> str:
    """The extension under which picklescan reads it as PyTorch or pickle would."""
    if zipfile.is_zipfile(path):
        raise UnsafeError("it is a pickle and a ZIP file at once, and programs differ in what they read")
    with open(path, "rb") as file:
        if start != _LEGACY_TORCH:
            return ".pkl"
        # picklescan does not mind when one of these breaks off.
        for number in range(_LEGACY_PICKLES):
            _walk(file, f"its pickle {number + 1} of {_LEGACY_PICKLES}")
    return ".pt"


def _walk(file: IO[bytes], what: str) -> None:
    try:
        for _opcode in pickletools.genops(file):
            pass
    except Exception as exc:
        # Whatever it is that pickletools meets in bytes that somebody made to confuse it.
        raise UnsafeError(f"{what} cannot be read to its end") from exc


def _check_zip(path: str) -> int:
    """How many pickles picklescan must find. What the file says twice must be the same both times."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            members = archive.infolist()
            names = {os.path.normpath(member.filename).lower() for member in members}
            if len(names) != len(members):
                raise UnsafeError("it has two members of one name")
            if archive.comment or min((member.header_offset for member in members), default=0):
                raise UnsafeError("it has something before its first member or after its last")
            pickles = read = 0
            for member in members:
                _check_member(file, member)
                name, start = _start(archive, member)
                if is_pickle_member(name, start):
                    # To its end, so that its checksum is compared.
                    with archive.open(member) as stream:
                        shutil.copyfileobj(stream, _Nowhere(), 1 << 20)
                    pickles += 1
                read += start.startswith(_PROTOCOLS) or _extension(name) in (*PICKLE_EXTENSIONS, *_READ_TOO)
    except UnsafeError:
        raise
    except Exception as exc:
        # Whatever the decompressors and the ZIP module meet in bytes that somebody made to confuse them.
        raise UnsafeError(f"its ZIP structure is damaged or odd ({exc})") from exc
    if not pickles:
        raise UnsafeError("it is a ZIP file without a pickle that PyTorch would read")
    return read


def _check_member(file: IO[bytes], member: zipfile.ZipInfo) -> None:
    file.seek(member.header_offset)
    raw = file.read(_LOCAL_HEADER.size)
    if len(raw) < _LOCAL_HEADER.size:
        raise UnsafeError("it ends within one of its members")
    signature, _version, _system, flags, method, _time, _date, _crc, _packed, _size, length, _extra = (
        _LOCAL_HEADER.unpack(raw)
    )
    name = file.read(length)
    if signature != b"PK\x03\x04" or (flags | member.flag_bits) & _ENCRYPTED_OR_PATCHED:
        raise UnsafeError("one of its members is encrypted or odd")
    if method != member.compress_type or name != _raw_name(member):
        raise UnsafeError("one of its members has another name or packing in the list at the end")


def _raw_name(member: zipfile.ZipInfo) -> bytes:
    return member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437")


def _start(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, bytes]:
    if member.is_dir() and member.file_size == 0:
        return member.filename, b""
    with archive.open(member) as stream:
        return member.filename, stream.read(2)


def _extension(name: str) -> str:
    return os.path.splitext(name.rstrip("/. "))[1].lower()


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)
