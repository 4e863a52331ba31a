# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What merge_settings.py leaves in the files that the web UI itself writes, run as a process before each start."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HOST = Path(__file__).resolve().parents[3] / "roles/sd_webui/files/host"


class Host:
    """A made-up root with the files of one web UI."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "srv/sd/webui"
        self.folder.mkdir(parents=True)
        (root / "etc/sd-webui").mkdir(parents=True)
        self.config = self.folder / "config.json"
        self.ui = self.folder / "ui-config.json"
        self.styles = self.folder / "styles.csv"

    def start(
        self, *, folder: Path | None = None, file_size: int | None = None, **wanted: Any
    ) -> subprocess.CompletedProcess[str]:
        """What happens before the web UI starts, with this inventory."""
        folder = folder or self.folder
        content = {
            "schema": 1,
            "files": {
                "settings": str(folder / "config.json"),
                "ui_settings": str(folder / "ui-config.json"),
                "styles": str(folder / "styles.csv"),
            },
            "settings": {},
            "ui_settings": {},
            "styles": [],
            "disabled_extensions": [],
            "managed_extensions": [],
            **wanted,
        }
        (self.root / "etc/sd-webui/webui_settings.json").write_text(json.dumps(content), encoding="utf-8")
        return self.run(file_size)

    def run(self, file_size: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command as it is; a limit on the size of files stands in for a full disk."""
        limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))) if file_size else None
        return subprocess.run(
            [sys.executable, "-BEs", str(HOST / "merge_settings.py")],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=limit,
            env={"PATH": os.environ["PATH"], "SD_WEBUI_ROOT": str(self.root), "PYTHONUTF8": "1"},
        )

    def merge(self, **wanted: Any) -> None:
        """The same, where all goes well."""
        done = self.start(**wanted)
        assert (done.returncode, done.stderr) == (0, "")

    def settings(self) -> Any:
        """What the web UI would read."""
        return json.loads(self.config.read_text(encoding="utf-8"))

    def rows(self) -> list[dict[str, Any]]:
        """The styles as the web UI reads them."""
        text = self.styles.read_bytes().decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True))

    def files(self) -> list[str]:
        """All that is in the folder."""
        return sorted(os.listdir(self.folder))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# Settings


def test_settings_are_written_where_there_is_no_file(host: Host) -> None:
    host.merge(settings={"outdir_samples": "/srv/sd/outputs"}, ui_settings={"txt2img/Steps/value": 28})
    assert host.settings() == {"outdir_samples": "/srv/sd/outputs"}
    assert json.loads(host.ui.read_text(encoding="utf-8")) == {"txt2img/Steps/value": 28}
    assert host.files() == [".managed.json", "config.json", "ui-config.json"]


def test_what_is_not_wanted_makes_no_file(host: Host) -> None:
    host.merge()
    assert host.files() == [".managed.json"]


def test_an_engine_without_such_files_is_left_alone(host: Host) -> None:
    host.merge(files={}, settings={"a": 1})
    assert host.files() == []


def test_a_persons_change_stays_until_the_inventory_changes(host: Host) -> None:
    host.merge(settings={"grid_format": "png", "jpeg_quality": 80})
    host.config.write_text(json.dumps({"grid_format": "jpg", "own": [1, None], "jpeg_quality": 80}), encoding="utf-8")
    host.merge(settings={"grid_format": "png", "jpeg_quality": 80})
    assert host.settings() == {"grid_format": "jpg", "own": [1, None], "jpeg_quality": 80}
    host.merge(settings={"grid_format": "webp", "jpeg_quality": 80})
    assert host.settings()["grid_format"] == "webp"
    # What leaves the inventory stays as it is, and comes back as something new.
    host.merge(settings={})
    assert host.settings()["grid_format"] == "webp"
    host.config.write_text('{"grid_format": "jpg"}', encoding="utf-8")
    host.merge(settings={})
    assert host.settings() == {"grid_format": "jpg"}
    host.merge(settings={"grid_format": "webp"})
    assert host.settings() == {"grid_format": "webp"}


def test_a_setting_that_a_person_removed_comes_back(host: Host) -> None:
    host.merge(settings={"a": 1})
    host.config.unlink()
    host.merge(settings={"a": 1})
    assert host.settings() == {"a": 1}


def test_true_is_not_one(host: Host) -> None:
    host.merge(settings={"a": 1})
    host.merge(settings={"a": True})
    assert host.settings()["a"] is True


def test_the_file_looks_as_the_web_ui_writes_it(host: Host) -> None:
    own = {"größe": "ü", "big": 2**80, "small": 1e-300, "nested": {"b": [1.5, {}], "a": None}, "inf": float("inf")}
    before = json.dumps(own, indent=4, ensure_ascii=False)
    host.config.write_text(before, encoding="utf-8")
    host.merge()
    assert host.config.read_text(encoding="utf-8") == before
    host.merge(settings={"new": "ß"})
    assert host.config.read_text(encoding="utf-8") == json.dumps({**own, "new": "ß"}, indent=4, ensure_ascii=False)
    host.merge(settings={"half": "\ud800"})
    assert host.settings()["half"] == "\ud800"


def test_nothing_is_written_twice(host: Host) -> None:
    wanted: dict[str, Any] = {
        "settings": {"a": 1},
        "ui_settings": {"b": 2},
        "styles": [{"name": "x", "prompt": "y", "negative_prompt": ""}],
        "managed_extensions": ["one"],
        "disabled_extensions": ["one"],
    }
    host.merge(**wanted)
    before = {name: (host.folder / name).stat().st_mtime_ns for name in host.files()}
    assert len(before) == 4
    done = host.start(**wanted)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {name: (host.folder / name).stat().st_mtime_ns for name in host.files()} == before


def test_mode_and_link_stay(host: Host) -> None:
    real = host.root / "elsewhere.json"
    real.write_text("{}", encoding="utf-8")
    real.chmod(0o640)
    host.config.symlink_to(real)
    host.merge(settings={"a": 1})
    assert host.config.is_symlink() and json.loads(real.read_text(encoding="utf-8")) == {"a": 1}
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("content", [b"{", b"[]", b'"text"', b"\xff\xfe{}", b"\x00" * 100, b"[" * 100000])
def test_a_damaged_file_is_kept_and_started_anew(host: Host, content: bytes) -> None:
    host.config.write_bytes(content)
    host.ui.write_bytes(content)
    done = host.start(settings={"a": 1})
    assert done.returncode == 0
    assert host.settings() == {"a": 1}
    assert done.stderr.count("\n") == 2 and f"warning: {host.config} was damaged (" in done.stderr
    kept = [path for path in host.folder.iterdir() if path.name.startswith(("config.json.dam", "ui-config.json.dam"))]
    assert [path.read_bytes() for path in kept] == [content, content]
    # The page makes its own anew.
    assert not host.ui.exists()


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf{}"])
def test_what_the_web_ui_cannot_read_is_put_right(host: Host, content: bytes) -> None:
    host.config.write_bytes(content)
    host.merge()
    assert host.config.read_bytes() == b"{}"
    assert host.files() == [".managed.json", "config.json"]


def test_a_damaged_record_means_once_more(host: Host) -> None:
    host.merge(settings={"a": 1})
    host.config.write_text('{"a": 2}', encoding="utf-8")
    (host.folder / ".managed.json").write_text('{"settings": 7}', encoding="utf-8")
    host.merge(settings={"a": 1})
    assert host.settings() == {"a": 1}


# Extensions


def test_only_managed_extensions_are_switched(host: Host) -> None:
    host.config.write_text('{"disabled_extensions": ["own", "two"]}', encoding="utf-8")
    managed = ["one", "two", "three"]
    host.merge(managed_extensions=managed, disabled_extensions=["one"])
    assert host.settings()["disabled_extensions"] == ["own", "one"]
    # A person switches them the other way round in the page.
    host.config.write_text('{"disabled_extensions": ["two", "own"]}', encoding="utf-8")
    host.merge(managed_extensions=managed, disabled_extensions=["one"])
    assert host.settings()["disabled_extensions"] == ["two", "own"]
    host.merge(managed_extensions=managed, disabled_extensions=["one", "three"])
    assert host.settings()["disabled_extensions"] == ["two", "own", "three"]
    host.merge()
    assert host.settings()["disabled_extensions"] == ["two", "own", "three"]


def test_an_enabled_extension_needs_no_list(host: Host) -> None:
    host.merge(managed_extensions=["one"])
    assert not host.config.exists()
    host.merge(managed_extensions=["one"], disabled_extensions=["one"])
    assert host.settings() == {"disabled_extensions": ["one"]}
    host.config.write_text('{"disabled_extensions": null}', encoding="utf-8")
    host.merge(managed_extensions=["one"], disabled_extensions=["one"])
    assert host.settings() == {"disabled_extensions": ["one"]}


# Styles

STYLES: list[dict[str, str]] = [
    {"name": "photo", "prompt": 'a "photo",\nof {prompt}', "negative_prompt": "blurry, drawn"},
    {"name": "größe", "prompt": "", "negative_prompt": "ß"},
]


def test_styles_are_written_as_the_web_ui_does(host: Host) -> None:
    host.merge(styles=STYLES)
    rows = 'photo,"a ""photo"",\nof {prompt}","blurry, drawn"\r\ngröße,,ß\r\n'
    assert host.styles.read_bytes().decode() == "\ufeffname,prompt,negative_prompt\r\n" + rows
    assert host.rows() == STYLES


def test_other_styles_their_order_and_their_columns_stay(host: Host) -> None:
    mine = [
        {"name": "# a remark", "prompt": "", "negative_prompt": "", "rating": ""},
        {"name": "photo", "prompt": "mine", "negative_prompt": "", "rating": "5"},
        {"name": "own", "prompt": "several\r\nlines, and\na comma", "negative_prompt": "x", "rating": "3"},
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["rating", "name", "prompt", "negative_prompt"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(mine)
    host.styles.write_text(text.getvalue() + "\n", encoding="utf-8", newline="")
    host.merge()
    assert host.styles.read_bytes().decode() == text.getvalue() + "\n"
    host.merge(styles=STYLES)
    assert host.rows() == [
        mine[0],
        {**STYLES[0], "rating": "5"},
        mine[2],
        {**STYLES[1], "rating": ""},
    ]
    # A person changes one in the page and removes another; the first stays, the second comes back.
    host.merge(styles=STYLES)
    changed = host.styles.read_bytes().replace(b"blurry, drawn", b"drawn").replace("größe".encode(), b"big")
    host.styles.write_bytes(changed)
    host.merge(styles=STYLES)
    assert [(row["name"], row["negative_prompt"]) for row in host.rows()] == [
        ("# a remark", ""), ("photo", "drawn"), ("own", "x"), ("big", "ß"), ("größe", "ß"),
    ]  # fmt: skip
    host.merge(styles=[{**STYLES[0], "prompt": "new"}])
    assert [row["prompt"] for row in host.rows() if row["name"] == "photo"] == ["new"]
    assert len(host.rows()) == 5


def test_the_old_columns(host: Host) -> None:
    host.styles.write_text("name,text\nold,a cat\nphoto,mine\n", encoding="utf-8")
    host.merge(styles=STYLES)
    assert [(row["name"], row["text"], row["negative_prompt"]) for row in host.rows()] == [
        ("old", "a cat", ""),
        ("photo", STYLES[0]["prompt"], "blurry, drawn"),
        ("größe", "", "ß"),
    ]


def test_of_two_styles_with_one_name_the_last_counts(host: Host) -> None:
    host.styles.write_text("name,prompt,negative_prompt\r\nphoto,1,\r\nphoto,2\r\n", encoding="utf-8")
    host.merge(styles=[{"name": "photo", "prompt": "3", "negative_prompt": "4"}])
    assert [row["prompt"] for row in host.rows()] == ["1", "3"]


def test_a_style_longer_than_python_reads_by_itself(host: Host) -> None:
    host.styles.write_text(f'name,prompt,negative_prompt\nlong,"{"x" * 200_000}",\n', encoding="utf-8")
    host.merge(styles=STYLES)
    assert host.styles.read_text(encoding="utf-8-sig").count("x") == 200_000


@pytest.mark.parametrize("content", [b"photo,a photo,\n", b"name,prompt\n\xff,x\n", b"<html>\n</html>\n"])
def test_damaged_styles_are_kept(host: Host, content: bytes) -> None:
    host.styles.write_bytes(content)
    done = host.start(styles=STYLES)
    assert done.returncode == 0 and "was damaged" in done.stderr
    assert host.rows() == STYLES
    assert [path.read_bytes() for path in host.folder.glob("styles.csv.damaged-*")] == [content]


# What it says when something is wrong


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and done.stderr.endswith(".\n")
    return done.stderr


def test_a_full_disk(host: Host) -> None:
    long = {"a": "x" * 5000}
    assert "config.json cannot be written (File too large); free space" in sentence(
        host.start(settings=long, file_size=1000)
    )
    assert host.files() == []
    host.merge(settings=long)
    # Nothing is to be written, so the server starts.
    assert host.start(settings=long, file_size=1000).returncode == 0
    before = host.config.read_bytes()
    sentence(host.start(settings={"a": "y" * 5000}, file_size=1000))
    assert host.config.read_bytes() == before


def test_what_is_only_not_remembered_stops_nothing(host: Host) -> None:
    (host.folder / "..managed.json.part").mkdir()
    done = host.start(settings={"a": 1})
    assert done.returncode == 0 and ".managed.json cannot be written" in done.stderr
    assert host.settings() == {"a": 1}


def test_a_folder_that_cannot_be_written(host: Host) -> None:
    assert "or let this service write into its folder" in sentence(
        host.start(folder=Path("/proc/sys/webui"), settings={"a": 1})
    )


def test_a_file_that_cannot_be_read(host: Host) -> None:
    host.config.mkdir()
    assert "config.json cannot be read by this service (Is a directory)" in sentence(host.start(settings={"a": 1}))


def test_the_roles_own_file(host: Host) -> None:
    assert "run site.yml" in sentence(host.run())
    (host.root / "etc/sd-webui/webui_settings.json").write_text('{"schema": 1}', encoding="utf-8")
    assert "is not as the role writes it ('files')" in sentence(host.run())
