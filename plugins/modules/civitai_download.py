# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: civitai_download
short_description: Download a model from Civitai
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Downloads one file of one version of a model, and checks it against the SHA-256 that Civitai states for it.
  - Puts the files beside it by which web UIs know a model, with its trigger words and a picture.
  - A file that Civitai's scanners call dangerous is never downloaded.
  - A request that names its content (O(version_id), O(hash), O(air) with a version, or O(sha256)) is answered without
    asking the hub when the files of the last run are still as they were.
options:
  model_id:
    description:
      - Number of a model, as in C(https://civitai.com/models/4384).
      - Takes the version that Civitai lists first, which is the one that the model's page shows, and with most models
        the newest. It can be another one tomorrow. O(version_name) chooses another version.
      - Exactly one of O(model_id), O(version_id), O(air) and O(hash) is needed. One number can be both a model's and a
        version's.
    type: int
  version_id:
    description:
      - Number of a version, as in C(https://civitai.com/models/4384?modelVersionId=128713).
    type: int
  air:
    description:
      - An AIR, the name that Civitai's pages offer to copy, such as V(urn:air:sdxl:checkpoint:civitai:827184@2514310).
      - It may also name the file and its format, as in V(urn:air:sdxl:checkpoint:civitai:827184@2514310+2402203).
        Without a version it is like O(model_id).
    type: str
  hash:
    description:
      - A hash of the file, of any kind that Civitai knows (AutoV1, AutoV2, AutoV3, SHA256, BLAKE3, CRC32). The ten
        digits that web UIs show are an AutoV2.
    type: str
  version_name:
    description:
      - Name of the version among those of the model, in upper or lower case. For O(model_id), and for O(air) without a
        version.
    type: str
  file_id:
    description:
      - Number of the file. A version can have several files, even under one name, and this one option is always clear.
      - Without any of the O(file_id), O(file_type), O(file_format), O(file_size) and O(fp) options it is the version's
        main file. Where that is a pickle and the same is there as safetensors, it is the latter.
      - When the options fit no file, or more than one, the module fails and lists the files that there are.
    type: int
  file_type:
    description:
      - Only files of this type, such as V(Model), V(Pruned Model), V(VAE), V(Config) or V(Training Data).
    type: str
  file_format:
    description:
      - Only files of this format, such as V(SafeTensor), V(PickleTensor), V(GGUF) or V(Other).
    type: str
  file_size:
    description:
      - Only the whole model, or only the one without what nobody needs for making pictures.
    type: str
    choices:
      - full
      - pruned
  fp:
    description:
      - Only files of this precision, such as V(fp16), V(fp32), V(bf16) or V(fp8).
    type: str
  base_urls:
    description:
      - Addresses of the hub, in the order in which they are asked. The next one is asked when one is down, does not
        have the model, or does not serve the region of the managed host.
      - Civitai has V(https://civitai.com), V(https://civitai.green) for what suits all ages, and
        V(https://civitai.red) for everything. The numbers of models and versions are the same at all of them, and API
        keys are meant to be. Which of them has which model has changed since they were split in April 2026, so name a
        second one for a model that the first one does not have.
      - The token is sent to these hosts alone.
    type: list
    elements: str
    default:
      - https://civitai.com
  scan_pending:
    description:
      - Whether to V(refuse) a file that Civitai's scanners have not looked at yet, or could not, or to V(allow) it.
      - O(pickle) holds all the same, and a file that they call dangerous is refused in any case.
    type: str
    choices:
      - refuse
      - allow
    default: refuse
  sidecar:
    description:
      - Whether to write what Civitai tells about the version into C(<name>.civitai.info) beside the model, where
        extensions such as Civitai Helper look for it.
      - A file that describes this version already is left alone, also when a person has changed it, or when the
        numbers on the site are others by now. One that describes another version is replaced.
    type: bool
    default: true
  preview:
    description:
      - Whether to put the version's first picture beside the model, as C(<name>.preview.png) or with another ending
        that fits. Never a video.
      - A picture that is there is left alone. When none can be had, a warning says so.
    type: bool
    default: true
extends_documentation_fragment:
  - ansible.builtin.files
  - secondhand.diffusion.download
  - secondhand.diffusion.download.attributes
notes:
  - Civitai wants an API key for most downloads, which everybody gets at U(https://civitai.com/user/account). Set
    O(token) to it.
  - O(sha256) replaces the SHA-256 that Civitai states, which has been wrong for some files.
  - In a folder, the file gets the name that Civitai gives it. When another file of the version has that name too, and
    this one is not the main file, its number is put before the ending, so that both can lie there.
  - Owner, group and mode apply to the files beside the model as well.
seealso:
  - module: secondhand.diffusion.huggingface_download
  - module: secondhand.diffusion.url_download
"""

EXAMPLES = r"""
- name: A checkpoint, pinned to a version
  secondhand.diffusion.civitai_download:
    version_id: 128713
    dest: /srv/sd/models/checkpoint/
    token: "{{ civitai_token }}"

- name: The newest version of a model
  secondhand.diffusion.civitai_download:
    model_id: 4384
    dest: /srv/sd/models/checkpoint/
    token: "{{ civitai_token }}"

- name: What a web UI shows as 879db523c3
  secondhand.diffusion.civitai_download:
    hash: 879db523c3
    dest: /srv/sd/models/checkpoint/
    token: "{{ civitai_token }}"

- name: By its AIR, the variant for little memory, under a name of one's own, writable for the group
  secondhand.diffusion.civitai_download:
    air: urn:air:sdxl:checkpoint:civitai:827184@2514310
    file_size: pruned
    fp: fp16
    dest: /srv/sd/models/checkpoint/illustrious.safetensors
    token: "{{ civitai_token }}"
    group: sd-models
    mode: "0664"

- name: Ask the second address where the first one does not have it, and a machine in the LAN before both
  secondhand.diffusion.civitai_download:
    version_id: 128713
    dest: /srv/sd/models/checkpoint/
    base_urls:
      - https://civitai.com
      - https://civitai.red
    mirrors:
      - http://192.168.1.10:8190/by-sha256
    token: "{{ civitai_token }}"
"""

RETURN = r"""
path:
  description: Where the file is.
  returned: success
  type: str
  sample: /srv/sd/models/checkpoint/dreamshaper_8.safetensors
sha256:
  description: SHA-256 of the file.
  returned: success
  type: str
  sample: 879db523c30d3b9017143d56705015e15a2cb5628762c11d086fed9538abd7fd
size:
  description: Bytes of the file. In check mode, what Civitai says, which can be rounded.
  returned: success
  type: int
  sample: 2132625894
downloaded_bytes:
  description: Bytes that came over the network.
  returned: success
  type: int
  sample: 2132625894
resumed_bytes:
  description: Bytes that an earlier, interrupted run had left.
  returned: success
  type: int
  sample: 0
seconds:
  description: How long it took.
  returned: success
  type: float
  sample: 61.5
base_model:
  description: The base model in Civitai's words, else as the file's header tells. Null where it is not known.
  returned: success
  type: str
  sample: SD 1.5
trained_words:
  description: The words that bring out what a LoRA or an embedding has learned.
  returned: success
  type: list
  elements: str
  sample: []
source:
  description: Where the file came from, without what a log should not show. Null when it was there.
  returned: success
  type: str
  sample: https://civitai.com/api/download/models/128713
format:
  description: What kind of file it is, by its content.
  returned: success
  type: str
  sample: safetensors
model_id:
  description: Number of the model.
  returned: success, when Civitai was or had been asked
  type: int
  sample: 4384
model_name:
  description: Name of the model.
  returned: success, when Civitai was or had been asked
  type: str
  sample: DreamShaper
version_id:
  description: Number of the version.
  returned: success, when Civitai was or had been asked
  type: int
  sample: 128713
version_name:
  description: Name of the version.
  returned: success, when Civitai was or had been asked
  type: str
  sample: "8"
file_id:
  description: Number of the file.
  returned: success, when Civitai was or had been asked
  type: int
  sample: 2402203
air:
  description: The version's AIR. Null where Civitai does not tell it.
  returned: success, when Civitai was or had been asked
  type: str
  sample: urn:air:sd1:checkpoint:civitai:4384@128713
sidecar:
  description: The file with what Civitai tells. Null without O(sidecar).
  returned: success, when Civitai was or had been asked
  type: str
  sample: /srv/sd/models/checkpoint/dreamshaper_8.civitai.info
preview:
  description: The picture. Null without O(preview), and when there is none.
  returned: success, when Civitai was or had been asked
  type: str
  sample: /srv/sd/models/checkpoint/dreamshaper_8.preview.jpeg
files:
  description: The file, with the same values.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /srv/sd/models/checkpoint/dreamshaper_8.safetensors
      sha256: 879db523c30d3b9017143d56705015e15a2cb5628762c11d086fed9538abd7fd
      size: 2132625894
      changed: true
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai import (
    HOSTS,
    Civitai,
    foreseen,
    request_key,
    sources,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_request import HUB, bases, request_of
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_sidecar import Sidecars, are_there
from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_version import (
    Version,
    check_scans,
    choose_file,
    expected_sha256,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._download import (
    Downloads,
    FileResult,
    argument_spec,
    run,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError
from ansible_collections.secondhand.diffusion.plugins.module_utils._transfer import Wanted


class CivitaiDownload:
    def __init__(self, downloads: Downloads, base_urls: tuple[str, ...]) -> None:
        self.downloads = downloads
        self.params = downloads.params
        self.base_urls = base_urls
        self.has_token = bool(self.params["token"])

    def run(self) -> None:
        asked = request_of(self.params)
        key = request_key(self.params)
        known = self.downloads.recall(key) if key else None
        if known and self._has_all_beside(known):
            self.downloads.exit_known(known)
        civitai = Civitai(self.downloads.client, self.base_urls, self.has_token)
        version = civitai.version(asked)
        file = choose_file(version, asked)
        check_scans(version, file, self.params["scan_pending"])
        wanted = Wanted(
            path=self.downloads.target(version.file_name(file)),
            sources=sources(version, file, civitai.base_urls, self.has_token),
            sha256=expected_sha256(version, file, self.params["sha256"]),
        )
        result = self.downloads.have(wanted)
        if self.downloads.check_mode and result.changed:
            self._look_ahead(civitai, version)
        if result.size is None and file.size_kb:
            result.size = round(file.size_kb * 1024)
        result.base_model = version.base_model or result.base_model
        self._exit(version, file.id, result, wanted.path, key)

    def _has_all_beside(self, known: dict[str, Any]) -> bool:
        beside = [path for path in (known["sidecar"], known["preview"]) if path]
        return are_there(beside) and not any(self.downloads.would_change_attributes(path) for path in beside)

    def _look_ahead(self, civitai: Civitai, version: Version) -> None:
        """A check does not ask for the file, so what its address would answer comes from elsewhere."""
        obstacle = foreseen(version, civitai.mini(version), self.has_token)
        if obstacle:
            self.downloads.warn(obstacle)

    def _exit(
        self, version: Version, file_id: int | None, result: FileResult, path: str, key: dict[str, Any] | None
    ) -> None:
        sidecars = Sidecars(self.downloads, path, version.answer)
        beside = {
            "sidecar": sidecars.write_info() if self.params["sidecar"] else None,
            "preview": sidecars.write_preview() if self.params["preview"] else None,
        }
        self.downloads.exit(
            [result],
            # Remembered, a picture that could not be had for the moment would never come.
            key if sidecars.complete else None,
            changed=sidecars.changed,
            trained_words=list(version.trained_words),
            model_id=version.model_id,
            model_name=version.model_name,
            version_id=version.id,
            version_name=version.name,
            file_id=file_id,
            air=version.air,
            **beside,
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec=argument_spec(
            model_id={"type": "int"},
            version_id={"type": "int"},
            air={"type": "str"},
            hash={"type": "str"},
            version_name={"type": "str"},
            file_id={"type": "int"},
            file_type={"type": "str"},
            file_format={"type": "str"},
            file_size={"type": "str", "choices": ["full", "pruned"]},
            fp={"type": "str"},
            base_urls={"type": "list", "elements": "str", "default": [HUB]},
            scan_pending={"type": "str", "choices": ["refuse", "allow"], "default": "refuse"},
            sidecar={"type": "bool", "default": True},
            preview={"type": "bool", "default": True},
        ),
        add_file_common_args=True,
        mutually_exclusive=[("model_id", "version_id", "air", "hash")],
        required_one_of=[("model_id", "version_id", "air", "hash")],
        supports_check_mode=True,
    )
    try:
        base_urls = bases(module.params["base_urls"])
    except DownloadError as exc:
        module.fail_json(msg=str(exc))
    run(
        module,
        lambda downloads: CivitaiDownload(downloads, base_urls).run(),
        hosts=HOSTS,
        configured=base_urls,
        token_for=base_urls,
    )


if __name__ == "__main__":
    main()
