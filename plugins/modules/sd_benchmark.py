# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sd_benchmark
short_description: Measure how long a Stable Diffusion server takes for a picture
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Asks a web UI on the managed host for the picture of a preset through C(/sdapi/v1/txt2img), and returns how long
    it took.
  - Works with AUTOMATIC1111's web UI, with its relatives, and with stable-diffusion.cpp's C(sd-server).
  - The answer is checked. It must be a whole PNG of the size that was asked for, and it must show more than one
    colour.
  - The time is what a client waits, from the request to the last byte of the picture, so it includes the decoding of
    the picture.
attributes:
  check_mode:
    description: Can run in check mode and predict a change without making one.
    support: partial
    details:
      - Nothing is generated. The options and the engine file are checked, the server is asked for its settings, and all
        measured values are null.
      - Reports a change when O(image_path) is set and there is no file yet. Whether an existing picture would differ is
        not known before it is made, so an existing file is reported as unchanged.
  diff_mode:
    description: Returns what has changed, or would change in check mode, with diff mode on.
    support: none
    details:
      - A picture has no diff that a person could read.
  idempotent:
    description: When run twice in a row with the same options, the second run reports no change.
    support: partial
    details:
      - The measured times differ from run to run. The file at O(image_path) is replaced only when the new picture
        differs, and the same seed gives the same picture on most engines.
options:
  preset:
    description:
      - What to measure.
      - V(asuka) is the guide's "hello asuka". Euler, 20 steps, CFG 12, 512x512, one run.
      - V(steampunk) is the prompt of Tom's Hardware and of the System Info extension. Euler a, 20 steps, CFG 7,
        512x512, the median of three runs.
      - V(smoke) is one step at 64x64, to see that the server makes a picture at all.
    type: str
    choices:
      - asuka
      - steampunk
      - smoke
    default: asuka
  overrides:
    description:
      - Settings that replace those of the preset. A result with settings that differ from the preset's says
        RV(standard=false) and cannot be compared with others.
    type: dict
    default: {}
    suboptions:
      prompt:
        description: What the picture shows.
        type: str
      negative_prompt:
        description: What the picture does not show.
        type: str
      sampler_name:
        description: The sampler, under the name that the server uses.
        type: str
      steps:
        description: Number of steps.
        type: int
      cfg_scale:
        description: How strictly the prompt is followed.
        type: float
      width:
        description: Width in pixels, a multiple of 8. Some engines want a multiple of 64.
        type: int
      height:
        description: Height in pixels, a multiple of 8. Some engines want a multiple of 64.
        type: int
      seed:
        description: The seed of the noise that the picture starts from.
        type: int
  engine_file:
    description:
      - The file that the role P(secondhand.diffusion.sd_webui#role) writes to tell where the server is and what it is.
      - The default is V(/etc/sd-webui/engine.json), unless O(url) is set, because that file need not be about the
        server at O(url).
    type: path
  url:
    description:
      - Address of the server, such as V(http://127.0.0.1:7860). Replaces the address in O(engine_file).
    type: str
  login_file:
    description:
      - A file on the managed host with the line C(user:password), for a server whose API asks for a login.
      - The default is the C(auth_file) that O(engine_file) names, if any, unless O(url) leads to another host.
      - The login is sent to the host in O(url) alone, also when that host wants to send the request on.
    type: path
  username:
    description:
      - User name for a server whose API asks for one, instead of O(login_file).
    type: str
  password:
    description:
      - Password for O(username).
    type: str
  validate_certs:
    description:
      - Whether the certificate of an C(https) address must be valid.
    type: bool
    default: true
  image_path:
    description:
      - Where to store the picture on the managed host. In an existing directory the file is named after the preset.
      - Without it the picture is checked and dropped.
    type: path
  warmup:
    description:
      - Whether to ask for one 64x64 step first, outside the measurement, so that the loading of the model is not
        measured.
    type: bool
    default: true
  runs:
    description:
      - How many pictures to measure. The result is the median. The default is the preset's.
    type: int
  timeout:
    description:
      - How many seconds to wait for one picture. A server goes on with a picture that nobody waits for any more.
    type: int
    default: 3600
  allow_blank:
    description:
      - Whether a picture of one single colour is accepted. Such a picture is a sign of broken FP16 arithmetic or of a
        broken checkpoint.
    type: bool
    default: false
  checkpoint_hash:
    description:
      - Whether to compute the SHA-256 of the checkpoint file where the server does not tell it. Reads the whole file,
        about 6 seconds for 2 GB, after the measurement.
    type: bool
    default: true
extends_documentation_fragment:
  - ansible.builtin.files
notes:
  - Runs on the host that it measures. An address on the loopback interface is never asked through a proxy.
  - The server should be idle. Where it can tell that it is busy (A1111), the module refuses to measure.
seealso:
  - name: How to read the figures
    description: The protocol behind the presets.
    link: https://github.com/secondhand-diffusion/secondhand.diffusion/blob/main/docs/benchmark.md
"""

EXAMPLES = r"""
- name: Measure "hello asuka" with the server that the role installed
  secondhand.diffusion.sd_benchmark:
  register: result

- name: See that the server makes a picture at all
  secondhand.diffusion.sd_benchmark:
    preset: smoke
    image_path: /srv/sd/outputs/smoke.png

- name: Measure a smaller picture on a slow machine
  secondhand.diffusion.sd_benchmark:
    preset: asuka
    overrides:
      width: 256
      height: 256
      steps: 4

- name: Measure a server that asks for a password
  secondhand.diffusion.sd_benchmark:
    preset: steampunk
    url: http://127.0.0.1:7861
    username: api
    password: "{{ api_password }}"
    image_path: /srv/sd/outputs/

- name: Measure it with the login that is on the host already
  secondhand.diffusion.sd_benchmark:
    preset: smoke
    url: http://127.0.0.1:7860
    login_file: /etc/sd-webui/login
"""

RETURN = r"""
preset:
  description: The preset that was measured.
  returned: always
  type: str
  sample: asuka
standard:
  description: Whether the settings are exactly the preset's, so that the result can be compared with others.
  returned: always
  type: bool
seconds:
  description: Seconds for one picture, the median of all runs. Null in check mode.
  returned: always
  type: float
  sample: 56.02
seconds_per_iteration:
  description: RV(seconds) divided by the number of steps, with the decoding of the picture in it. Null in check mode.
  returned: always
  type: float
  sample: 2.801
runs_seconds:
  description: Seconds of each run. Empty in check mode.
  returned: always
  type: list
  elements: float
  sample: [56.02]
warmup_seconds:
  description: Seconds of the warm-up, which shows how long the model takes to load. Null without one.
  returned: always
  type: float
  sample: 17.3
settings:
  description: The settings of the picture, in the names of C(/sdapi/v1/txt2img).
  returned: always
  type: dict
  sample:
    prompt: masterpiece, best quality, masterpiece, asuka langley sitting cross legged on a chair
    negative_prompt: lowres, bad anatomy
    sampler_name: Euler
    steps: 20
    cfg_scale: 12.0
    width: 512
    height: 512
    seed: 2870305590
    batch_size: 1
    n_iter: 1
image_path:
  description: Where the picture is on the managed host. Null without O(image_path).
  returned: always
  type: str
  sample: /srv/sd/outputs/asuka.png
image_size:
  description: Size of the PNG in bytes. Null in check mode.
  returned: always
  type: int
  sample: 421345
image_sha256:
  description: SHA-256 of the PNG. Null in check mode.
  returned: always
  type: str
  sample: 0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f
image_width:
  description: Width of the PNG in pixels. Null in check mode.
  returned: always
  type: int
  sample: 512
image_height:
  description: Height of the PNG in pixels. Null in check mode.
  returned: always
  type: int
  sample: 512
blank:
  description: Whether the whole picture has one colour. Null in check mode.
  returned: always
  type: bool
checkpoint:
  description: Name of the checkpoint. Null where nothing tells it.
  returned: always
  type: str
  sample: v1-5-pruned-emaonly
checkpoint_hash:
  description: The first ten digits of the checkpoint's SHA-256, as A1111 shows them. Null where it is not known.
  returned: always
  type: str
  sample: 6ce0161689
checkpoint_sha256:
  description: The checkpoint's SHA-256. Null where it is not known.
  returned: always
  type: str
  sample: 6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa
checkpoint_hash_source:
  description: V(server) when the server told the hash, V(file) when the file was read, null when the hash is not known.
  returned: always
  type: str
  sample: file
checkpoint_hash_reason:
  description: Why the hash is not known. Null when it is.
  returned: always
  type: str
engine:
  description: Name of the engine, from the engine file. Null with O(url) alone.
  returned: always
  type: str
  sample: stable_diffusion_cpp
engine_version:
  description: Version of the engine, from the engine file. Null with O(url) alone.
  returned: always
  type: str
  sample: 0.4.7
release:
  description: The installed release, from the engine file. Null with O(url) alone.
  returned: always
  type: str
profile:
  description:
    - The active profile, that of C(sd-profile) before that of the playbook. Null where the engine file leaves a choice
      and nothing beside it tells which one is active.
  returned: always
  type: str
  sample: cpu
device:
  description: V(cpu) or V(gpu). Null where neither the profile nor the server tells it.
  returned: always
  type: str
  sample: cpu
device_name:
  description:
    - Name of the processor or the graphics card. Null where it is not known, or when the server is on another host.
  returned: always
  type: str
  sample: Intel(R) Core(TM) i5-2300 CPU @ 2.80GHz, 4 threads
gpu_memory_peak:
  description:
    - The most graphics memory, in bytes, that the server has reserved so far. Null where the server does not tell it.
  returned: always
  type: int
gpu_out_of_memory_events:
  description: How often the graphics memory ran out during the measurement. Null where the server does not tell it.
  returned: always
  type: int
url:
  description: Address of the server.
  returned: always
  type: str
  sample: http://127.0.0.1:7860
"""

import hashlib
import os
import re
import statistics
import tempfile
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.secondhand.diffusion.plugins.module_utils._benchmark_client import (
    Picture,
    ServerError,
    WebUi,
    is_loopback,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._benchmark_engine import (
    DEFAULT_ENGINE_FILE,
    Engine,
    EngineFileError,
    cpu_name,
    file_sha256,
    gpu_name,
    read_auth_file,
    read_engine,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._benchmark_presets import PRESETS

# The results that are null until measured, so that check mode returns the same keys.
_UNMEASURED = (
    "seconds",
    "seconds_per_iteration",
    "warmup_seconds",
    "image_size",
    "image_sha256",
    "image_width",
    "image_height",
    "blank",
    "gpu_memory_peak",
    "gpu_out_of_memory_events",
)


class Unusable(Exception):
    """The options cannot be used as they are; the message is one sentence with the next step."""


class Benchmark:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: dict[str, Any] = module.params
        preset = PRESETS[self.params["preset"]]
        self.settings = preset.settings.with_overrides(self.params["overrides"])
        self.runs: int = self.params["runs"] or preset.runs
        self._check_options()
        self.engine = self._engine()
        self.local = self.params["url"] is None or is_loopback(self.engine.url)
        self.image_path = self._image_path()
        username, password = self._credentials()
        self.web_ui = WebUi(
            self.engine.url,
            unit=self.engine.unit,
            username=username,
            password=password,
            login_file=self._login_file() if self.params["username"] is None else None,
            timeout=self.params["timeout"],
            validate_certs=self.params["validate_certs"],
        )
        self.result: dict[str, Any] = {
            **dict.fromkeys(_UNMEASURED),
            "changed": False,
            "preset": self.params["preset"],
            "standard": self.settings == preset.settings,
            "runs_seconds": [],
            "settings": self.settings.as_request(),
            "image_path": self.image_path,
            "engine": self.engine.name,
            "engine_version": self.engine.version,
            "release": self.engine.release,
            "profile": self.engine.profile,
            "url": self.engine.url,
        }

    def run(self) -> dict[str, Any]:
        options = self.web_ui.get_optional(self.engine.options_path)
        memory_before = self._cuda_memory()
        self._describe_device(memory_before)
        if self.module.check_mode:
            self._describe_checkpoint(options, None, read_file=False)
            self.result["changed"] = self.image_path is not None and not os.path.exists(self.image_path)
            return self.result
        self._refuse_busy_server()
        picture = self._measure()
        self._describe_memory(memory_before)
        self._describe_checkpoint(options, picture, read_file=bool(self.params["checkpoint_hash"]))
        if picture.facts.blank and not self.params["allow_blank"]:
            raise Unusable(
                f"The picture from {self.engine.url} has one single colour: the checkpoint is broken or the card "
                "computes FP16 wrongly, so try another checkpoint or a profile without FP16, or set allow_blank."
            )
        self._store(picture.png)
        return self.result

    # Deciding

    def _check_options(self) -> None:
        for name, value in (
            ("runs", self.runs),
            ("timeout", self.params["timeout"]),
            ("steps", self.settings.steps),
        ):
            if value < 1:
                raise Unusable(f"{name} is {value}: give a number above 0.")
        for name, value in (("width", self.settings.width), ("height", self.settings.height)):
            if value < 8 or value % 8:
                raise Unusable(f"{name} is {value}: give a multiple of 8.")

    def _engine(self) -> Engine:
        url: str | None = self.params["url"]
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise Unusable(f"url is {url!r}: give an address such as http://127.0.0.1:7860.")
            if parts.username or parts.password:
                raise Unusable("url holds a user name or password: give them in username and password instead.")
        path: str | None = self.params["engine_file"]
        if path is None and url is not None:
            return Engine(url=url)
        return read_engine(path or DEFAULT_ENGINE_FILE, url)

    def _credentials(self) -> tuple[str | None, str | None]:
        if self.params["username"] is not None:
            return self.params["username"], self.params["password"]
        path = self._login_file()
        if path is None:
            return None, None
        username, password = read_auth_file(path)
        # It did not come in through the options, so Ansible does not know yet that it is to be kept out of results.
        self.module.no_log_values.add(password)
        return username, password

    def _login_file(self) -> str | None:
        if self.params["login_file"] is not None:
            path: str = self.params["login_file"]
            return path
        # The engine's login is for this host, and not for wherever url leads.
        return self.engine.auth_file if self.local else None

    def _image_path(self) -> str | None:
        path: str | None = self.params["image_path"]
        if path is None:
            return None
        if os.path.isdir(path) or path.endswith("/"):
            path = os.path.join(path, f"{self.params['preset']}.png")
        directory = os.path.dirname(path) or "."
        # Said now, because a picture can take a quarter of an hour.
        if not os.path.isdir(directory):
            raise Unusable(f"The directory {directory} of image_path does not exist: create it first.")
        if not os.access(directory, os.W_OK):
            raise Unusable(f"The directory {directory} of image_path may not be written by this user: run with become.")
        return path

    def _refuse_busy_server(self) -> None:
        if self.engine.progress_path is None:
            return
        path = self.engine.progress_path + ("" if "?" in self.engine.progress_path else "?skip_current_image=true")
        answer = self.web_ui.get_optional(path)
        state = answer.get("state") if isinstance(answer, dict) else None
        if isinstance(state, dict) and (state.get("job_count") or state.get("job") or answer.get("current_task")):
            raise Unusable(f"{self.engine.url} is busy with another picture: measure again when it is idle.")

    # Measuring

    def _measure(self) -> Picture:
        path = self.engine.txt2img_path
        if self.params["warmup"]:
            self.result["warmup_seconds"] = round(self.web_ui.txt2img(path, self.settings.as_warm_up()).seconds, 3)
        times: list[float] = []
        for _run in range(self.runs):
            picture = self.web_ui.txt2img(path, self.settings)
            times.append(picture.seconds)
        seconds = statistics.median(times)
        self.result.update(
            seconds=round(seconds, 3),
            seconds_per_iteration=round(seconds / self.settings.steps, 3),
            runs_seconds=[round(value, 3) for value in times],
            image_size=len(picture.png),
            image_sha256=hashlib.sha256(picture.png).hexdigest(),
            image_width=picture.facts.width,
            image_height=picture.facts.height,
            blank=picture.facts.blank,
        )
        return picture

    def _cuda_memory(self) -> dict[str, Any] | None:
        answer = self.web_ui.get_optional("/sdapi/v1/memory")
        cuda = answer.get("cuda") if isinstance(answer, dict) else None
        return cuda if isinstance(cuda, dict) else None

    # Describing

    def _describe_device(self, cuda: dict[str, Any] | None) -> None:
        device: str | None = None
        if self.engine.profile:
            device = "cpu" if self.engine.profile == "cpu" else "gpu"
        elif cuda is not None:
            device = "gpu" if "system" in cuda else "cpu"
        name: str | None = None
        if self.local and device is not None:
            name = cpu_name() if device == "cpu" else gpu_name()
        self.result.update(device=device, device_name=name)

    def _describe_memory(self, before: dict[str, Any] | None) -> None:
        after = self._cuda_memory()
        if before is None or after is None or "events" not in before or "events" not in after:
            return
        events = [int(memory["events"].get("oom", 0)) for memory in (before, after)]
        self.result["gpu_memory_peak"] = (after.get("reserved") or {}).get("peak")
        self.result["gpu_out_of_memory_events"] = events[1] - events[0]

    def _describe_checkpoint(self, options: Any, picture: Picture | None, read_file: bool) -> None:
        models = self.web_ui.get_optional("/sdapi/v1/sd-models")
        known = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []
        info = picture.info if picture else {}
        name = info.get("sd_model_name")
        if not name and isinstance(options, dict) and options.get("sd_model_checkpoint"):
            # A1111 writes "name.safetensors [6ce0161689]" here.
            name = re.sub(r"\s*\[[0-9a-f]+\]$", "", str(options["sd_model_checkpoint"]))
            name = re.sub(r"\.(safetensors|ckpt|gguf)$", "", name)
        entry = next((item for item in known if item.get("model_name") == name), known[0] if len(known) == 1 else {})
        short = _real_hash(info.get("sd_model_hash")) or _real_hash(entry.get("hash"))
        full = _real_hash(entry.get("sha256"))
        if full and short and not full.startswith(short):
            full = None
        source = "server" if short or full else None
        reason: str | None = None
        if source is None:
            full, reason = self._hash_file(name, read_file)
            source = "file" if full else None
        self.result.update(
            checkpoint=name,
            checkpoint_hash=short or (full[:10] if full else None),
            checkpoint_sha256=full,
            checkpoint_hash_source=source,
            checkpoint_hash_reason=reason,
        )

    def _hash_file(self, name: str | None, read_file: bool) -> tuple[str | None, str | None]:
        path = self.engine.checkpoint_file
        if not path:
            return None, "the server tells no real hash, and no engine file names the checkpoint file"
        stem = os.path.splitext(os.path.basename(path))[0]
        if name and name != stem:
            return None, f"the server uses {name}, the engine file names {path}"
        if not self.local:
            return None, "the server is on another host"
        if not read_file:
            return None, "the server tells no real hash, and the file was not read"
        try:
            return file_sha256(path), None
        except OSError as exc:
            return None, f"{path} cannot be read ({exc.strerror})"

    # Storing

    def _store(self, png: bytes) -> None:
        if self.image_path is None:
            return
        new = hashlib.sha256(png).hexdigest()
        if not os.path.isfile(self.image_path) or file_sha256(self.image_path) != new:
            descriptor, temporary = tempfile.mkstemp(dir=self.module.tmpdir)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(png)
            self.module.atomic_move(temporary, self.image_path)
            self.result["changed"] = True
        file_args = self.module.load_file_common_arguments(self.params, path=self.image_path)
        self.result["changed"] = self.module.set_fs_attributes_if_different(file_args, self.result["changed"])


def _real_hash(value: Any) -> str | None:
    """None for what is no hash: sd-server sends a row of eights for every checkpoint."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{8,64}", value) or len(set(value)) == 1:
        return None
    return value


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "preset": {"type": "str", "choices": ["asuka", "steampunk", "smoke"], "default": "asuka"},
            "overrides": {
                "type": "dict",
                "default": {},
                "options": {
                    "prompt": {"type": "str"},
                    "negative_prompt": {"type": "str"},
                    "sampler_name": {"type": "str"},
                    "steps": {"type": "int"},
                    "cfg_scale": {"type": "float"},
                    "width": {"type": "int"},
                    "height": {"type": "int"},
                    "seed": {"type": "int"},
                },
            },
            "engine_file": {"type": "path"},
            "url": {"type": "str"},
            "login_file": {"type": "path"},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "validate_certs": {"type": "bool", "default": True},
            "image_path": {"type": "path"},
            "warmup": {"type": "bool", "default": True},
            "runs": {"type": "int"},
            "timeout": {"type": "int", "default": 3600},
            "allow_blank": {"type": "bool", "default": False},
            "checkpoint_hash": {"type": "bool", "default": True},
        },
        add_file_common_args=True,
        mutually_exclusive=[("login_file", "username")],
        required_together=[("username", "password")],
        supports_check_mode=True,
    )
    result: dict[str, Any] = {}
    try:
        benchmark = Benchmark(module)
        result = benchmark.result
        benchmark.run()
    except (Unusable, EngineFileError, ServerError) as exc:
        # What was measured before the failure stays in the answer.
        measured = result if result.get("seconds") is not None else {}
        module.fail_json(msg=str(exc), **{**measured, "changed": False})
    module.exit_json(**result)


if __name__ == "__main__":
    main()
