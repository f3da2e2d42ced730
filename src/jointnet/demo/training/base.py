"""The demo base: a text-to-image latent diffusion model trained from nothing, saved as a genuine Stable Diffusion folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from jointnet.demo.training.text import new_text_encoder, new_tokenizer, tokenize
from jointnet.diffusion.schedule import DiscreteProcess
from jointnet.training.config import OptimConfig
from jointnet.training.loop import Losses, LossFn, fit
from jointnet.training.objective import draw_noise
from jointnet.training.state import Progress

TEXT_DROP, NOISE_OFFSET, SNR_LIMIT = 0.1, 0.05, 5.0
LAYOUT_TIMESTEPS = (700, 1000)
"""Where an image's layout is still open; the last phase draws half of its timesteps there."""

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


def noise_config() -> OptimConfig:
    """The first phase, noise prediction: cosine from 1e-3, averaged weights; a million samples."""
    return OptimConfig(
        lr=1e-3,
        batch_size=64,
        steps=16_000,
        warmup_steps=200,
        decay="cosine",
        final_lr_ratio=0.02,
        ema_decay=0.9995,
        precision="fastest",
    )


def base_config() -> OptimConfig:
    """The second phase, v-prediction, from the first one's weights."""
    return replace(noise_config(), lr=8e-4, warmup_steps=300)


def layout_config() -> OptimConfig:
    """The third phase, v-prediction with half of the timesteps in LAYOUT_TIMESTEPS: words that say where things stand are learned last."""
    return replace(noise_config(), lr=6e-4, warmup_steps=100)


def new_unet() -> UNet2DConditionModel:
    """7.4 M parameters for 8 x 16 x 16 latents; attention at 8 x 8 and 4 x 4 only, where it is cheap on a CPU."""
    torch.manual_seed(2)
    return UNet2DConditionModel(**_UNET)


def new_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule, v-prediction (Salimans & Ho, 2022) as in Stable Diffusion 2.1.

    Ancestral sampling: the noise of each step lets a small network mend what it got wrong before (docs/demo-model.md compares DDIM).
    """
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def loss_weight(prediction_type: str, snr: Tensor) -> Tensor:
    """Weight of a step's squared error. On the clean latents that is min(SNR, 5) for the noise (Hang et al., 2023) and 1 + min(SNR, 5)
    for v: there the steps that decide on the layout, where SNR is far below 1, count as much as those that draw the details.
    """
    if prediction_type == "v_prediction":
        return (1 + snr.clamp(max=SNR_LIMIT)) / (1 + snr)
    return (SNR_LIMIT / snr).clamp(max=1)


@dataclass(frozen=True)
class Phase:
    """A part of the base's training. ``share``: of the budget; ``layout_share``: of the timesteps, drawn from LAYOUT_TIMESTEPS only."""

    name: str
    prediction_type: str
    config: OptimConfig
    share: float
    layout_share: float = 0.0

    def draw_timesteps(self, count: int, process: DiscreteProcess, generator: torch.Generator) -> Tensor:
        """Timesteps (B,)."""
        anywhere = process.draw_timesteps(count, generator)
        if not self.layout_share:
            return anywhere
        early = torch.randint(*LAYOUT_TIMESTEPS, (count,), generator=generator)
        return torch.where(torch.rand(count, generator=generator) < self.layout_share, early, anywhere)


def base_phases() -> tuple[Phase, ...]:
    """The base's training, in order; each phase starts from the weights of the one before."""
    return (
        Phase("noise", "epsilon", noise_config(), 0.3),
        Phase("v", "v_prediction", base_config(), 0.4),
        Phase("layout", "v_prediction", layout_config(), 0.3, layout_share=0.5),
    )


class _BaseParts(nn.Module):
    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = new_text_encoder(self.tokenizer)
        self.unet = new_unet()


def _kept_tokenizer(folder: Path) -> CLIPTokenizer:
    if not folder.is_dir():
        new_tokenizer().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def train_base(
    vae: AutoencoderKL,
    latents: Tensor,
    captions: list[list[str]],
    run_dir: Path,
    *,
    budget_minutes: float | None = None,
) -> tuple[StableDiffusionPipeline, dict[str, Progress]]:
    """Train U-Net and text encoder together through all phases, each for its share of the budget; returns each phase's progress.

    The run folder keeps its tokenizer: a word's number must stay what it was when it was learned.

    Shapes: latents (N, 8, h, w), scaled RGB latents; captions: one or more lists of N captions, of which a step draws.
    """
    parts, scheduler = _BaseParts(_kept_tokenizer(run_dir / "tokenizer")), new_scheduler()
    tokens = torch.stack([tokenize(parts.tokenizer, draw) for draw in captions])  # (draws, N, L)
    empty = tokenize(parts.tokenizer, [""])[0]

    def loss_of(phase: Phase) -> LossFn:
        process = DiscreteProcess(scheduler.alphas_cumprod, phase.prediction_type)

        def loss_fn(indices: Tensor, generator: torch.Generator) -> Losses:
            count = len(indices)
            x0 = latents[indices].contiguous(memory_format=torch.channels_last)
            ids = tokens[torch.randint(len(tokens), (count,), generator=generator), indices]
            ids = torch.where((torch.rand(count, generator=generator) < TEXT_DROP)[:, None], empty, ids)
            noise = draw_noise(x0[:, None], NOISE_OFFSET, generator)  # (B, 1, 8, h, w)
            t = phase.draw_timesteps(count, process, generator)
            x_t, target = process.add_noise(x0[:, None], noise, t), process.target(x0[:, None], noise, t)
            predicted = parts.unet(x_t[:, 0], t, parts.text_encoder(ids).last_hidden_state).sample
            error = (predicted.float() - target[:, 0]).square().mean((1, 2, 3))
            a = process.alpha_bar[t]
            return {"loss": (error * loss_weight(phase.prediction_type, a / (1 - a))).mean(), phase.prediction_type: error.mean()}

        return loss_fn

    progress = {
        phase.name: fit(
            parts,
            loss_of(phase),
            num_samples=len(latents),
            config=phase.config,
            run_dir=run_dir / phase.name,
            budget_minutes=None if budget_minutes is None else budget_minutes * phase.share,
        )
        for phase in base_phases()
    }
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
