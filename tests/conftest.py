"""Tiny real networks that the tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from jointnet.demo.build.text import new_text_encoder, new_tokenizer
from jointnet.pipelines.joint_net import JointNetPipeline

torch.set_num_threads(2)

UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 8,
        "cross_attention_dim": 32,
    },
    "sd2": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": (2, 4, 4),
        "cross_attention_dim": 32,
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 32,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    },
    "if": {
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": (16, 32),
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "attention_head_dim": 8,
        "cross_attention_dim": 32,
        "encoder_hid_dim": 24,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "act_fn": "gelu",
        "resnet_time_scale_shift": "scale_shift",
        "cross_attention_norm": "group_norm",
        "only_cross_attention": (True, False),
        "resnet_skip_time_act": True,
        "class_embed_type": None,
    },
}


def read_png(path: Path) -> np.ndarray:
    """A PNG's pixels as they are stored."""
    with Image.open(path) as image:
        return np.asarray(image)


def tiny_unet(base: str, seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(sample_size=16, layers_per_block=2, norm_num_groups=8, **UNETS[base]).eval()


def network_inputs(base: str, batch: int, modalities: int, height: int = 16, width: int = 16) -> dict[str, Any]:
    """Random arguments for JointUNet.forward."""
    g = torch.Generator().manual_seed(1)
    config = UNETS[base]
    inputs: dict[str, Any] = {
        "sample": torch.randn(batch, modalities, config.get("in_channels", 4), height, width, generator=g),
        "timestep": torch.randint(1000, (batch, modalities), generator=g),
        "encoder_hidden_states": torch.randn(batch, 7, config.get("encoder_hid_dim", 32), generator=g),
    }
    if base == "sdxl":
        times = torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(batch, -1)
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(batch, 24, generator=g), "time_ids": times}
    return inputs


def tiny_pipeline(modalities: tuple[str, ...] = ("rgb", "depth"), seed: int = 0) -> JointNetPipeline:
    """A random SD-like pipeline for 32 x 32 px (16 x 16 latents), its exchanges not zero."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=32,
        mid_block_add_attention=False,
    ).eval()
    tokenizer = new_tokenizer()
    text_encoder = new_text_encoder(tokenizer).eval()
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=16, layers_per_block=1, norm_num_groups=8, **{**UNETS["sd1"], "cross_attention_dim": 128}
    ).eval()
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    base = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline = JointNetPipeline.from_base(base, modalities)
    with torch.no_grad():
        for parameter in pipeline.joint_unet.exchanges.parameters():
            parameter.normal_(0, 0.05)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline() -> JointNetPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny joint model."""
    folder = tmp_path_factory.mktemp("model") / "rgbd"
    tiny_pipeline().save_pretrained(folder)
    return folder
