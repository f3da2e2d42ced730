"""The demo base: a text-to-image latent diffusion model trained from nothing, saved as a genuine Stable Diffusion folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from jointnet.demo.build.text import new_text_encoder, new_tokenizer, tokenize
from jointnet.training.config import OptimConfig
from jointnet.training.loop import fit
from jointnet.training.state import Progress

TEXT_DROP, NOISE_OFFSET, SNR_LIMIT = 0.1, 0.05, 5.0


_UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (64, 96, 160),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 128,
    "attention_head_dim": (2, 3, 5),
    "norm_num_groups": 8,
}


def base_config() -> OptimConfig:
    """Cosine from 1e-3, averaged weights; a million samples."""
    return OptimConfig(
        lr=1e-3,
        batch_size=64,
        steps=16_000,
        warmup_steps=200,
        decay="cosine",
        final_lr_ratio=0.02,
        ema_decay=0.9995,
        precision="bfloat16",
    )


def new_unet() -> UNet2DConditionModel:
    """7.4 M parameters for 8 x 16 x 16 latents; attention at 8 x 8 and 4 x 4 only, where it is cheap on a CPU."""
    torch.manual_seed(2)
    return UNet2DConditionModel(**_UNET)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, noise prediction."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )


class _BaseParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = new_tokenizer()
        self.text_encoder = new_text_encoder(self.tokenizer)
        self.unet = new_unet()


def train_base(
    vae: AutoencoderKL,
    latents: Tensor,
    captions: list[list[str]],
    run_dir: Path,
    *,
    budget_minutes: float | None = None,
    seed: int = 0,
) -> tuple[StableDiffusionPipeline, Progress]:
    """Train U-Net and text encoder together.

    Shapes: latents (N, 8, h, w), scaled RGB latents; captions: one or more lists of N captions, of which a step draws.
    The loss is that of Ho et al. (2020), each step's weight limited to SNR 5 (Hang et al., 2023).
    """
    parts, scheduler = _BaseParts(), new_scheduler()
    alpha_bar = scheduler.alphas_cumprod
    tokens = torch.stack([tokenize(parts.tokenizer, draw) for draw in captions])  # (draws, N, L)
    empty = tokenize(parts.tokenizer, [""])[0]

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        count = len(indices)
        x0 = latents[indices].contiguous(memory_format=torch.channels_last)
        ids = tokens[torch.randint(len(tokens), (count,), generator=generator), indices]
        ids = torch.where((torch.rand(count, generator=generator) < TEXT_DROP)[:, None], empty, ids)
        noise = torch.randn(x0.shape, generator=generator)
        noise = noise + NOISE_OFFSET * torch.randn(count, x0.shape[1], 1, 1, generator=generator)
        t = torch.randint(len(alpha_bar), (count,), generator=generator)
        a = alpha_bar[t][:, None, None, None]
        predicted = parts.unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, parts.text_encoder(ids).last_hidden_state).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        snr = (a / (1 - a)).flatten()
        return {"loss": (error * (SNR_LIMIT / snr).clamp(max=1)).mean(), "eps": error.mean()}

    progress = fit(
        parts,
        loss_fn,
        num_samples=len(latents),
        config=replace(base_config(), seed=seed),
        run_dir=run_dir,
        budget_minutes=budget_minutes,
    )
    components: dict[str, Any] = {
        "vae": vae,
        "text_encoder": parts.text_encoder,
        "tokenizer": parts.tokenizer,
        "unet": parts.unet,
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
    }
    return StableDiffusionPipeline(**components, requires_safety_checker=False), progress
