# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the part of a Hugging Face cache that a first load asks for, so that the server starts without a network.

SD 1, SD 2 and SDXL checkpoints bring CLIP's weights, but the web UI has transformers fetch the tokenizer and the
configuration of openai/clip-vit-large-patch14. The installed package clip has the same byte pair table, so both are
written from what is there already.

Usage: venv/bin/python -B make_tokenizer.py HF_HOME
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = "models--openai--clip-vit-large-patch14"
START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 77


class TokenizerError(Exception):
    """One sentence for the person who reads the log."""


def read_table() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens with their numbers and the merges in their order, from the package clip."""
    package = importlib.util.find_spec("clip")
    if package is None or not package.submodule_search_locations:
        raise TokenizerError("there is no package clip: install it before the tokenizer is made from it.")
    path = Path(package.submodule_search_locations[0]) / "simple_tokenizer.py"
    # By its path: the package itself would import PyTorch.
    spec = importlib.util.spec_from_file_location("simple_tokenizer", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise TokenizerError(f"the package clip has no {path.name}: it is another package of that name.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()
    return tokenizer.encoder, sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)


def special(content: str) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def transformer(**sizes: Any) -> dict[str, Any]:
    common = {"attention_dropout": 0.0, "hidden_act": "quick_gelu", "initializer_factor": 1.0}
    return {**common, "initializer_range": 0.02, "layer_norm_eps": 1e-05, "projection_dim": 768, **sizes}


def make_files(encoder: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, str]:
    """The files of the model's repository that a tokenizer and a text encoder without weights are made from."""
    specials = {"bos_token": special(START), "eos_token": special(END), "unk_token": special(END)}
    tokenizer = {
        **{name: {"__type": "AddedToken", **token} for name, token in specials.items()},
        "pad_token": END,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": CONTEXT,
        "tokenizer_class": "CLIPTokenizer",
    }
    text = transformer(
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        num_hidden_layers=12,
        max_position_embeddings=CONTEXT,
        vocab_size=len(encoder),
        # Not the tokens' numbers: transformers takes this 2 for "the end is the highest number".
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        model_type="clip_text_model",
    )
    vision = transformer(
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_hidden_layers=24,
        image_size=224,
        patch_size=14,
        model_type="clip_vision_model",
    )
    config = {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": text,
        "vision_config": vision,
    }
    documents: dict[str, dict[str, Any]] = {
        "config.json": config,
        "special_tokens_map.json": {**specials, "pad_token": END},
        "tokenizer_config.json": tokenizer,
        "vocab.json": encoder,
    }
    files = {name: json.dumps(document, ensure_ascii=False) + "\n" for name, document in documents.items()}
    files["merges.txt"] = "".join(f"{line}\n" for line in ["#version: 0.2", *map(" ".join, merges)])
    return files


def write_cache(home: Path, files: dict[str, str]) -> None:
    """Lay the files out as the hub's client keeps them: snapshots by revision, and which of them main is."""
    # The hub's revisions are commits. This one is of the content, as the files were not fetched from any.
    revision = hashlib.sha1("".join(f"{name}\0{files[name]}\0" for name in sorted(files)).encode()).hexdigest()
    repository = home / "hub" / REPOSITORY
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (snapshot / name).write_text(content, encoding="utf-8")
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(revision, encoding="ascii")
    # Otherwise transformers takes the cache for an old one, and wants to write to it.
    (home / "hub/version.txt").write_text("1", encoding="ascii")


def main() -> int:
    if len(sys.argv) != 2:
        print((__doc__ or "").strip().rpartition("\n")[2], file=sys.stderr)
        return 2
    try:
        write_cache(Path(sys.argv[1]), make_files(*read_table()))
    except (TokenizerError, OSError) as error:
        print(f"make_tokenizer.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
