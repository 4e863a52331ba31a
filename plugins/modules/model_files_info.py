# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_files_info
short_description: Tell which downloads are in place already
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Answers for a whole list of downloads at once which of them a module of this collection has brought to this host
    before and are still as they were. Nobody is asked over the network and no file is read, so a hundred models take
    no longer than one.
  - What is not pinned, such as the newest version of a model, is never reported as present, because only the hub knows
    whether there is something newer.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.files
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  requests:
    description:
      - The downloads, each with C(source) (V(civitai), V(huggingface) or V(url)) and the options that
        M(secondhand.diffusion.civitai_download), M(secondhand.diffusion.huggingface_download) or
        M(secondhand.diffusion.url_download) is given for it.
    type: list
    elements: dict
    required: true
  index:
    description:
      - Where verified files are remembered, as in the modules that download them.
    type: path
notes:
  - A file whose owner, group or mode differ from what this module is given counts as not present, so that the
    module that fetches it repairs that.
"""

EXAMPLES = r"""
- name: See what is there
  secondhand.diffusion.model_files_info:
    requests:
      - source: civitai
        version_id: 128713
        dest: /srv/sd/models/checkpoint/
      - source: url
        url: https://example.org/model.safetensors
        sha256: "{{ sha256 }}"
        dest: /srv/sd/models/lora/
  register: models

- name: Count what is missing
  ansible.builtin.debug:
    msg: "{{ models.files | rejectattr('present') | length }} are missing."
"""

RETURN = r"""
files:
  description: One entry for each request, in the same order.
  returned: always
  type: list
  elements: dict
  contains:
    present:
      description: Whether the download is in place.
      type: bool
    path:
      description: Where the file is, or the folder of several files. Null when the download is not in place.
      type: str
    sha256:
      description: SHA-256 of a single file. Null when the download is not in place.
      type: str
    paths:
      description: All files of the download. Empty when it is not in place.
      type: list
      elements: str
"""

from collections.abc import Mapping
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.validation import check_type_bool, check_type_int, check_type_path
from ansible_collections.secondhand.diffusion.plugins.module_utils import _civitai, _huggingface, _url
from ansible_collections.secondhand.diffusion.plugins.module_utils._attributes import would_change
from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import FileIndex

KEYS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "civitai": _civitai.request_key,
    "huggingface": _huggingface.request_key,
    "url": _url.request_key,
}
NUMBERS = ("model_id", "version_id", "file_id")
SWITCHES = ("sidecar", "preview", "flatten")
LISTS = ("allow_patterns", "ignore_patterns")
ABSENT: dict[str, Any] = {"present": False, "path": None, "sha256": None, "paths": []}


def look(module: AnsibleModule, index: FileIndex, request: Mapping[str, Any]) -> dict[str, Any]:
    """What is known about one request."""
    key = KEYS[request["source"]](typed(request))
    answer = index.recall(key) if key is not None else None
    if answer is None:
        return ABSENT
    paths = [file["path"] for file in answer["files"]]
    if any(would_change(module, path) for path in paths):
        return ABSENT
    return {"present": True, "path": answer["path"], "sha256": answer["sha256"], "paths": paths}


def typed(request: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the module that downloads gets them: a template makes a text of each number."""
    values = {name: value for name, value in request.items() if value is not None}
    for name, value in values.items():
        if name in NUMBERS:
            values[name] = check_type_int(value)
        elif name in SWITCHES:
            values[name] = check_type_bool(value)
        elif name == "dest":
            values[name] = check_type_path(value)
        elif name not in LISTS:
            values[name] = str(value)
    return values


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "requests": {"type": "list", "elements": "dict", "required": True},
            "index": {"type": "path"},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    for number, request in enumerate(module.params["requests"], 1):
        if request.get("source") not in KEYS or not isinstance(request.get("dest"), str):
            module.fail_json(
                msg=f"requests, number {number}, needs a source ({', '.join(KEYS)}) and a dest: add what is missing."
            )
    index = FileIndex(module.params["index"], read_only=True)
    files = []
    for number, request in enumerate(module.params["requests"], 1):
        try:
            files.append(look(module, index, request))
        except (TypeError, KeyError) as exc:
            module.fail_json(msg=f"requests, number {number}, lacks an option or has one of the wrong kind: {exc}.")
    if index.problem:
        module.warn(index.problem)
    module.exit_json(changed=False, files=files)


if __name__ == "__main__":
    main()
