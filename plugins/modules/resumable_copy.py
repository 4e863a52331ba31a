# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: resumable_copy
short_description: Copy a large file from the controller, in pieces that survive an interruption
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Copies one file from the controller to the managed host with the same guarantees as the download modules of this
    collection. It is what C(scp), C(rsync) or C(sftp) would be used for by hand.
  - The file goes over in pieces of 8 to 32 MiB, each with a checksum. A run that was killed, or whose connection broke,
    is continued by the next one with the pieces that are missing.
  - The final name is given only to a file whose SHA-256 is right, after its bytes are on the disk.
  - Where a file of the same size is there already, only the pieces in which it differs go over.
  - Where another file on the host is known to hold the same content, that one is linked or copied there.
  - Neither side reads a file again that has not changed since it was last read.
options:
  src:
    description:
      - The file on the controller. A relative path is looked for as by M(ansible.builtin.copy), in C(files/) first.
      - It is copied as it is. It is not decrypted when it is a vault.
    type: path
    required: true
  dest:
    description:
      - Where the file goes on the managed host, as a path, or as a folder when it is one or ends in a slash.
      - Folders that are missing are made.
      - Until the file is complete and verified it is called C(<name>.part), with its journal C(<name>.part.journal)
        beside it.
    type: path
    required: true
  sha256:
    description:
      - SHA-256 of the file, 64 hexadecimal digits. A file with another one is not copied.
      - Without it, what O(src) holds is right. It is read once for that, and again only after it was changed.
    type: str
  rate_limit:
    description:
      - The most bytes per second, such as V(500K) or V(5M).
    type: str
  verify:
    description:
      - How to see that a file that is there is the right one.
      - V(cached) believes what was verified before as long as device, inode, size and time of change are the same, and
        reads the file otherwise.
      - V(always) reads it. Where only a part of it is damaged, only that part goes over again.
    type: str
    choices:
      - cached
      - always
    default: cached
  pickle:
    description:
      - What to do with a file that is a Python pickle, which can run any program when it is loaded. Judged by the
        content, not by the name, and after the first piece.
      - V(deny) refuses it.
      - V(scan) refuses it unless picklescan calls it clean. That lowers the risk; it is no proof.
      - V(allow) accepts it. Do this only with a file that you trust.
    type: str
    choices:
      - deny
      - scan
      - allow
    default: deny
  picklescan:
    description:
      - The program for O(pickle=scan). By default it is looked for on the path and where the role
        P(secondhand.diffusion.model_fetch#role) puts it.
    type: path
  space_reserve:
    description:
      - How much stays free on the disk. A file that does not fit beside it is refused before its first byte.
    type: str
    default: 512M
  index:
    description:
      - Where the managed host remembers verified files, so that they need not be read again.
      - The default is V(/var/lib/secondhand-diffusion/files.sqlite3) for root and
        V(~/.local/state/secondhand.diffusion/files.sqlite3) for other users.
      - The controller remembers what it has read in C(secondhand.diffusion/files.sqlite3) below C(ANSIBLE_HOME).
    type: path
  progress:
    description:
      - Whether to show on the controller how far the copy is. V(auto) does so when Ansible writes to a terminal.
    type: str
    choices:
      - auto
      - always
      - never
    default: auto
  _copy:
    description: What the action plugin says to the module on the host. Not for tasks.
    type: dict
  _progress:
    description: Where the module tells the action plugin how far it is. Not for tasks.
    type: path
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  action:
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the
      controller.
    support: full
  async:
    description: Supports being used with the C(async) keyword.
    support: none
    details:
      - The controller has to be there to send the pieces. Reading the finished file, which takes longest on the host,
        is an asynchronous job by itself.
  check_mode:
    description: Can run in check mode and predict a change without making one.
    support: full
    details:
      - Reads the file on the controller, and one with the same size on the host, where they are not known yet.
  diff_mode:
    description: Returns what has changed, or would change in check mode, with diff mode on.
    support: full
    details:
      - Shows path, size and SHA-256 before and after; a model has no lines.
  idempotent:
    description: When run twice in a row with the same options, the second run reports no change.
    support: full
notes:
  - The pieces go through Ansible's temporary folder on the host, which has to have room for 256 MiB.
seealso:
  - module: secondhand.diffusion.url_download
  - module: ansible.builtin.copy
"""

EXAMPLES = r"""
- name: Copy a checkpoint into the model store
  secondhand.diffusion.resumable_copy:
    src: ~/models/v1-5-pruned-emaonly.safetensors
    dest: /srv/sd/models/checkpoint/
    owner: sd-webui
    group: sd-models
    mode: "0664"

- name: Copy one whose SHA-256 is known, without using up the line
  secondhand.diffusion.resumable_copy:
    src: /mnt/usb/anything-v3.safetensors
    dest: /srv/sd/models/checkpoint/anything.safetensors
    sha256: "{{ anything_sha256 }}"
    rate_limit: 5M
"""

RETURN = r"""
path:
  description: Where the file is.
  returned: success
  type: str
  sample: /srv/sd/models/checkpoint/v1-5-pruned-emaonly.safetensors
sha256:
  description: SHA-256 of the file.
  returned: success
  type: str
  sample: 6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa
size:
  description: Bytes of the file.
  returned: success
  type: int
  sample: 4265146304
downloaded_bytes:
  description: Bytes that came from the controller.
  returned: success
  type: int
  sample: 4265146304
resumed_bytes:
  description: Bytes that were on the host already, from an earlier run or from the file that was there.
  returned: success
  type: int
  sample: 0
seconds:
  description: How long it took.
  returned: success
  type: float
  sample: 61.5
base_model:
  description: The family of models that the file belongs to, as its header tells. Null where it is not known.
  returned: success
  type: str
  sample: SD 1.5
trained_words:
  description: Always empty, as a file does not tell them.
  returned: success
  type: list
  elements: str
  sample: []
source:
  description: Where the bytes came from. Null when the file was there.
  returned: success
  type: str
  sample: /home/user/models/v1-5-pruned-emaonly.safetensors
files:
  description: The file, with the same values.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /srv/sd/models/checkpoint/v1-5-pruned-emaonly.safetensors
      sha256: 6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa
      size: 4265146304
      changed: true
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.secondhand.diffusion.plugins.module_utils._copy import Copy
from ansible_collections.secondhand.diffusion.plugins.module_utils._download import argument_spec, run

# Of the options of all downloads, those that make sense where nothing is downloaded.
SHARED = (
    "dest",
    "sha256",
    "rate_limit",
    "verify",
    "pickle",
    "picklescan",
    "space_reserve",
    "index",
    "progress",
    "_progress",
)


def main() -> None:
    shared = argument_spec()
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            # What the action plugin has for the module; see _copy.py.
            "_copy": {"type": "dict"},
            **{name: shared[name] for name in SHARED},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    if module.params["_copy"] is None:
        module.fail_json(
            msg="resumable_copy was started without its action plugin, which sends the pieces: use it in a task, by its"
            " full name."
        )
    # The others are as if nobody had set them.
    module.params.update({name: option.get("default") for name, option in shared.items() if name not in SHARED})
    run(module, lambda downloads: Copy(module).run())


if __name__ == "__main__":
    main()
