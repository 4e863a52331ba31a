# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checkpoints, and the one that is loaded in the background while the page already answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import time
from pathlib import Path
from typing import Any

from . import errors, release, shared
from .paths_internal import models_path

ENDINGS = (".ckpt", ".safetensors")
TOKENIZER = "openai/clip-vit-large-patch14"
# What the real tokenizer reads of its repository.
TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
LOADING_SECONDS = 1.0


@dataclasses.dataclass
class Checkpoint:
    """One file."""

    filename: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return os.path.basename(self.filename)

    @property
    def title(self) -> str:
        """With the short hash, once it is known."""
        return f"{self.name} [{self.sha256[:10]}]" if self.sha256 else self.name


checkpoints: list[Checkpoint] = []
loaded: Checkpoint | None = None
tokens: dict[str, int] = {}


def list_models() -> None:
    """Those of the folders, and the one that an argument names."""
    options = shared.cmd_opts
    found = [Path(options.ckpt)] if os.path.exists(options.ckpt) else []
    for folder in (options.ckpt_dir, os.path.join(models_path, "Stable-diffusion")):
        if folder and os.path.isdir(folder):
            found += sorted(path for path in Path(folder).rglob("*") if path.suffix in ENDINGS and path not in found)
    checkpoints[:] = [Checkpoint(str(path)) for path in found]


def find(name: Any) -> Checkpoint | None:
    """By title, file name, or name without ending."""
    for checkpoint in checkpoints:
        if name in (checkpoint.title, checkpoint.name, Path(checkpoint.name).stem, checkpoint.filename):
            return checkpoint
    return None


def read_tokenizer() -> dict[str, int]:
    """From the hub's cache on this disk, never from the network; an OSError where it is not complete."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    repository = cache / ("models--" + TOKENIZER.replace("/", "--"))
    try:
        revision = (repository / "refs/main").read_text(encoding="utf-8").strip()
        texts = {
            name: (repository / "snapshots" / revision / name).read_text(encoding="utf-8") for name in TOKENIZER_FILES
        }
    except OSError as error:
        raise OSError(f"Can't load tokenizer for '{TOKENIZER}' ({error}).") from error
    table: dict[str, int] = json.loads(texts["vocab.json"])
    pairs = [line.split(" ") for line in texts["merges.txt"].splitlines() if line and not line.startswith("#")]
    missing = [pair for pair in pairs if len(pair) != 2 or "".join(pair) not in table]
    if missing or "<|endoftext|>" not in table or not json.loads(texts["tokenizer_config.json"]):
        raise OSError(f"Can't load tokenizer for '{TOKENIZER}': its files do not fit each other ({missing[:3]}).")
    return table


def read_checkpoint(path: str) -> None:
    """Its first bytes have to be those of a safetensors file."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        json.loads(file.read(size))


def load_model() -> None:
    """Runs in a thread of its own; what goes wrong is said, and the server runs on without a model."""
    global loaded
    with shared.queue_lock:
        wanted = find(shared.opts.get("sd_model_checkpoint")) or (checkpoints[0] if checkpoints else None)
        try:
            if wanted is None:
                raise FileNotFoundError("No checkpoints found.")
            if not shared.cmd_opts.no_hashing:
                wanted.sha256 = hashlib.sha256(Path(wanted.filename).read_bytes()).hexdigest()
            print(f"Loading weights [{wanted.sha256[:10]}] from {wanted.filename}", flush=True)
            time.sleep(LOADING_SECONDS)
            read_checkpoint(wanted.filename)
            tokens.update(read_tokenizer())
            if release.FAULT == "no_model":
                raise RuntimeError("broken on purpose: this release loads no model")
        except Exception:
            errors.report("Stable diffusion model failed to load", exc_info=True)
            return
        loaded = wanted
        shared.opts.set("sd_model_checkpoint", wanted.title)
        shared.opts.set("sd_checkpoint_hash", wanted.sha256)
        print(f"Model loaded in {LOADING_SECONDS:.1f}s.", flush=True)
