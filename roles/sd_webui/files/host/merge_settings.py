# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge what the inventory wants into the files that the web UI itself writes: the first that launch.py does.

A value is written when the file lacks it, or when the inventory wants another one than it last did. So what a person
changes in the page stays until the inventory changes, and what leaves the inventory stays as it is.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import settings

Rows = list[list[str]]
# What was applied last, beside the web UI's own files.
RECORD = ".managed.json"
# Written by hand or by a program, a prompt may be longer than what Python reads by itself.
csv.field_size_limit(2**31 - 1)


class Damaged(Exception):
    """A file of the web UI that cannot be read as what it should be; the message says why."""


def is_same(one: Any, other: Any) -> bool:
    """Equal in JSON, where true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def merge_values(current: dict[str, Any], wanted: dict[str, Any], applied: dict[str, Any]) -> dict[str, Any]:
    """Settings by name."""
    fresh = {
        name: value
        for name, value in wanted.items()
        if name not in current or name not in applied or not is_same(applied[name], value)
    }
    return {**current, **fresh}


def merge_extensions(current: dict[str, Any], wanted: dict[str, bool], applied: dict[str, bool]) -> dict[str, Any]:
    """The setting that lists what is switched off; `wanted` tells it for the extensions that are managed."""
    listed = current.get("disabled_extensions")
    names = list(listed) if isinstance(listed, list) else []
    for name, disabled in wanted.items():
        # Without the list, nothing that was applied is left of it.
        if (isinstance(listed, list) and applied.get(name) is disabled) or disabled == (name in names):
            continue
        names = [*names, name] if disabled else [other for other in names if other != name]
    return current if names == (listed or []) else {**current, "disabled_extensions": names}


def merge_styles(rows: Rows, wanted: dict[str, list[str]], applied: dict[str, Any]) -> Rows:
    """Rows of styles.csv by name: prompt and negative prompt. Other rows, their order and other columns stay."""
    found = [list(row) for row in rows]
    while found and not found[0]:
        del found[0]
    header = found[0] if found else ["name", "prompt", "negative_prompt"]
    if "name" not in header:
        raise Damaged("its first line does not name the columns")
    # As old versions wrote it.
    columns = ["text" if "text" in header and "prompt" not in header else "prompt", "negative_prompt"]
    body = found[1:]
    at = header.index("name")
    for name, values in wanted.items():
        # Of two rows with one name the web UI takes the last.
        same = [row for row in body if len(row) > at and row[at] == name]
        if same and name in applied and is_same(applied[name], values):
            continue
        if not same:
            same = [[]]
            body.append(same[0])
        header += [column for column in columns if column not in header]
        # The web UI fails at a column that a row does not have.
        for row in body:
            row += [""] * (len(header) - len(row) if row or row is same[-1] else 0)
        row = same[-1]
        for column, value in zip(["name", *columns], [name, *values]):
            row[header.index(column)] = value
    return [header, *body] if body or found else []


def parse_values(raw: bytes) -> dict[str, Any]:
    """The JSON object of a settings file."""
    try:
        data = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Damaged(str(error)) from error
    if not isinstance(data, dict):
        raise Damaged("it is not a JSON object")
    return data


def format_values(data: dict[str, Any]) -> bytes:
    """As the web UI writes it."""
    try:
        return json.dumps(data, indent=4, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        # Half of a character, which only JSON's own notation can hold.
        return json.dumps(data, indent=4).encode("ascii")


def parse_styles(raw: bytes) -> Rows:
    """The rows as the web UI reads them."""
    try:
        return list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), skipinitialspace=True))
    except (ValueError, csv.Error) as error:
        raise Damaged(str(error)) from error


def format_styles(rows: Rows) -> bytes:
    """As the web UI writes them."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8-sig", "replace")


def read(path: Path) -> bytes | None:
    """What is in the file; None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise settings.SettingsError(
            f"{path} cannot be read by this service ({error.strerror}); correct its owner or its mode."
        ) from error


def write(path: Path, content: bytes) -> None:
    """Whole or not at all, with the mode that the file has."""
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name}.part")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            part.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        raise settings.SettingsError(
            f"{path} cannot be written ({error.strerror}); free space, or let this service write into its folder."
        ) from error


def set_aside(path: Path, why: Damaged) -> None:
    """Keep a damaged file under another name: the web UI would fail at it, or lose it."""
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        path.replace(kept)
    except OSError as error:
        raise settings.SettingsError(
            f"{path} is damaged ({why}) and cannot be moved away ({error.strerror}); remove it."
        ) from error
    print(
        f"warning: {path} was damaged ({why}) and is now {kept}; what the inventory says is written anew.",
        file=sys.stderr,
    )


def update(path: Path, parse: Any, merge: Any, layout: Any, nothing: Any) -> None:
    """Bring one file up to date; `parse`, `merge` and `layout` know what is in it."""
    raw = read(path)
    try:
        before = parse(raw) if raw else nothing
        after = merge(before)
    except Damaged as why:
        set_aside(path, why)
        raw, before = None, nothing
        after = merge(nothing)
    # The web UI takes an empty file for a damaged one, and a byte order mark in JSON as well.
    unreadable = parse is parse_values and raw is not None and (not raw or raw.startswith(b"\xef\xbb\xbf"))
    if unreadable or not is_same(after, before):
        write(path, layout(after))
        print(f"{path}: brought up to date with the inventory")


def merge_all(wanted: dict[str, Any]) -> None:
    """Bring all files up to date, and keep in mind what was applied."""
    files = {kind: Path(path) for kind, path in wanted["files"].items()}
    if not files:
        return
    managed, disabled = wanted["managed_extensions"], set(wanted["disabled_extensions"])
    now: dict[str, Any] = {
        "schema": 1,
        "settings": wanted["settings"],
        "ui_settings": wanted["ui_settings"],
        "styles": {
            str(style["name"]): [str(style.get(text) or "") for text in ("prompt", "negative_prompt")]
            for style in wanted["styles"]
        },
        "extensions": {name: name in disabled for name in managed},
    }
    record = files["settings"].with_name(RECORD)
    try:
        last = parse_values(read(record) or b"{}")
    except Damaged:
        last = {}
    applied: dict[str, Any] = {
        kind: last[kind] if isinstance(last.get(kind), dict) else {}
        for kind in ("settings", "ui_settings", "styles", "extensions")
    }

    def merge_settings(current: dict[str, Any]) -> dict[str, Any]:
        merged = merge_values(current, now["settings"], applied["settings"])
        return merge_extensions(merged, now["extensions"], applied["extensions"])

    def merge_ui_settings(current: dict[str, Any]) -> dict[str, Any]:
        return merge_values(current, now["ui_settings"], applied["ui_settings"])

    def merge_rows(rows: Rows) -> Rows:
        return merge_styles(rows, now["styles"], applied["styles"])

    update(files["settings"], parse_values, merge_settings, format_values, {})
    update(files["ui_settings"], parse_values, merge_ui_settings, format_values, {})
    update(files["styles"], parse_styles, merge_rows, format_styles, [])
    if not is_same(last, now):
        try:
            write(record, format_values(now))
        except settings.SettingsError as error:
            # The start is right; the next one writes once more what the inventory says.
            print(f"warning: {error}", file=sys.stderr)


def main() -> int:
    """Return 1 when the web UI would start with other settings than the inventory wants."""
    path = settings.CONFIG / "webui_settings.json"
    try:
        wanted = settings.read_json(path)
        try:
            merge_all(wanted)
        except (KeyError, TypeError, AttributeError) as error:
            raise settings.SettingsError(
                f"{path} is not as the role writes it ({error}); run site.yml for this host again."
            ) from error
    except settings.SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
