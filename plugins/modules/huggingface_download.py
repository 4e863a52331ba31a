# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: huggingface_download
short_description: Download a file or a snapshot of a repository on Hugging Face
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Downloads one file of a repository, or all of its files that match some patterns, and checks each against the
    SHA-256 (large files) or the Git SHA-1 (small ones) that the hub states for it.
  - Does what a C(git clone) with Git LFS does, without the second copy below C(.git), and can be interrupted at any
    point.
  - The revision is resolved to a commit once, so all files of a snapshot belong together, and the result tells which
    commit that was.
  - A request that names its content, by a whole commit in O(revision) or by O(sha256), is answered without asking the
    hub when the files of the last run are still as they were.
options:
  repository:
    description:
      - The repository, such as V(lllyasviel/Annotators).
    type: str
    required: true
  repository_type:
    description:
      - What kind of repository it is.
    type: str
    choices:
      - model
      - dataset
      - space
    default: model
  revision:
    description:
      - A branch, a tag, or a whole commit of 40 digits. Only a commit names the same files tomorrow.
    type: str
    default: main
  file:
    description:
      - The path of one file in the repository. In a folder it gets the last part of the path as its name.
      - With O(sha256) it is also found when the hub cannot be asked, if it is there already or in one of O(mirrors).
      - Without it a snapshot is made, for which O(dest) is always a folder.
    type: str
  allow_patterns:
    description:
      - A snapshot has only files that match one of these patterns. The default is all.
      - As in C(huggingface_hub), V(*) matches V(/) too, a pattern that ends in V(/) means all below that folder, and
        case matters.
    type: list
    elements: str
  ignore_patterns:
    description:
      - A snapshot has no files that match one of these patterns.
      - Hidden files and folders, such as C(.gitattributes), are in no snapshot.
    type: list
    elements: str
  flatten:
    description:
      - Whether the files of a snapshot go straight into O(dest), without the folders that they have in the
        repository. Two files of one name are refused then.
    type: bool
    default: false
  endpoint:
    description:
      - Address of the hub, or of a mirror that answers as the hub does. The token is sent to this host alone.
      - The default is C(HF_ENDPOINT) in the environment of the host, or else V(https://huggingface.co).
    type: str
  unsafe:
    description:
      - Whether to V(refuse) a model's file in which the hub's own scanners have found something that does harm, or to
        V(allow) it.
      - What O(pickle) says holds all the same.
    type: str
    choices:
      - refuse
      - allow
    default: refuse
extends_documentation_fragment:
  - ansible.builtin.files
  - secondhand.diffusion.download
  - secondhand.diffusion.download.attributes
notes:
  - O(sha256) can be set together with O(file) only.
  - O(pickle) looks at the content of a file when it arrives, so a snapshot fails at the first pickle in it. Leave such
    files out with O(allow_patterns=["*.safetensors"]) or O(ignore_patterns).
  - When a file of a snapshot fails, the ones before it stay, and the next run goes on with it.
  - Files that a later commit no longer has are left alone.
"""

EXAMPLES = r"""
- name: One file, of whatever the branch holds today
  secondhand.diffusion.huggingface_download:
    repository: lllyasviel/ControlNet-v1-1
    file: control_v11p_sd15_canny.pth
    dest: /srv/sd/models/controlnet/
    pickle: scan

- name: One file, pinned, with a token for repositories that ask people to accept their terms
  secondhand.diffusion.huggingface_download:
    repository: stabilityai/sd-vae-ft-mse-original
    revision: "{{ vae_commit }}"
    file: vae-ft-mse-840000-ema-pruned.safetensors
    dest: /srv/sd/models/vae/
    token: "{{ huggingface_token }}"
    owner: sd-webui
    group: sd-models
    mode: "0664"

- name: All T2I-Adapters, without the repository's folders
  secondhand.diffusion.huggingface_download:
    repository: TencentARC/T2I-Adapter
    allow_patterns:
      - models/*.safetensors
    flatten: true
    dest: /srv/sd/models/controlnet/

- name: Everything that a repository has, from a mirror in the LAN
  secondhand.diffusion.huggingface_download:
    repository: h94/IP-Adapter
    ignore_patterns:
      - "*.bin"
    dest: /srv/sd/models/ip-adapter/
    endpoint: http://192.168.1.10:8190
"""

RETURN = r"""
path:
  description: Where the file is, or the folder of a snapshot.
  returned: success
  type: str
  sample: /srv/sd/models/checkpoint/v1-5-pruned-emaonly.safetensors
sha256:
  description: SHA-256 of the file. Null for a snapshot of several files, and in check mode where nothing tells it.
  returned: success
  type: str
  sample: 6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa
size:
  description: Bytes of all files together.
  returned: success
  type: int
  sample: 4265146304
commit:
  description:
    - The commit that O(revision) stood for when the hub was asked last, which with O(sha256) can be some time ago. Null
      when it could not be asked, and a file with O(sha256) was there or came from one of O(mirrors).
  returned: success
  type: str
  sample: 0123456789abcdef0123456789abcdef01234567
revision:
  description: The revision that was asked for.
  returned: success
  type: str
  sample: main
downloaded_bytes:
  description: Bytes that came over the network.
  returned: success
  type: int
  sample: 4265146304
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
  description: The base model in Civitai's words, as the file's header tells. Null where it is not known and for several
    files.
  returned: success
  type: str
  sample: SD 1.5
trained_words:
  description: Always empty, as the hub knows no such words.
  returned: success
  type: list
  elements: str
  sample: []
source:
  description: Where the file came from, without what a log should not show. Null when everything was there.
  returned: success
  type: str
  sample: https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5
format:
  description: What kind of file it is, by its content. Null for several files, and in check mode for what would come.
  returned: success
  type: str
  sample: safetensors
files:
  description: The files, with the same values for each.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /srv/sd/models/checkpoint/v1-5-pruned-emaonly.safetensors
      sha256: 6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa
      size: 4265146304
      changed: true
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.secondhand.diffusion.plugins.module_utils import _huggingface as huggingface
from ansible_collections.secondhand.diffusion.plugins.module_utils._download import (
    Downloads,
    FileResult,
    argument_spec,
    run,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError
from ansible_collections.secondhand.diffusion.plugins.module_utils._model_format import FormatError
from ansible_collections.secondhand.diffusion.plugins.module_utils._transfer import Wanted

MIB = 1024 * 1024


class Request:
    """What one task asks for."""

    def __init__(self, downloads: Downloads, repository: huggingface.Repository) -> None:
        self.downloads = downloads
        self.params: dict[str, Any] = downloads.params
        self.repository = repository
        self.hub = huggingface.Hub(downloads.client, repository, self.params["revision"])

    def file(self) -> tuple[list[FileResult], dict[str, Any]]:
        path: str = self.params["file"]
        target = self.downloads.target(path)
        try:
            revision = self.hub.revision()
            file = self.hub.file(revision.commit, path)
        except DownloadError as exc:
            # The SHA-256 says what is wanted, so that the hub is only one of those who may have it.
            if not self.params["sha256"] or not (self.params["mirrors"] or os.path.exists(target)):
                raise
            self.downloads.warn(f"{exc} Went on with sha256 alone.")
            wanted = self.hub.by_hash(path, target, self.params["sha256"])
            return [self.downloads.have(wanted)], self._facts(None)
        self._refuse_unsafe([file], revision)
        wanted = self.hub.wanted(file, revision.commit, target, self.params["sha256"])
        return [self.downloads.have(wanted)], self._facts(revision.commit)

    def snapshot(self) -> tuple[list[FileResult], dict[str, Any]]:
        dest: str = self.params["dest"]
        if os.path.exists(dest) and not os.path.isdir(dest):
            raise DownloadError(f"{dest} is a file, and a snapshot needs a folder: correct dest, or set file.")
        revision = self.hub.revision()
        listed = self.hub.files(revision.commit)
        files = huggingface.chosen(listed, self.params["allow_patterns"], self.params["ignore_patterns"])
        if not files:
            examples = ", ".join(file.path for file in listed[:5])
            raise DownloadError(
                f"The patterns leave no file of {self.repository}, which has {examples or 'none at all'}: correct "
                "allow_patterns and ignore_patterns."
            )
        named = huggingface.names_in(files, self.params["flatten"])
        self._refuse_unsafe(files, revision)
        wanted = [self.hub.wanted(file, revision.commit, os.path.join(dest, name)) for file, name in named]
        self._refuse_without_space(wanted)
        self.downloads.progress.files = len(wanted)
        results = []
        for number, (file, order) in enumerate(zip(files, wanted), 1):
            self.downloads.progress.file = number
            try:
                results.append(self.downloads.have(order))
            except (DownloadError, FormatError) as exc:
                raise DownloadError(f'File {number} of {len(wanted)}, "{file.path}": {exc}') from exc
        came = any(result.changed for result in results)
        source = self.repository.page if came else None
        return results, {**self._facts(revision.commit), "path": dest, "source": source}

    def _facts(self, commit: str | None) -> dict[str, Any]:
        return {"commit": commit, "revision": self.params["revision"]}

    def _refuse_unsafe(self, files: list[huggingface.HubFile], revision: huggingface.Revision) -> None:
        found = [file.path for file in files if file.path in revision.unsafe]
        if found and self.params["unsafe"] == "refuse":
            raise DownloadError(
                f'The scanners of the hub call "{found[0]}" of {self.repository} unsafe: take another file, leave it '
                "out with ignore_patterns, or set unsafe to allow if you know better."
            )

    def _refuse_without_space(self, wanted: list[Wanted]) -> None:
        """All files of a snapshot together; have() looks at each one by itself."""
        if self.downloads.check_mode:
            return
        needed = sum(
            missing_bytes(order) for order in wanted if not self.downloads.index.paths_with(order.sha256 or "")
        )
        folder = nearest_folder(self.params["dest"])
        status = os.statvfs(folder)
        free, reserve = status.f_bavail * status.f_frsize, self.downloads.limits.reserve
        if needed and needed + reserve > free:
            raise DownloadError(
                f"{folder} has {free // MIB} MiB free, the snapshot needs {-(-needed // MIB)} MiB more and "
                f"{reserve // MIB} MiB shall stay free: make room, choose fewer files, or lower space_reserve."
            )


def missing_bytes(wanted: Wanted) -> int:
    """What has to come, as far as sizes tell."""
    size = wanted.size or 0
    if os.path.isfile(wanted.path) and os.path.getsize(wanted.path) == size:
        return 0
    part = f"{wanted.path}.part"
    return max(0, size - (os.stat(part).st_blocks * 512 if os.path.exists(part) else 0))


def nearest_folder(path: str) -> str:
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def main() -> None:
    module = AnsibleModule(
        argument_spec=argument_spec(
            repository={"type": "str", "required": True},
            repository_type={"type": "str", "choices": list(huggingface.TYPES), "default": "model"},
            revision={"type": "str", "default": "main"},
            file={"type": "str"},
            allow_patterns={"type": "list", "elements": "str"},
            ignore_patterns={"type": "list", "elements": "str"},
            flatten={"type": "bool", "default": False},
            endpoint={"type": "str"},
            unsafe={"type": "str", "choices": ["refuse", "allow"], "default": "refuse"},
        ),
        mutually_exclusive=[("file", "allow_patterns"), ("file", "ignore_patterns")],
        required_by={"sha256": ("file",)},
        add_file_common_args=True,
        supports_check_mode=True,
    )
    params = module.params
    try:
        repository = huggingface.Repository(
            huggingface.check_repository(params["repository"]),
            params["repository_type"],
            huggingface.endpoint(params["endpoint"], os.environ),
            token=bool(params["token"]),
        )
        huggingface.check_file(params["file"])
    except DownloadError as exc:
        module.fail_json(msg=str(exc))

    def work(downloads: Downloads) -> None:
        key = huggingface.request_key(params)
        downloads.exit_if_known(key)
        request = Request(downloads, repository)
        results, facts = request.file() if params["file"] else request.snapshot()
        downloads.exit(results, key, **facts)

    hub = (repository.endpoint,)
    run(module, work, hosts=huggingface.HOSTS, configured=hub, token_for=hub)


if __name__ == "__main__":
    main()
