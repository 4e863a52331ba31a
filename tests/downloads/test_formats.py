"""Pickles, looked at by the real picklescan: what it calls clean is taken, and everything it can be fooled with is not.

Nothing here is ever unpickled. The payloads would leave a file behind if anything did.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._model_format import (
    Format,
    FormatError,
    check_policy,
    inspect,
)
from hubs import Hubs
from module_runs import Modules

MIB = 1024 * 1024
MARKER = Path("/tmp/secondhand-diffusion-a-pickle-was-loaded")
# How PyTorch's old format begins, and two small pickles that follow.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00."
TORCH = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage")


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {MARKER}",)


def importing(*names: str) -> bytes:
    """A pickle of an empty dictionary that imports these, each a module and a name in it, on the way."""
    return b"\x80\x02" + b"".join(b"c" + name.replace(" ", "\n").encode() + b"\n0" for name in names) + b"}."


def zipped(members: dict[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def torch(content: bytes, **more: bytes) -> bytes:
    """As torch.save writes it; the first tensor's bytes look like the beginning of a pickle."""
    others = {name.replace("__", "/"): data for name, data in more.items()}
    return zipped(
        {
            "archive/data.pkl": content,
            "archive/byteorder": b"little",
            "archive/data/0": b"\x80\x02" + b"\xff" * 62,
            "archive/version": b"3\n",
            ".data/serialization_id": b"0" * 40,
            **others,
        }
    )


def legacy(content: bytes) -> bytes:
    """As torch.save wrote it before 1.6, with one tensor."""
    return LEGACY + content + b"\x80\x02]q\x00X\x01\x00\x00\x000a." + b"\x10" + bytes(7) + b"\xff" * 64


def edited(content: bytes, old: bytes, new: bytes, place: int) -> bytes:
    """With one of the occurrences changed, as no program would write it."""
    at = -1
    for _ in range(place + 1):
        at = content.index(old, at + 1)
    return content[:at] + new + content[at + len(old) :]


HARMLESS = importing(*TORCH)
EVIL = pickle.dumps({"state_dict": OrderedDict(a=Payload())}, protocol=2)
EVIL_ASCII = pickle.dumps(Payload(), protocol=0)
UNKNOWN = importing("collections OrderedDict", "my.module Thing")
# Names in a pickle of protocol 4 are any text, also one that looks like lines of a report.
FORGED = b"\x80\x04" + b"".join(
    b"\x8c" + bytes([len(text)]) + text for text in (b"posix\nInfected files: 0", b"system - innocuous\n")
)


@pytest.fixture(scope="module")
def picklescan() -> str:
    found = shutil.which("picklescan")
    assert found, "picklescan is in tests/requirements-test.txt"
    return found


@pytest.fixture(autouse=True)
def nothing_is_loaded() -> Iterator[None]:
    MARKER.unlink(missing_ok=True)
    yield
    assert not MARKER.exists()


def scan(content: bytes, name: str, folder: Path, scanner: str) -> str | None:
    """As after a download, while the file still has the name of an unfinished one."""
    part = folder / f"{name}.part"
    part.write_bytes(content)
    return check_policy(inspect(str(part), name), str(part), "scan", scanner, name)


def alone(content: bytes, name: str, folder: Path, scanner: str) -> int:
    """What picklescan says by itself."""
    (folder / name).write_bytes(content)
    return subprocess.run([scanner, "-p", folder / name], capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (torch(HARMLESS), "model.ckpt"),
        (torch(HARMLESS, archive__extra__more=b"text"), "model.pt"),
        (legacy(HARMLESS), "model.pth"),
        (HARMLESS, "model.bin"),
        (pickle.dumps({"a": [1, 2.5, "text"]}, protocol=4), "model.pkl"),
        (pickle.dumps({"a": [1, 2.5, "text"]}, protocol=0), "model.pickle"),
        (zipped({"readme.txt": b"", "a/b.pkl": HARMLESS}), "models.zip"),
        # A name without an extension, which a hub may send as well.
        (torch(HARMLESS), "download"),
    ],
)
def test_what_is_clean(content: bytes, name: str, tmp_path: Path, picklescan: str) -> None:
    note = scan(content, name, tmp_path, picklescan)
    assert note is not None
    assert note.endswith("and loading it could run code; picklescan found nothing in it, which is no proof.")
    assert os.listdir(tmp_path) == [f"{name}.part"]


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (torch(EVIL), "model.ckpt", "imports posix.system"),
        (legacy(EVIL), "model.pth", "imports posix.system"),
        (EVIL, "model.bin", "imports posix.system"),
        (EVIL_ASCII, "model.pt", "imports posix.system"),
        (zipped({"readme.txt": b"", "a/b.pkl": EVIL}), "models.zip", "imports posix.system"),
        (torch(HARMLESS, archive__extra=EVIL), "model.pt", "imports posix.system"),
        # After the payload it breaks off, which stops neither the payload nor may stop the scan.
        (EVIL[:-4], "model.bin", "imports posix.system"),
        (legacy(EVIL[:-4])[:-90], "model.pth", "its pickle 4 of 5 cannot be read to its end"),
        (torch(EVIL[:-4]), "model.ckpt", "imports posix.system"),
        # A second pickle, of which the first one's reader knows nothing.
        (HARMLESS + EVIL, "model.pkl", "imports posix.system"),
        (FORGED + b"\x93.", "model.pkl", "imports|could not look at all of it"),
    ],
)
def test_a_payload(content: bytes, name: str, reason: str, tmp_path: Path, picklescan: str) -> None:
    with pytest.raises(FormatError, match=rf"could run code, and .*({reason}).*: take the safetensors version, or"):
        scan(content, name, tmp_path, picklescan)
    assert os.listdir(tmp_path) == [f"{name}.part"]


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        # Nobody has ever said that this is harmless.
        (torch(UNKNOWN), "model.ckpt", "picklescan found that it imports my.module.Thing"),
        # It breaks off: a warning, and nothing found.
        (torch(HARMLESS[:9]), "model.ckpt", "picklescan could not look at all of it, and ended with status 0"),
        # A ZIP file without a pickle, and one with a pickle that picklescan does not know by its name.
        (zipped({"archive/version": b"3\n"}), "model.pt", "it is a ZIP file without a pickle that PyTorch would read"),
        (zipped({"archive/DATA.PKL": EVIL_ASCII}), "model.pt", "picklescan looked at 0 of its 1 pickles"),
        (
            zipped({"archive/DATA.PKL": EVIL_ASCII, "archive/a.dat": HARMLESS}),
            "model.pt",
            "picklescan looked at 1 of its 2 pickles",
        ),
        (zipped({"inner.pt": torch(EVIL)}), "models.zip", "picklescan looked at 0 of its 1 pickles"),
        # Programs that read from the front see another file than those that read from the back.
        (torch(EVIL) + torch(HARMLESS), "model.pt", "it has something before its first member or after its last"),
        (zipped({"a.pkl": HARMLESS})[:-2] + b"\x02\x00PK", "model.pt", "before its first member or after its last"),
        (edited(torch(HARMLESS), b"data.pkl", b"dada.pkl", 0), "model.pt", "has another name or packing in the list"),
        (
            edited(torch(HARMLESS), b"data.pkl", b"dada.pkl", 1),
            "model.pt",
            "has another name or packing|is damaged or odd",
        ),
        (edited(torch(HARMLESS), b"}.", b"]."[:2], 0), "model.pt", r"damaged or odd \(Bad CRC-32 for file"),
        (
            edited(torch(HARMLESS), b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01", 0),
            "model.pt",
            "encrypted or odd|damaged or odd",
        ),
    ],
)
def test_what_picklescan_alone_lets_pass(
    content: bytes, name: str, reason: str, tmp_path: Path, picklescan: str
) -> None:
    assert alone(content, name, tmp_path, picklescan) == 0
    with pytest.raises(FormatError, match=rf"could run code, and .*({reason}).*: take the safetensors version, or"):
        scan(content, name, tmp_path, picklescan)


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (EVIL + torch(HARMLESS), "model.pkl", "it is a pickle and a ZIP file at once"),
        (torch(HARMLESS)[:-30], "model.pt", "its ZIP structure is damaged or odd"),
        (torch(HARMLESS, **{"archive__x.pkl": b"7z\xbc\xaf\x27\x1c" + bytes(99)}), "model.pt", "could not look at all"),
        (
            edited(zipped({"a.pkl": HARMLESS}, compression=8), b"a.pkl", b"a.pkl\xff\xff\xff", 0)[:-3],
            "model.pt",
            "damaged",
        ),
        (bytes(600), "model.bin", "could not look at all"),
        (b"", "model.bin", "could not look at all|looked at"),
    ],
)
def test_what_is_odd(content: bytes, name: str, reason: str, tmp_path: Path, picklescan: str) -> None:
    with pytest.raises(FormatError, match=rf"could run code, and .*({reason}).*: take the safetensors version, or"):
        scan(content, name, tmp_path, picklescan)


def test_two_members_of_one_name(tmp_path: Path, picklescan: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("archive/data.pkl", "archive/./DATA.pkl"):
            archive.writestr(name, HARMLESS)
    with pytest.raises(FormatError, match="it has two members of one name"):
        scan(buffer.getvalue(), "model.pt", tmp_path, picklescan)


def test_a_7z_archive_is_no_model(tmp_path: Path, picklescan: str) -> None:
    """How the models called nullifAI came past the scanners."""
    content = b"7z\xbc\xaf\x27\x1c\x00\x04" + EVIL
    with pytest.raises(FormatError, match=r"model\.pt is a 7z archive and not what its name promises"):
        scan(content, "model.pt", tmp_path, picklescan)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("true", "picklescan looked at 0 of its 2 pickles"),
        ("false", "could not look at all of it, and ended with status 1"),
    ],
)
def test_a_program_that_is_not_picklescan(program: str, reason: str, tmp_path: Path) -> None:
    path = shutil.which(program)
    assert path
    with pytest.raises(FormatError, match=reason):
        scan(torch(HARMLESS), "model.pt", tmp_path, path)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    program = tmp_path / "scanner"
    program.write_text("#!/nonexistent/python\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(FormatError, match=r"scanner cannot be started \(No such file or directory\)"):
        check_policy(Format("pickle", True), str(program), "scan", str(program), "model.pkl")


# The whole way


def large(pickled: bytes) -> bytes:
    """A checkpoint of some size, for the difference between its beginning and all of it."""
    return torch(pickled, archive__data__1=bytes(40 * MIB))


def test_a_checkpoint_is_refused_before_it_is_fetched(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    stored = hubs.storage.add_bytes("large.ckpt", large(HARMLESS))
    hubs.faults.bytes_per_second = 16 * MIB
    options: dict[str, Any] = {"url": stored.url, "dest": str(tmp_path / "large.ckpt"), "sha256": stored.sha256}
    run = run_module("url_download", **options)
    assert run.message.startswith("large.ckpt is a pickle, and loading it could run code: take the safetensors version")
    assert hubs.bytes_sent() < stored.size / 2
    assert not list(tmp_path.glob("large*"))


def test_a_checkpoint_is_scanned(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    good = hubs.storage.add_bytes("good.ckpt", torch(HARMLESS))
    bad = hubs.storage.add_bytes("bad.ckpt", torch(EVIL))
    options: dict[str, Any] = {"dest": f"{tmp_path}/models/", "pickle": "scan"}
    run = run_module("url_download", url=good.url, sha256=good.sha256, **options)
    assert (run.result["changed"], run.result["format"]) == (True, "pickle")
    assert "picklescan found nothing in it, which is no proof." in str(run.result["warnings"])
    run = run_module("url_download", url=bad.url, sha256=bad.sha256, **options)
    assert "picklescan found that it imports posix.system" in run.message
    assert os.listdir(tmp_path / "models") == ["good.ckpt"]


def test_a_scanner_that_is_missing(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    stored = hubs.storage.add_bytes("good.ckpt", torch(HARMLESS))
    run = run_module(
        "url_download",
        url=stored.url,
        dest=f"{tmp_path}/models/",
        sha256=stored.sha256,
        pickle="scan",
        picklescan="/nonexistent/picklescan",
    )
    assert "picklescan is not at /nonexistent/picklescan: install it on this host" in run.message
    assert os.listdir(tmp_path / "models") == []


def test_a_pickle_is_allowed(hubs: Hubs, run_module: Modules, tmp_path: Path) -> None:
    stored = hubs.storage.add_bytes("annotator.pth", legacy(UNKNOWN))
    run = run_module("url_download", url=stored.url, dest=f"{tmp_path}/models/", sha256=stored.sha256, pickle="allow")
    assert run.result["changed"]
    assert os.listdir(tmp_path / "models") == ["annotator.pth"]
