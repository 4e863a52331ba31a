# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which base model a safetensors file belongs to, in Civitai's words. Private to this collection."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.secondhand.diffusion.plugins.module_utils._safetensors import Header

# Where the tools that make LoRAs and checkpoints write it down.
_METADATA = ("modelspec.architecture", "ss_base_model_version")
# The first that fits counts. The text is in lower case, with dashes for blanks and underscores.
_DECLARED = [
    (re.compile(r"flux[-.]?2"), None),
    (re.compile(r"flux.*schnell"), "Flux.1 S"),
    (re.compile(r"flux.*kontext"), "Flux.1 Kontext"),
    (re.compile(r"flux.*krea"), "Flux.1 Krea"),
    (re.compile(r"flux"), "Flux.1 D"),
    (re.compile(r"(stable-diffusion-xl|sd-?xl).*0[-.]9"), "SDXL 0.9"),
    (re.compile(r"(stable-diffusion-xl|sd-?xl).*turbo"), "SDXL Turbo"),
    (re.compile(r"stable-diffusion-xl|sd-?xl"), "SDXL 1.0"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)3[-.]5-large-turbo"), "SD 3.5 Large Turbo"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)3[-.]5-large"), "SD 3.5 Large"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)3[-.]5-m"), "SD 3.5 Medium"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)3[-.]5"), "SD 3.5"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)3"), "SD 3"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)2.*(768|-v$)"), "SD 2.1 768"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)2"), "SD 2.1"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)1[-.]4"), "SD 1.4"),
    (re.compile(r"(stable-diffusion-v?|sd-?v?)1"), "SD 1.5"),
]

# What the U-Net's attention looks at is the text encoder's output, and its width is the base model's own. The names
# are those of checkpoints, ControlNets and LoRAs, in the original spelling, in diffusers' and in kohya's.
_CROSS_ATTENTION = re.compile(r"attn2[._]to_[kv](\.lora_down|\.lora\.down|\.lora_A|\.lora_A\.default)?\.weight$")
_TEXT_WIDTH = {768: "SD 1.5", 1024: "SD 2.1", 1280: "SDXL 1.0", 2048: "SDXL 1.0"}
_JOINT_BLOCK = re.compile(r"joint_blocks[._](\d+)[._]")
_FLUX = re.compile(
    r"double_blocks[._]\d+[._]img_attn[._](qkv|proj|norm)|(^|[._])single_transformer_blocks[._]\d+[._](attn|proj_out)[._]"
)
# Models that came from Flux and are not Flux, and those that only use its names.
_LIKE_FLUX = (
    "distilled_guidance_layer",
    "double_stream_modulation",
    "to_qkv_mlp_proj",
    "joint_transformer_blocks",
    "token_refiner",
    "byt5_in",
    "nerf_image_embedder",
)


def base_model(header: Header) -> str | None:
    """The declared one first; None where neither the metadata nor the tensors are clear."""
    for name in _METADATA:
        declared = header.metadata.get(name)
        if declared:
            known = _declared(declared)
            if known is not None:
                return known
    return _flux(header) or _sd3(header) or _by_text_width(header) or _embedding(header) or _t2i_adapter(header)


def _declared(text: str) -> str | None:
    # "stable-diffusion-xl-v1-base/lora" says after the slash what it is, not for which model.
    plain = re.sub(r"[\s_]+", "-", text.lower().partition("/")[0])
    for pattern, name in _DECLARED:
        if pattern.search(plain):
            return name
    return None


def _names(header: Header, part: str) -> Iterator[str]:
    return (name for name in header.tensors if part in name)


def _flux(header: Header) -> str | None:
    if not any(_FLUX.search(name) for name in header.tensors):
        return None
    if any(next(_names(header, part), None) for part in _LIKE_FLUX):
        return "Chroma" if next(_names(header, "distilled_guidance_layer"), None) else None
    if any("lora" in name for name in header.tensors):
        return "Flux.1 D"
    # Only the model that was distilled with guidance has an input for it.
    return "Flux.1 D" if any("guidance_in" in n or "guidance_embedder" in n for n in header.tensors) else "Flux.1 S"


def _sd3(header: Header) -> str | None:
    blocks = [match for match in map(_JOINT_BLOCK.search, header.tensors) if match]
    if not blocks:
        return None
    # 24 blocks have SD 3 Medium and SD 3.5 Medium, 38 SD 3.5 Large.
    if max(int(match[1][:3]) for match in blocks) >= 24:
        return "SD 3.5 Large"
    return "SD 3.5 Medium" if any("x_block.attn2" in name for name in header.tensors) else "SD 3"


def _by_text_width(header: Header) -> str | None:
    if any("time_stack" in name or "temporal" in name for name in header.tensors):
        # Video models on the same U-Net.
        return None
    widths = {shape[-1] for name, shape in header.tensors.items() if len(shape) >= 2 and _CROSS_ATTENTION.search(name)}
    found = {_TEXT_WIDTH.get(width) for width in widths}
    return found.pop() if len(found) == 1 else None


def _embedding(header: Header) -> str | None:
    """A textual inversion has nothing but its vectors."""
    shapes = header.tensors
    if set(shapes) == {"clip_l", "clip_g"}:
        return "SDXL 1.0"
    vectors = shapes.get("emb_params")
    if len(shapes) == 1 and vectors and len(vectors) == 2:
        return {768: "SD 1.5", 1024: "SD 2.1"}.get(vectors[1])
    return None


def _t2i_adapter(header: Header) -> str | None:
    """The adapter folds 8x8 pixels into one for Stable Diffusion 1, and 16x16 for SDXL."""
    for prefix in ("", "adapter."):
        if prefix + "body.0.block1.weight" not in header.tensors:
            continue
        shape = header.tensors.get(prefix + "conv_in.weight")
        if shape is not None and len(shape) == 4:
            return {64: "SD 1.5", 192: "SD 1.5", 256: "SDXL 1.0", 768: "SDXL 1.0"}.get(shape[1])
    return None
