# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what ControlNet shall follow to the files that have to be in the model store."""

from __future__ import annotations

DOCUMENTATION = r"""
name: controlnet
short_description: The models and annotators that ControlNet needs for a list of preprocessors
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Joins the names of preprocessors, those of ControlNet 1.0 or today's, with a table of models and annotators.
  - A card with little memory gets the small model of a preprocessor where the table has one.
positional: table
options:
  _input:
    description:
      - Names of preprocessors, as a list or separated by commas.
    type: list
    elements: str
    required: true
  table:
    description:
      - The table, as in C(vars/controlnet.yml) of role C(sd_webui).
    type: dict
    required: true
  memory_mib:
    description:
      - The card's memory; V(0) when there is no card, which is not little but the PC's own memory.
    type: int
    default: 0
  builtin:
    description:
      - Whether ControlNet is the one that is built into Forge, and not the extension.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: What has to be downloaded for a GTX 750 Ti
  ansible.builtin.debug:
    msg: "{{ ['openpose', 'canny'] | secondhand.diffusion.controlnet(_sd_webui_controlnet, memory_mib=2048) }}"
"""

RETURN = r"""
_value:
  description:
    - What follows from the names.
  type: dict
  contains:
    models:
      description:
        - The files, each once, with C(type) (V(controlnet) or V(annotator)), C(name) (the path below the store's folder
          of that type), C(repository) and C(file) on Hugging Face, C(needed_by), C(pickle) (whether loading it could
          run code), and C(revision) (the repository's commit), C(size_mb) and C(sha256) where they are known.
      type: list
      elements: dict
    pairs:
      description:
        - For each name, today's name of the preprocessor and the model that goes with it.
      type: list
      elements: dict
    notes:
      description:
        - Sentences about models that may be too large for the card.
      type: list
      elements: str
    problems:
      description:
        - Sentences about names that cannot be used; such names are left out of the rest.
      type: list
      elements: str
"""

from typing import Any

# What holds no code: everything else is opened with Python's pickle.
WITHOUT_CODE = (".safetensors", ".onnx")


def listed(names: list[str]) -> str:
    """For a sentence: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def usable_names(table: dict[str, Any], builtin: bool) -> list[str]:
    """All names that can be used, the guide's first."""
    names = dict.fromkeys([*table["guide"], *table["preprocessors"]])
    return [name for name in names if is_usable(table, name, builtin)]


def is_usable(table: dict[str, Any], name: str, builtin: bool) -> bool:
    """Is it a preprocessor that this ControlNet has?"""
    preprocessor = table["preprocessors"].get(table["renamed"].get(name, name))
    return preprocessor is not None and (not builtin or preprocessor.get("builtin", True))


def model_of(preprocessor: dict[str, Any], small: bool) -> str:
    """The model that goes with a preprocessor; of some there is only the large one or only the small one."""
    first, second = ("adapter", "control") if small else ("control", "adapter")
    name: str = preprocessor.get(first) or preprocessor[second]
    return name


def entry(kind: str, key: str, table: dict[str, Any], builtin: bool) -> dict[str, Any]:
    """A file of the list, as yet needed by nobody."""
    source: dict[str, Any] = table["models" if kind == "controlnet" else "annotators"][key]
    known = {"revision": table["revisions"].get(source["repository"]), **source}
    made: dict[str, Any] = {
        "type": kind,
        "name": source.get("builtin_name", key) if builtin else key,
        "repository": source["repository"],
        "file": source.get("file", key),
        "needed_by": [],
        "pickle": not key.endswith(WITHOUT_CODE),
    }
    return {**made, **{name: known[name] for name in ("revision", "size_mb", "sha256") if known.get(name)}}


def controlnet(
    names: list[str] | str, table: dict[str, Any], memory_mib: int = 0, builtin: bool = False
) -> dict[str, Any]:
    """See RETURN."""
    # An INI inventory knows no lists.
    asked = names.replace(",", " ").split() if isinstance(names, str) else [str(name) for name in names]
    asked = list(dict.fromkeys(asked))
    small = 0 < memory_mib <= table["small_card_mib"]
    known = [name for name in asked if is_usable(table, name, builtin)]
    unknown = [f'"{name}"' for name in asked if name not in known]
    files: dict[str, dict[str, Any]] = {}
    pairs = []
    too_large: dict[str, list[str]] = {}
    for name in known:
        today = table["renamed"].get(name, name)
        preprocessor = table["preprocessors"][today]
        model = model_of(preprocessor, small)
        pairs.append({"name": name, "preprocessor": today, "model": model})
        if small and model == preprocessor.get("control"):
            too_large.setdefault(model, []).append(name)
        wanted = [("controlnet", model), *(("annotator", path) for path in preprocessor.get("annotators", []))]
        for kind, key in wanted:
            files.setdefault(key, entry(kind, key, table, builtin))["needed_by"].append(name)
    notes = [
        f"{listed(needed_by)}: there is no small model, and {model} ({table['models'][model]['size_mb']} MB, used at "
        f'every step) may not fit into {memory_mib} MiB; when the card runs out of memory, use "sd-profile cpu".'
        for model, needed_by in too_large.items()
    ]
    problems = []
    if unknown:
        problems.append(
            f"sd_webui_controlnet names {listed(unknown)}, which is no preprocessor of this ControlNet; use "
            f"{', '.join(usable_names(table, builtin))} (docs/controlnet.md)."
        )
    return {"models": list(files.values()), "pairs": pairs, "notes": notes, "problems": problems}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"controlnet": controlnet}
