"""Tiny real networks that the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from jointnet.cli import plugins
from jointnet.demo.training.text import new_text_encoder, new_tokenizer
from jointnet.modalities import modality
from jointnet.pipelines.joint_net import JointNetPipeline

torch.set_num_threads(1)  # a process for each core runs tests

SMALLEST: dict[str, Any] = {
    "attention_head_dim": 8,
    "block_out_channels": (16, 32),
    "cross_attention_dim": 128,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 16,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def read_png(path: Path) -> np.ndarray:
    """A PNG's pixels as they are stored."""
    with Image.open(path) as image:
        return np.asarray(image)


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
    unet = UNet2DConditionModel(**SMALLEST).eval()
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


@pytest.fixture
def registry() -> Iterator[None]:
    """Modalities that a test registers, and the plugins that it runs, are forgotten after it."""
    before = dict(modality._REGISTRY)
    yield
    plugins._run.cache_clear()
    modality._REGISTRY.clear()
    modality._REGISTRY.update(before)


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask that is not the usual one, for the test only."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)
