# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: url_download
short_description: Download a model from any link
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Downloads a file over several connections at once, checks its SHA-256 on the way, and goes on where it stopped when
    it was interrupted at any point.
  - Looks at what comes. A login page, an error message or a Git LFS pointer does not become a model, a safetensors
    file must be whole, and a pickle is refused unless O(pickle) says otherwise.
  - A file whose SHA-256 is known and that is still as the last run left it costs no request and no reading.
options:
  url:
    description:
      - Address of the file, with V(https://) or V(http://), or V(file:///) for a file of the managed host.
      - In a folder, the file gets the name that the server tells in C(Content-Disposition), made safe. Without one it
        gets the last part of the address.
      - An address stands in logs and in the output of Ansible, so a secret belongs in O(token) and not in here.
    type: str
    required: true
  sha256:
    description:
      - SHA-256 of the file, 64 hexadecimal digits. A file with another one never gets the final name.
      - V(none) says that you do not know it. Then the file is only as trustworthy as its server and the way from there.
        Each run asks the server whether size and C(ETag) are still the same, and downloads the file again when they are
        not. The SHA-256 of what has come is in the result, to be written here.
    type: str
    required: true
  token:
    description:
      - Access token, sent as C(Authorization) with the word C(Bearer) to the host, the port and the protocol of O(url)
        alone, never to an address that it redirects to.
    type: str
extends_documentation_fragment:
  - ansible.builtin.files
  - secondhand.diffusion.download
  - secondhand.diffusion.download.attributes
notes:
  - A redirect may lead to any public host by https, and to another address only when its origin is that of O(url) or
    stands in O(allowed_hosts).
  - The page of a file on Hugging Face or GitHub is not the file. The error says which address is.
seealso:
  - module: secondhand.diffusion.civitai_download
  - module: secondhand.diffusion.huggingface_download
  - module: ansible.builtin.get_url
"""

EXAMPLES = r"""
- name: Download a model whose SHA-256 is known
  secondhand.diffusion.url_download:
    url: https://example.org/models/my-model.safetensors
    sha256: "{{ my_model_sha256 }}"
    dest: /srv/sd/models/checkpoint/
    owner: sd-webui
    group: sd-models
    mode: "0664"

- name: Download a file of which nobody tells a SHA-256
  secondhand.diffusion.url_download:
    url: https://example.org/upscalers/latest.safetensors
    sha256: none
    dest: /srv/sd/models/upscaler/latest.safetensors

- name: Download from a server of your own that asks for a token
  secondhand.diffusion.url_download:
    url: https://models.example.org/private/my-lora.safetensors
    sha256: "{{ my_lora_sha256 }}"
    dest: /srv/sd/models/lora/
    token: "{{ models_token }}"

- name: Take a model from a disk that is mounted on the host
  secondhand.diffusion.url_download:
    url: file:///media/usb/my-model.safetensors
    sha256: none
    dest: /srv/sd/models/checkpoint/
"""

RETURN = r"""
path:
  description: Where the file is.
  returned: success
  type: str
  sample: /srv/sd/models/checkpoint/my-model.safetensors
sha256:
  description: SHA-256 of the file. Null in check mode with O(sha256=none) when the file is not there.
  returned: success
  type: str
  sample: 6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa
size:
  description: Bytes of the file. Null in check mode where the server does not tell it.
  returned: success
  type: int
  sample: 4265146304
downloaded_bytes:
  description: Bytes that came over the network.
  returned: success
  type: int
  sample: 4265146304
resumed_bytes:
  description: Bytes that were there already, from an interrupted run or in a damaged file.
  returned: success
  type: int
  sample: 0
seconds:
  description: How long the download took.
  returned: success
  type: float
  sample: 61.5
format:
  description:
    - What the file is by its content, such as V(safetensors), V(pickle), V(gguf) or V(zip). Null in check mode for a
      file that would be downloaded.
  returned: success
  type: str
  sample: safetensors
base_model:
  description: The base model in Civitai's words, where a safetensors file tells it. Null otherwise.
  returned: success
  type: str
  sample: SD 1.5
trained_words:
  description: Always empty, because a link tells none.
  returned: success
  type: list
  elements: str
  sample: []
source:
  description: Where the file came from, without user information and query. Null for a file that was there.
  returned: success
  type: str
  sample: https://example.org/models/my-model.safetensors
files:
  description: The same values as a list of one entry, as the other download modules return it.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /srv/sd/models/checkpoint/my-model.safetensors
      sha256: 6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa
      size: 4265146304
      changed: true
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.secondhand.diffusion.plugins.module_utils import _url
from ansible_collections.secondhand.diffusion.plugins.module_utils._download import Downloads, argument_spec, run
from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import measure
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError, Source
from ansible_collections.secondhand.diffusion.plugins.module_utils._transfer import Wanted


def wanted_of(downloads: Downloads, url: str) -> Wanted:
    """The file, with a name and, where that is possible, a hash."""
    params = downloads.params
    source = Source(url, explain=_url.explain(url, has_token=bool(params["token"])))
    local = _url.local_path(url)
    # Without a folder to put it into, nobody has to be asked for its name.
    asks_for_name = local is None and downloads.target("name") != params["dest"]
    location = downloads.client.locate(source) if asks_for_name else None
    digest = None if _url.has_no_hash(params) else params["sha256"]
    if local is not None:
        digest = digest or hash_of(downloads, _url.readable(local))
    return Wanted(
        path=downloads.target(_url.name_of(url, location)),
        sources=(source,),
        sha256=digest,
        # What the server says is enough for a prediction, and no reason to refuse what comes a moment later.
        size=location.size if location and downloads.check_mode else None,
    )


def hash_of(downloads: Downloads, path: str) -> str:
    """Of a file of this host, which is read only when it has changed."""
    key = {"source": "file", "path": path}
    known = downloads.recall(key)
    if known is None:
        downloads.no_glance()
        downloads.progress.start(os.path.basename(path), os.path.getsize(path), state="checking")
        try:
            known = {"sha256": measure(path, tick=downloads.progress.add).sha256}
        except OSError as exc:
            raise DownloadError(f"{path} cannot be read ({exc.strerror}): look at the disk that it is on.") from exc
        downloads.index.answer(key, [path], known)
    digest: str = known["sha256"]
    return digest


def main() -> None:
    module = AnsibleModule(
        argument_spec=argument_spec(
            url={"type": "str", "required": True},
            sha256={"type": "str", "required": True},
        ),
        add_file_common_args=True,
        supports_check_mode=True,
    )
    params = module.params
    try:
        url = _url.check(params["url"])
    except DownloadError as exc:
        module.fail_json(msg=str(exc))

    def work(downloads: Downloads) -> None:
        key = _url.request_key(params)
        downloads.exit_if_known(key)
        downloads.exit([downloads.have(wanted_of(downloads, url))], key)

    own = () if _url.local_path(url) is not None else (url,)
    run(module, work, configured=own, token_for=own)


if __name__ == "__main__":
    main()
