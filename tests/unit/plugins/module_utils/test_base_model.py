"""The base model, from what tools write down and from the names and shapes of tensors."""

from __future__ import annotations

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._base_model import base_model
from ansible_collections.secondhand.diffusion.plugins.module_utils._safetensors import Header

UNET = "model.diffusion_model."
ATTENTION = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        # As kohya's scripts write it.
        ("sd_v1", "SD 1.5"),
        ("sd_v2", "SD 2.1"),
        ("sd_v2_v", "SD 2.1 768"),
        ("sdxl_base_v1-0", "SDXL 1.0"),
        ("sdxl_base_v0-9", "SDXL 0.9"),
        ("sd3-m", "SD 3"),
        ("sd3.5-large", "SD 3.5 Large"),
        ("flux1", "Flux.1 D"),
        # As the model specification has it.
        ("stable-diffusion-v1", "SD 1.5"),
        ("stable-diffusion-v1/lora", "SD 1.5"),
        ("stable-diffusion-v1/textual-inversion", "SD 1.5"),
        ("stable-diffusion-v2-512", "SD 2.1"),
        ("stable-diffusion-v2-768-v", "SD 2.1 768"),
        ("stable-diffusion-xl-v1-base", "SDXL 1.0"),
        ("stable-diffusion-xl-v1-base/lora", "SDXL 1.0"),
        ("stable-diffusion-xl-v1-refiner", "SDXL 1.0"),
        ("stable-diffusion-xl-v0_9-base", "SDXL 0.9"),
        ("stable-diffusion-xl-turbo-v1", "SDXL Turbo"),
        ("stable-diffusion-v3-medium", "SD 3"),
        ("stable-diffusion-3-medium", "SD 3"),
        ("stable-diffusion-3.5-large", "SD 3.5 Large"),
        ("stable-diffusion-v3.5-large-turbo", "SD 3.5 Large Turbo"),
        ("stable-diffusion-v3.5-medium", "SD 3.5 Medium"),
        ("Flux.1-dev", "Flux.1 D"),
        ("flux-1-schnell", "Flux.1 S"),
        ("Flux.1-dev/lora-kontext", "Flux.1 D"),
        ("flux.1-kontext-dev", "Flux.1 Kontext"),
        ("flux.1-krea-dev", "Flux.1 Krea"),
        ("flux2_klein_9b", None),
        ("something of my own", None),
        ("", None),
    ],
)
def test_what_tools_write_down(declared: str, expected: str | None) -> None:
    assert base_model(Header({}, {"modelspec.architecture": declared})) == expected
    assert base_model(Header({}, {"ss_base_model_version": declared})) == expected


def test_what_is_written_down_comes_before_what_the_tensors_say() -> None:
    tensors: dict[str, tuple[int, ...]] = {UNET + ATTENTION: (640, 2048)}
    assert base_model(Header(tensors, {"ss_base_model_version": "sd_v1"})) == "SD 1.5"
    assert base_model(Header(tensors, {"ss_base_model_version": "mine"})) == "SDXL 1.0"
    assert base_model(Header(tensors, {"modelspec.architecture": "mine", "ss_base_model_version": "sd_v1"})) == "SD 1.5"


@pytest.mark.parametrize(("width", "expected"), [(768, "SD 1.5"), (1024, "SD 2.1"), (2048, "SDXL 1.0"), (512, None)])
@pytest.mark.parametrize(
    "name",
    [
        # A checkpoint, a ControlNet with and without its prefix, both of diffusers' kinds, and LoRAs of three tools.
        UNET + ATTENTION,
        "control_model." + ATTENTION,
        ATTENTION,
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.weight",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora.down.weight",
    ],
)
def test_the_width_of_the_text_encoder(name: str, width: int, expected: str | None) -> None:
    others: dict[str, tuple[int, ...]] = {
        "lora_unet_up_blocks_attn2_to_k.lora_up.weight": (640, 8),
        "input_blocks.4.1.transformer_blocks.0.attn1.to_k.weight": (640, 640),
        "input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight": (640, 640),
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.alpha": (),
    }
    assert base_model(Header({**others, name: (640, width)}, {})) == expected


def test_two_widths_and_video_models_say_nothing() -> None:
    both: dict[str, tuple[int, ...]] = {UNET + ATTENTION: (640, 768), "control_model." + ATTENTION: (640, 2048)}
    assert base_model(Header(both, {})) is None
    video: dict[str, tuple[int, ...]] = {UNET + ATTENTION: (640, 1024), UNET + "input_blocks.1.0.time_stack.w": (1,)}
    assert base_model(Header(video, {})) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["joint_blocks.0.x_block.attn.qkv.weight", "joint_blocks.23.x_block.attn.qkv.weight"], "SD 3"),
        (["joint_blocks.0.x_block.attn2.qkv.weight", "joint_blocks.23.x_block.attn.qkv.weight"], "SD 3.5 Medium"),
        (["joint_blocks.0.x_block.attn.qkv.weight", "joint_blocks.37.x_block.attn.qkv.weight"], "SD 3.5 Large"),
        (["double_blocks.0.img_attn.qkv.weight", "guidance_in.in_layer.weight"], "Flux.1 D"),
        (["double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"], "Flux.1 S"),
        (["double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.bias"], "Chroma"),
        (["double_blocks.0.img_attn.qkv.weight", "double_stream_modulation_img.lin.weight"], None),
        (["double_blocks.0.img_attn_qkv.weight", "txt_in.individual_token_refiner.blocks.1.w"], None),
        (["single_transformer_blocks.0.attn.to_k.weight", "joint_transformer_blocks.0.attn.to_k.weight"], None),
        (["blocks.0.cross_attn.k.bias"], None),
    ],
)
@pytest.mark.parametrize("prefix", ["", UNET])
def test_models_without_a_u_net(names: list[str], expected: str | None, prefix: str) -> None:
    assert base_model(Header({prefix + name: (8, 8) for name in names}, {})) == expected


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "diffusion_model.double_blocks.3.img_attn.proj.lora_down.weight",
        "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight",
        "lora_transformer_single_transformer_blocks_5_attn_to_k.lora_down.weight",
    ],
)
def test_a_lora_for_flux(name: str) -> None:
    assert base_model(Header({name: (16, 3072)}, {})) == "Flux.1 D"


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"emb_params": (8, 768)}, "SD 1.5"),
        ({"emb_params": (8, 1024)}, "SD 2.1"),
        ({"emb_params": (8, 4096)}, None),
        ({"clip_l": (8, 768), "clip_g": (8, 1280)}, "SDXL 1.0"),
        ({"adapter.body.0.block1.weight": (320, 320, 3, 3), "adapter.conv_in.weight": (320, 192, 3, 3)}, "SD 1.5"),
        ({"body.0.block1.weight": (320, 320, 3, 3), "conv_in.weight": (320, 64, 3, 3)}, "SD 1.5"),
        ({"adapter.body.0.block1.weight": (320, 320, 3, 3), "adapter.conv_in.weight": (320, 768, 3, 3)}, "SDXL 1.0"),
        ({"body.0.block1.weight": (320, 320, 3, 3)}, None),
        # The VAEs of SD 1.x, 2.x and XL have the same tensors.
        ({"decoder.conv_in.weight": (512, 4, 3, 3), "encoder.conv_out.weight": (8, 512, 3, 3)}, None),
        ({}, None),
    ],
)
def test_small_things(tensors: dict[str, tuple[int, ...]], expected: str | None) -> None:
    assert base_model(Header(tensors, {})) == expected
