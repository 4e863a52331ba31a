"""Each role's defaults, argument specification, README and use of variables say the same thing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/tasks/main.yml"))

pytestmark = pytest.mark.parametrize("role", ROLES)


def read(role: str, name: str) -> dict[str, Any]:
    path = ROOT / "roles" / role / name
    assert path.is_file(), f"roles/{role}/{name} is missing"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def specification(role: str, entry: str = "main") -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = read(role, "meta/argument_specs.yml")["argument_specs"][entry].get(
        "options", {}
    )
    return options


def all_options(role: str) -> set[str]:
    """The options of every entry point: ``tasks_from`` may ask for some of its own."""
    return {
        name for entry in read(role, "meta/argument_specs.yml")["argument_specs"] for name in specification(role, entry)
    }


def tags(role: str) -> set[str]:
    lists = re.findall(r"\btags: *\[([^\]]*)\]", (ROOT / "roles" / role / "tasks/main.yml").read_text(encoding="utf-8"))
    return {tag.strip() for names in lists for tag in names.split(",")}


def facts(role: str) -> set[str]:
    """The facts that a role hands on to the plays around it."""

    def find(tasks: Any) -> set[str]:
        found: set[str] = set()
        for task in tasks if isinstance(tasks, list) else []:
            found |= set(task.get("ansible.builtin.set_fact", {}))
            for part in ("block", "rescue", "always"):
                found |= find(task.get(part))
        return found

    files = (ROOT / "roles" / role / "tasks").rglob("*.yml")
    return {
        name for path in files for name in find(yaml.safe_load(path.read_text("utf-8"))) if name.startswith(f"{role}_")
    }


def used_names(role: str) -> dict[str, str]:
    """Names that begin with a role's name, wherever the role could read a variable, and a file that uses each."""
    found: dict[str, str] = {}
    for folder in ("tasks", "handlers", "templates", "vars", "defaults"):
        for path in sorted((ROOT / "roles" / role / folder).rglob("*")):
            if path.is_file():
                # Tags begin with the role's name, too.
                text = re.sub(r"\btags: *\[[^\]]*\]", "", path.read_text(encoding="utf-8"))
                for name in re.findall(rf"(?<![\w./-])(?:{'|'.join(ROLES)})_[a-z0-9_]+\b(?!\.)", text):
                    found.setdefault(name, str(path.relative_to(ROOT)))
    return found


def test_defaults_and_specification_name_the_same_options(role: str) -> None:
    required = {
        name for name, option in specification(role).items() if option.get("required") and "default" not in option
    }
    assert set(read(role, "defaults/main.yml")) == set(specification(role)) - required


def is_no_value_of(kind: str, value: Any) -> bool:
    """An expression is a text, and documentation takes a text for neither of these."""
    return kind in ("bool", "dict", "float", "int") and isinstance(value, str) and "{{" in value


def test_defaults_and_specification_have_the_same_values(role: str) -> None:
    defaults = read(role, "defaults/main.yml")
    for name, option in specification(role).items():
        if is_no_value_of(option["type"], defaults.get(name)):
            # So the description has to tell where the default comes from.
            assert "default" not in option
            shared = re.findall(r"\bsecondhand_diffusion_[a-z_]+", defaults.pop(name))
            assert shared and all(each in str(option["description"]) for each in shared)
    specified = {name: option.get("default") for name, option in specification(role).items() if name in defaults}
    assert specified == defaults
    # 1 == true in Python, not in YAML.
    assert {name: type(value) for name, value in specified.items()} == {
        name: type(value) for name, value in defaults.items()
    }


def test_names_begin_with_the_role(role: str) -> None:
    assert [name for name in specification(role) if not name.startswith(f"{role}_")] == []
    internal = read(role, "vars/main.yml") if (ROOT / "roles" / role / "vars/main.yml").exists() else {}
    assert [name for name in internal if not name.startswith(f"_{role}_")] == []


def test_every_option_has_a_type_and_a_description(role: str) -> None:
    incomplete = [
        name for name, option in specification(role).items() if not (option.get("type") and option.get("description"))
    ]
    assert incomplete == []


def test_entry_point_has_a_description(role: str) -> None:
    entry = read(role, "meta/argument_specs.yml")["argument_specs"]["main"]
    assert entry.get("short_description") and entry.get("description")


def test_readme_names_every_option(role: str) -> None:
    readme = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    assert [name for name in specification(role) if not re.search(rf"\b{name}\b", readme)] == []


def test_readme_names_no_option_that_does_not_exist(role: str) -> None:
    readme = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    mentioned = set(re.findall(rf"`({role}_[a-z0-9_]+)`", readme))
    assert sorted(mentioned - all_options(role) - facts(role) - tags(role)) == []


def test_readme_names_every_fact_that_the_role_sets(role: str) -> None:
    readme = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    assert sorted(name for name in facts(role) if not re.search(rf"\b{name}\b", readme)) == []


def test_every_public_variable_that_is_used_is_an_option(role: str) -> None:
    used = {name: path for name, path in used_names(role).items() if name.startswith(f"{role}_")}
    assert {name: path for name, path in used.items() if name not in all_options(role) | facts(role)} == {}


def test_every_option_is_used(role: str) -> None:
    text = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("tasks", "handlers", "templates", "vars")
        for path in sorted((ROOT / "roles" / role / folder).rglob("*"))
        if path.is_file()
    )
    defaults = (ROOT / "roles" / role / "defaults/main.yml").read_text(encoding="utf-8")
    unused = [
        name
        for name in specification(role)
        # An option may also serve as part of another's default.
        if not re.search(rf"\b{name}\b", text) and len(re.findall(rf"\b{name}\b", defaults)) < 2
    ]
    assert unused == []


def test_no_variable_of_another_role_is_used(role: str) -> None:
    others = {name for other in ROLES if other != role for name in specification(other)}
    assert {name: path for name, path in used_names(role).items() if name in others} == {}
