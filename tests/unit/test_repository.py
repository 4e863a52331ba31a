"""What holds for every file of the repository, and no linter looks at."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = "playbooks/collections/ansible_collections/secondhand/diffusion"
LEFT_OUT = {
    ".git",
    ".cache",
    ".ansible",
    ".venv",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "benchmark",
}


def repository_files() -> list[Path]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = sorted(set(folders) - LEFT_OUT - set(links))
        found += [Path(folder) / name for name in [*names, *links]]
    return sorted(
        path.relative_to(ROOT) for path in found if path.suffix not in {".pyc", ".gz"} and path.name != "inventory.ini"
    )


FILES = repository_files()
TEXTS = [path for path in FILES if not (ROOT / path).is_symlink() and b"\0" not in (ROOT / path).read_bytes()]


def first_line(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8").partition("\n")[0]


SCRIPTS = [path for path in TEXTS if first_line(path).startswith("#!")]
SHELL = [path for path in SCRIPTS if re.search(r"\b(ba|da)?sh\b", first_line(path))]


def test_the_only_link_makes_a_clone_its_own_collections_path() -> None:
    # The test hosts' own files may be links: they are a piece of a Debian file system.
    links = [str(path) for path in FILES if (ROOT / path).is_symlink()]
    assert [path for path in links if not path.startswith("tests/testbed/rootfs/")] == [LINK]
    assert (ROOT / LINK).resolve() == ROOT


def test_files_are_text_that_ends_in_one_newline() -> None:
    wrong = []
    for path in TEXTS:
        content = (ROOT / path).read_bytes()
        if content and (not content.endswith(b"\n") or content.endswith(b"\n\n") or b"\r" in content):
            wrong.append(str(path))
    assert wrong == []


def test_lines_have_no_trailing_blanks_and_no_tabs_where_they_mean_nothing() -> None:
    wrong = [
        str(path)
        for path in TEXTS
        if path.name not in {"LICENSE", "Makefile"} and re.search(rb"[ \t]+$", (ROOT / path).read_bytes(), re.MULTILINE)
    ]
    assert wrong == []


def test_binary_files_are_pictures() -> None:
    binary = {path for path in FILES if not (ROOT / path).is_symlink()} - set(TEXTS)
    assert [str(path) for path in binary if path.suffix not in {".png", ".jpg"}] == []


def test_scripts_are_executable_and_nothing_else_is() -> None:
    # What Ansible copies to a host gets its mode there, and a module is read by Ansible, never started.
    elsewhere = [path for path in SCRIPTS if path.parts[0] in {"molecule", "playbooks", "plugins", "roles"}]
    executable = {path for path in TEXTS if os.access(ROOT / path, os.X_OK) and (ROOT / path).stat().st_mode & 0o111}
    assert sorted(map(str, set(SCRIPTS) - set(elsewhere) - executable)) == [], "scripts that are not executable"
    assert sorted(map(str, executable - set(SCRIPTS))) == [], "executable files that are no scripts"
    assert sorted(str(path) for path in executable if path.parts[0] == "plugins") == [], "executable plugins"


@pytest.mark.parametrize("path", SHELL, ids=str)
def test_shell_scripts_parse(path: Path) -> None:
    subprocess.run(["bash", "-n", ROOT / path], check=True)


def test_plugins_carry_the_licence() -> None:
    header = (
        "# Copyright: the secondhand.diffusion contributors\n"
        "# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)\n"
        "# SPDX-License-Identifier: GPL-3.0-or-later\n"
    )
    plugins = [path for path in TEXTS if path.parts[0] == "plugins" and path.suffix == ".py"]
    assert [str(path) for path in plugins if header not in (ROOT / path).read_text(encoding="utf-8")] == []


def test_no_linter_is_told_to_look_away() -> None:
    # Built from parts, so that this file does not name what it forbids.
    marks = "|".join(
        ["no" + "qa", "type: " + "ignore", "skip_" + "ansible_lint", "pylint: " + "disable", "yamllint " + "disable"]
    )
    found = [
        f"{path}:{number}"
        for path in TEXTS
        if path.suffix in {".py", ".yml", ".yaml", ".j2", ""} and path.name != "LICENSE"
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if re.search(rf"#\s*({marks})", line)
    ]
    assert found == []
    assert [str(path) for path in FILES if re.fullmatch(r"ignore-[\d.]+\.txt|\.ansible-lint-ignore", path.name)] == []


def test_roles_use_no_foreign_collection() -> None:
    found = []
    for path in TEXTS:
        if path.parts[0] in {"roles", "playbooks"} and path.suffix in {".yml", ".yaml"}:
            names = re.findall(
                r"^\s+-?\s*([a-z_]+\.[a-z_]+\.[a-z_]+):", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
            )
            found += [
                f"{path}: {name}"
                for name in names
                if not name.startswith(("ansible.builtin.", "secondhand.diffusion."))
            ]
    assert found == []


def test_every_role_is_complete() -> None:
    parts = (
        "README.md",
        "defaults/main.yml",
        "meta/main.yml",
        "meta/argument_specs.yml",
        "tasks/main.yml",
        "handlers/main.yml",
    )
    roles = sorted({path.parts[1] for path in FILES if path.parts[0] == "roles"})
    missing = [
        f"roles/{role}/{part}" for role in roles for part in parts if not (ROOT / "roles" / role / part).is_file()
    ]
    missing += [
        f"molecule/{role}/molecule.yml" for role in roles if not (ROOT / "molecule" / role / "molecule.yml").is_file()
    ]
    assert missing == []


def test_what_the_readme_promises_is_executable() -> None:
    assert [name for name in ("bin/demo", "bin/test", ".ci/run") if not os.access(ROOT / name, os.X_OK)] == []
