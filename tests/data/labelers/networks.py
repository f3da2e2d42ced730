"""Tiny random networks in the forms in which labelers are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    MarigoldDepthPipeline,
    MarigoldNormalsPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DPTConfig,
    DPTForDepthEstimation,
)

from jointnet.demo.training.text import new_text_encoder, new_tokenizer
from tests.conftest import SMALLEST

SIZE = 64
"""Pixels a side at which the tiny DPT-hybrids read."""


def pictures(count: int = 2, height: int = SIZE, width: int = SIZE, seed: int = 0) -> Tensor:
    """Smooth random pictures (B, 3, H, W) in [0, 1], in steps of 1 / 255 as files have them."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)
    return (smooth * 255).round() / 255


def dpt_config() -> DPTConfig:
    """A DPT-hybrid of the published shape in small."""
    return DPTConfig(
        is_hybrid=True,
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIZE,
        neck_hidden_sizes=[32, 48, 32, 32],
        reassemble_factors=[1, 1, 1, 0.5],
        fusion_hidden_size=16,
        layer_norm_eps=1e-6,
        backbone_featmap_shape=[1, 64, 4, 4],
        backbone_config={
            "model_type": "bit",
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "depths": [1, 2, 1],
            "hidden_sizes": [32, 48, 64],
            "embedding_size": 16,
            "num_groups": 4,
            "out_features": ["stage1", "stage2", "stage3"],
        },
    )


def make_lively(network: nn.Module, last: nn.Conv2d, mean: float, size: int) -> None:
    """Draw weights anew so that the output depends on the picture, and scale the last layer: mean and deviation 0.2 before activations."""
    generator = torch.Generator().manual_seed(0)
    seen: list[Tensor] = []
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * (1.5 / value[0].numel() ** 0.5))
        hook = last.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        network.eval()(pictures(4, size, size, seed=1))
        hook.remove()
        channels = seen[0].transpose(0, 1).flatten(1)  # (c, values)
        scale = 0.2 / channels.std(1)
        assert last.bias is not None
        last.bias.copy_(mean + scale * (last.bias - channels.mean(1)))
        last.weight.mul_(scale[:, None, None, None])


def save_processor(folder: Path, size: int, mean: list[float], std: list[float]) -> None:
    """What the hub's folders say of how pictures are prepared; the library's processor, which needs torchvision, reads it in the tests."""
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": 3}
    processor = {"image_processor_type": "DPTImageProcessor", "size": {"height": size, "width": size}, "image_mean": mean, "image_std": std}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **steps}))


def save_dpt(folder: Path) -> Path:
    """MiDaS as the hub has it: a DPTForDepthEstimation and its image processor."""
    network = DPTForDepthEstimation(dpt_config())
    make_lively(network, network.head.head[4], 3.0, SIZE)  # type: ignore[arg-type]
    network.save_pretrained(folder)
    save_processor(folder, SIZE, [0.5] * 3, [0.5] * 3)
    return folder


def save_depth_anything(folder: Path, kind: str = "relative") -> Path:
    """Depth Anything as the hub has it, for squares of 56 px."""
    config = DepthAnythingConfig(
        backbone_config={
            "model_type": "dinov2",
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
            "reshape_hidden_states": False,
            "apply_layernorm": True,
        },
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 12, 16, 24],
        fusion_hidden_size=16,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20,
    )
    network = DepthAnythingForDepthEstimation(config)
    make_lively(network, network.head.conv3, 3.0 if kind == "relative" else 0.0, 56)
    network.save_pretrained(folder)
    save_processor(folder, 56, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return folder


def save_marigold(folder: Path, kind: str = "depth") -> Path:
    """Marigold as the hub has it, for squares of 32 px: "depth", "disparity" or "normals"."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=32,
        mid_block_add_attention=False,
    )
    tokenizer = new_tokenizer()
    unet = UNet2DConditionModel(**{**SMALLEST, "in_channels": 8})
    schedule: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": vae,
        "scheduler": DDIMScheduler(**schedule, clip_sample=False, timestep_spacing="trailing"),
        "text_encoder": new_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "default_denoising_steps": 2,
        "default_processing_resolution": 32,
    }
    pipeline: DiffusionPipeline
    if kind == "normals":
        pipeline = MarigoldNormalsPipeline(**parts, prediction_type="normals")
    else:
        pipeline = MarigoldDepthPipeline(**parts, prediction_type=kind)
    pipeline.save_pretrained(folder)
    return folder
