# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The flags of v1.10.1, by their kind. An unknown one ends the program with exit status 2."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from .paths_internal import data_path, models_path, script_path

SWITCHES = """
    -f --add-stop-route --administrator --allow-code --always-batch-cond-uncond --api --api-log --api-server-stop
    --autolaunch --deepdanbooru --disable-all-extensions --disable-console-progressbars --disable-extra-extensions
    --disable-model-loading-ram-optimization --disable-nan-check --disable-opt-split-attention --disable-safe-unpickle
    --do-not-download-clip --dump-sysinfo --enable-console-prompts --enable-insecure-extension-access
    --force-enable-xformers --freeze-settings --gradio-debug --gradio-queue --hide-ui-dir-config --listen --log-startup
    --lowram --lowvram --medvram --medvram-sdxl --no-download-sd-model --no-gradio-queue --no-half --no-half-vae
    --no-hashing --no-progressbar-hiding --no-prompt-history --nowebui --opt-channelslast --opt-sdp-attention
    --opt-sdp-no-mem-attention --opt-split-attention --opt-split-attention-invokeai --opt-split-attention-v1
    --opt-sub-quad-attention --reinstall-torch --reinstall-xformers --share --show-negative-prompt --skip-install
    --skip-load-model-at-start --skip-prepare-environment --skip-python-version-check --skip-torch-cuda-test
    --skip-version-check --test-server --ui-debug-mode --unix-filenames-sanitization --unload-gfpgan --upcast-sampling
    --update-all-extensions --update-check --use-ipex --use-textbox-seed --xformers --xformers-flash-attention
"""
TEXTS = """
    --api-auth --cors-allow-origins --cors-allow-origins-regex --device-id --freeze-settings-in-sections
    --freeze-specific-settings --gradio-auth --gradio-img2img-tool --gradio-inpaint-tool --loglevel --ngrok
    --ngrok-region --server-name --subpath --theme --tls-certfile --tls-keyfile
"""
NUMBERS = {
    "--filenames-max-length": 128,
    "--max-batch-count": 16,
    "--port": None,
    "--sub-quad-chunk-threshold": None,
    "--sub-quad-kv-chunk-size": None,
    "--sub-quad-q-chunk-size": 1024,
    "--timeout-keep-alive": 30,
}
PATHS = {
    "--bsrgan-models-path": f"{models_path}/BSRGAN",
    "--ckpt": f"{script_path}/model.ckpt",
    "--ckpt-dir": None,
    "--clip-models-path": None,
    "--codeformer-models-path": f"{models_path}/Codeformer",
    "--config": f"{script_path}/configs/v1-inference.yaml",
    "--dat-models-path": f"{models_path}/DAT",
    "--data-dir": script_path,
    "--embeddings-dir": f"{data_path}/embeddings",
    "--esrgan-models-path": f"{models_path}/ESRGAN",
    "--gfpgan-dir": "./GFPGAN",
    "--gfpgan-model": None,
    "--gfpgan-models-path": f"{models_path}/GFPGAN",
    "--gradio-auth-path": None,
    "--hypernetwork-dir": f"{models_path}/hypernetworks",
    "--localizations-dir": f"{script_path}/localizations",
    "--models-dir": None,
    "--realesrgan-models-path": f"{models_path}/RealESRGAN",
    "--textual-inversion-templates-dir": f"{script_path}/textual_inversion_templates",
    "--ui-config-file": f"{data_path}/ui-config.json",
    "--ui-settings-file": f"{data_path}/config.json",
    "--vae-dir": None,
    "--vae-path": None,
}


def absolute(path: str) -> str:
    """Paths are relative to where the program was started."""
    return str(Path(path).absolute())


parser = argparse.ArgumentParser()
for _name in SWITCHES.split():
    parser.add_argument(_name, action="store_true")
for _name in TEXTS.split():
    parser.add_argument(_name)
for _name, _number in NUMBERS.items():
    parser.add_argument(_name, type=int, default=_number)
for _name, _path in PATHS.items():
    parser.add_argument(_name, type=absolute, default=_path)
parser.add_argument("--disable-tls-verify", action="store_false", default=None)
parser.add_argument("--gradio-allowed-path", action="append", default=[data_path])
parser.add_argument("--ngrok-options", type=json.loads, default={})
parser.add_argument("--precision", choices=["full", "half", "autocast"], default="autocast")
parser.add_argument("--styles-file", action="append", default=[])
parser.add_argument("--use-cpu", nargs="+", type=str.lower, default=[])

# The server's own writing is below the data directory; what is missing of it is made.
os.makedirs(data_path, exist_ok=True)
