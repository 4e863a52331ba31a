"""What an INI inventory or ``-e name=value`` gives is text, and no role specification converts it.

"false" is true where nobody asks for ``| bool``, and "20" * 1024 is long. So each variable that is specified as bool or
int has to be converted wherever an expression works with it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, nodes

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/tasks/main.yml"))
JINJA = Environment(trim_blocks=True, extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])

# Keywords whose value is an expression without braces.
CONDITIONS = {"when", "failed_when", "changed_when", "until", "that", "break_when"}
# What is below these is a value for later, not the parameter of a module, which would convert it.
VALUES = {"vars", "ansible.builtin.set_fact", "content"}
CONVERTING = {"bool": {"bool"}, "int": {"int", "float", "string", "quote"}}
# On the way to the conversion, these hand on what they get.
PASSING = {"default", "d", "mandatory", "trim"}


def typed_options(role: str) -> dict[str, str]:
    """The names of a role's switches and numbers, with their type."""
    entries = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text("utf-8"))["argument_specs"]
    return {
        name: option["type"]
        for entry in entries.values()
        for name, option in entry.get("options", {}).items()
        if option["type"] in CONVERTING
    }


def is_converted(parents: list[nodes.Node], name: nodes.Name, kind: str) -> bool:
    """Whether the first filter that does anything with the name is one that converts it."""
    inner: nodes.Node = name
    for parent in reversed(parents):
        if not isinstance(parent, nodes.Filter) or parent.node is not inner:
            return False
        if parent.name in CONVERTING[kind]:
            return True
        if parent.name not in PASSING:
            return False
        inner = parent
    return False


def names(node: nodes.Node, parents: list[nodes.Node]) -> Iterator[tuple[nodes.Name, list[nodes.Node]]]:
    """Every name of a template that is read, with the nodes it is in, the outermost first."""
    if isinstance(node, nodes.Name) and node.ctx == "load":
        yield node, parents
    for child in node.iter_child_nodes():
        yield from names(child, [*parents, node])


def found_in_template(text: str, kinds: dict[str, str], alone_is_fine: bool) -> set[str]:
    """The names that the template uses as they come."""
    with warnings.catch_warnings():
        # Ansible takes a backslash of a regular expression as it is.
        warnings.simplefilter("ignore", DeprecationWarning)
        template = JINJA.parse(text)
    # An expression and nothing around it hands on the value; anything else is text, where only a number looks the same.
    pieces = [piece for output in template.find_all(nodes.Output) for piece in output.nodes]
    alone = len(template.body) == 1 and len(pieces) == 1
    found = set()
    for name, parents in names(template, []):
        kind = kinds.get(name.name, "")
        if not kind or is_converted(parents, name, kind):
            continue
        parent = parents[-1]
        if isinstance(parent, nodes.Output) and (alone_is_fine if alone else kind == "int"):
            continue
        if kind == "int" and isinstance(parent, nodes.Concat):
            continue
        if isinstance(parent, nodes.Test) and parent.name in {"defined", "undefined"}:
            continue
        found.add(name.name)
    return found


def found_in_data(data: Any, kinds: dict[str, str], key: str, as_values: bool) -> set[str]:
    """The names that tasks, or variables, use as they come."""
    found: set[str] = set()
    if isinstance(data, dict):
        for name, value in data.items():
            found |= found_in_data(value, kinds, name, as_values or name in VALUES)
    elif isinstance(data, list):
        for value in data:
            found |= found_in_data(value, kinds, key, as_values)
    elif isinstance(data, str):
        bare = key in CONDITIONS and "{{" not in data
        found = found_in_template("{{ (" + data + ") }}" if bare else data, kinds, not (bare or as_values))
    return found


def found_in_file(path: Path, kinds: dict[str, str], folder: str) -> set[str]:
    """The names that one file of a role uses as they come."""
    text = path.read_text("utf-8")
    if folder == "templates":
        return found_in_template(re.sub(r"\A#jinja2:.*\n", "", text), kinds, alone_is_fine=False)
    return found_in_data(yaml.safe_load(text), kinds, "", as_values=folder == "vars")


@pytest.mark.parametrize("role", ROLES)
def test_switches_and_numbers_are_converted(role: str) -> None:
    kinds = typed_options(role)
    found = {}
    for folder in ("tasks", "handlers", "vars", "templates"):
        for path in sorted((ROOT / "roles" / role / folder).rglob("*.j2" if folder == "templates" else "*.yml")):
            used = found_in_file(path, kinds, folder)
            if used:
                found[str(path.relative_to(ROOT))] = sorted(f"{name} | {kinds[name]}" for name in used)
    assert found == {}


KINDS = {"switch": "bool", "number": "int"}


@pytest.mark.parametrize(
    "task",
    [
        "when: switch",
        "when: not switch",
        "when: [other, switch or other]",
        "until: number > 3",
        "when: not (other | length > 0 and switch)",
        "when: switch | default(false)",
        "failed_when: other | bool and switch",
        "m: {state: \"{{ 'present' if switch else 'absent' }}\"}",
        'm: {timeout: "{{ number * 2 }}"}',
        'm: {timeout: "{{ [number, 10] | max }}"}',
        'm: {line: "switch={{ switch }}"}',
        'vars: {other: "{{ switch }}"}',
        'ansible.builtin.set_fact: {other: "{{ number }}"}',
        'ansible.builtin.copy: {content: {port: "{{ number }}"}}',
        'ansible.builtin.assert: {that: ["number > 0"]}',
        "block: [{when: switch}]",
    ],
)
def test_a_value_as_it_comes_is_found(task: str) -> None:
    assert found_in_data(yaml.safe_load(task), KINDS, "", as_values=False) != set()


@pytest.mark.parametrize(
    "task",
    [
        "when: switch | bool",
        "when: not switch | bool",
        "when: switch | default(false) | bool",
        "until: number | int > 3",
        "when: other.switch",
        "when: switch is defined",
        'm: {enabled: "{{ switch }}", port: "{{ number }}"}',
        'm: {timeout: "{{ number | int * 2 }}"}',
        'm: {argv: ["--port={{ number }}"]}',
        "m: {msg: \"{{ 'port ' ~ number ~ '.' }}\"}",
        'vars: {other: "{{ switch | bool }}", url: "http://host:{{ number }}"}',
    ],
)
def test_a_converted_value_is_fine(task: str) -> None:
    assert found_in_data(yaml.safe_load(task), KINDS, "", as_values=False) == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{% if not switch %}\nx\n{% endif %}", {"switch"}),
        ("{% if not switch | bool %}\nx\n{% endif %}", set()),
        ("{% for i in range(number) %}\n{{ i }}\n{% endfor %}", {"number"}),
        ("port = {{ number }}\n", set()),
        ("on = {{ switch }}\n", {"switch"}),
        ("{{ {'port': number} | to_json }}\n", {"number"}),
        ("{% set other = switch %}", {"switch"}),
    ],
)
def test_templates(text: str, found: set[str]) -> None:
    assert found_in_template(text, KINDS, alone_is_fine=False) == found
