"""Tiny random bases: every architecture's real configuration (block types, heads, conditioning) with fewer channels, as genuine folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from jointnet.demo.training.text import new_tokenizer
from jointnet.models.joint_unet import JointUNet
from jointnet.types import LowRes

TEXT_WIDTH, POOLED_WIDTH = 32, 24

_CROSS_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_CROSS_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
_IF: dict[str, Any] = {
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "attention_head_dim": 8,
    "cross_attention_dim": 32,
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": TEXT_WIDTH,
    "encoder_hid_dim_type": "text_proj",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
}
_SD2: dict[str, Any] = {
    "attention_head_dim": (2, 4, 8, 8),
    "block_out_channels": (16, 32, 64, 64),
    "cross_attention_dim": TEXT_WIDTH,
    "down_block_types": _CROSS_DOWN,
    "up_block_types": _CROSS_UP,
    "use_linear_projection": True,
}

UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "attention_head_dim": 8,
        "block_out_channels": (16, 32, 32, 32),
        "cross_attention_dim": TEXT_WIDTH,
        "down_block_types": _CROSS_DOWN,
        "up_block_types": _CROSS_UP,
    },
    "sd2": _SD2,
    "sd2-v": {**_SD2, "upcast_attention": True},
    "sdxl": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "attention_head_dim": (2, 4, 8),
        "block_out_channels": (16, 32, 64),
        "cross_attention_dim": 2 * TEXT_WIDTH,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "projection_class_embeddings_input_dim": 6 * 8 + POOLED_WIDTH,
        "transformer_layers_per_block": (1, 2, 10),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": True,
    },
    "if-1": {
        **_IF,
        "in_channels": 3,
        "block_out_channels": (16, 32, 48, 64),
        "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        "layers_per_block": 3,
        "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
    },
    "if-2": {
        **_IF,
        "in_channels": 6,
        "block_out_channels": (16, 16, 32, 32, 32),
        "class_embed_type": "timestep",
        "down_block_types": (*("ResnetDownsampleBlock2D",) * 3, *("SimpleCrossAttnDownBlock2D",) * 2),
        "layers_per_block": (2, 2, 3, 5, 5),
        "mid_block_scale_factor": 1 / 0.7071,
        "only_cross_attention": True,
        "resnet_out_scale_factor": 1 / 0.7071,
        "resnet_skip_time_act": True,
        "time_embedding_act_fn": "gelu",
        "time_embedding_dim": 32,
        "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 2, *("ResnetUpsampleBlock2D",) * 3),
    },
}
STATE_CHANNELS = {"if-1": 3, "if-2": 3}
SAMPLE_SIZE = {"if-1": 16, "if-2": 64}


def tiny_unet(base: str, seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    settings = {"layers_per_block": 2, "norm_num_groups": 8, "sample_size": SAMPLE_SIZE.get(base, 8), **UNETS[base]}
    return UNet2DConditionModel(**settings).eval()


def network_inputs(base: str, batch: int, modalities: int, height: int = 16, width: int = 16) -> dict[str, Any]:
    """Random arguments for JointUNet.forward."""
    g = torch.Generator().manual_seed(1)
    text_width = UNETS[base].get("encoder_hid_dim", UNETS[base]["cross_attention_dim"])
    shape = (batch, modalities, STATE_CHANNELS.get(base, 4), height, width)
    inputs: dict[str, Any] = {
        "sample": torch.randn(shape, generator=g),
        "timestep": torch.randint(1000, (batch, modalities), generator=g),
        "encoder_hidden_states": torch.randn(batch, 7, text_width, generator=g),
    }
    if base == "sdxl":
        times = torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(batch, -1)
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(batch, POOLED_WIDTH, generator=g), "time_ids": times}
    if base == "if-2":
        inputs["low_res"] = LowRes(torch.randn(shape, generator=g), torch.full((batch,), 250))
    return inputs


def of_branch(inputs: dict[str, Any], index: int) -> dict[str, Any]:
    """The base's own arguments for one modality of the joint network's."""
    told = {name: value for name, value in inputs.items() if name not in ("sample", "timestep", "low_res")}
    sample: Tensor = inputs["sample"][:, index]
    if "low_res" in inputs:
        sample = torch.cat([sample, inputs["low_res"].maps[:, index]], 1)
        told["class_labels"] = inputs["low_res"].level
    return {**told, "sample": sample, "timestep": inputs["timestep"][:, index]}


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    """Bit for bit. Predictions then differ by rounding at most: a file's weights may lie unaligned in memory, for which kernels differ."""
    theirs = b.state_dict()
    assert all(torch.equal(value, theirs.pop(name)) for name, value in a.state_dict().items())
    assert not theirs


def tiny_vae() -> AutoencoderKL:
    """Eight pixels a latent pixel, as in every Stable Diffusion."""
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    ).eval()


def _clip(tokenizer: Any, kind: Any = CLIPTextModel) -> Any:
    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=POOLED_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config).eval()


def _t5() -> tuple[Any, Any]:
    words = ("a", "red", "blue", "ball", "box", "on", "the", "grass")
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in words), *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return tokenizer, T5EncoderModel(config).eval()


def _stable_diffusion(base: str) -> DiffusionPipeline:
    tokenizer = new_tokenizer()
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        prediction_type="v_prediction" if base == "sd2-v" else "epsilon",
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=tiny_vae(), text_encoder=_clip(tokenizer), tokenizer=tokenizer, unet=tiny_unet(base), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sdxl(_base: str) -> DiffusionPipeline:
    tokenizer = new_tokenizer()
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=_clip(tokenizer),
        text_encoder_2=_clip(tokenizer, CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        tokenizer_2=new_tokenizer(),
        unet=tiny_unet("sdxl"),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    )


def _if_scheduler(largest: float) -> DDPMScheduler:
    return DDPMScheduler(
        variance_type="learned_range",
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=largest,
    )


def _deepfloyd_1(base: str) -> DiffusionPipeline:
    tokenizer, text_encoder = _t5()
    return IFPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, unet=tiny_unet(base), scheduler=_if_scheduler(1.5),
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip


def _deepfloyd_2(base: str) -> DiffusionPipeline:
    tokenizer, text_encoder = _t5()
    return IFSuperResolutionPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, unet=tiny_unet(base), scheduler=_if_scheduler(1.0),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip


_MAKERS: dict[str, Callable[[str], DiffusionPipeline]] = {
    "sd1": _stable_diffusion,
    "sd2": _stable_diffusion,
    "sd2-v": _stable_diffusion,
    "sdxl": _sdxl,
    "if-1": _deepfloyd_1,
    "if-2": _deepfloyd_2,
}
BASES = tuple(_MAKERS)


def tiny_base(base: str) -> DiffusionPipeline:
    """diffusers' own pipeline of an architecture, random and tiny: 64 px, DeepFloyd-IF's stages 16 and 64 px."""
    pipeline = _MAKERS[base](base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fill(module: nn.Module, seed: int, std: float) -> None:
    """Give a module's parameters random weights, as training would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, std)


def perturbed(joint: JointUNet) -> JointUNet:
    """Give the exchanges weights."""
    fill(joint.exchanges, 5, 0.05)
    return joint
