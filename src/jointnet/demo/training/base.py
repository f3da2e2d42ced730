"""The demo base: a text-to-image latent diffusion model trained from nothing, saved as a genuine Stable Diffusion folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from jointnet.data.latents import LatentStore
from jointnet.demo.training.text import new_text_encoder, new_tokenizer, tokenize
from jointnet.diffusion.schedule import DiscreteProcess
from jointnet.training.config import OptimConfig
from jointnet.training.draws import draw_noise
from jointnet.training.feed import TensorFeed
from jointnet.training.state import Progress
from jointnet.training.trainer import FunctionObjective, fit

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


class _Samples:
    """The store's latents and the token ids of its captions, held on a device. All samples have as many captions."""

    def __init__(self, store: LatentStore, parts: _BaseParts, device: torch.device | str) -> None:
        channels, side = parts.unet.config.in_channels, parts.unet.config.sample_size
        self.latents = store.all_latents(channels, (side, side)).to(device)  # (N, 1, C, h, w)
        captions = [store.row(row).captions for row in range(len(store))]
        self.num_captions = len(captions[0])
        ids = tokenize(parts.tokenizer, ["", *(text for texts in captions for text in texts)])
        self.no_ids, self.ids = ids[0].to(device), ids[1:].view(len(store), self.num_captions, -1).to(device)

    def draw(self, phase: Phase, process: DiscreteProcess, row: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002 - as the trainer's feeds draw
        """Caption, if it is not dropped, noise and timestep of a reading."""
        caption = torch.randint(self.num_captions, (), generator=generator)
        is_dropped = torch.rand((), generator=generator) < TEXT_DROP
        noise = draw_noise((1, *self.latents.shape[1:]), NOISE_OFFSET, generator)[0]
        t = phase.draw_timesteps(1, process, generator)[0]
        return {"caption": caption, "is_dropped": is_dropped, "noise": noise, "t": t}

    def held(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Latents and token ids of a batch."""
        row, caption, is_dropped = (batch[name].to(self.ids.device) for name in ("row", "caption", "is_dropped"))
        return {"x0": self.latents[row].float(), "ids": torch.where(is_dropped[:, None], self.no_ids, self.ids[row, caption])}


def _base_loss(phase: Phase, process: DiscreteProcess, parts: _BaseParts, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weighted squared error of the prediction. Shapes: "x0", "noise" (B, 1, C, h, w), "ids" (B, L), "t" (B,)."""
    x0, noise, t = batch["x0"], batch["noise"], batch["t"]
    x_t, target = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    images = x_t[:, 0].contiguous(memory_format=torch.channels_last)
    predicted = parts.unet(images, t, parts.text_encoder(batch["ids"]).last_hidden_state).sample
    error = (predicted.float() - target[:, 0]).square().mean((1, 2, 3))
    a = process.alpha_bar.to(t.device)[t]
    return {"loss": (error * loss_weight(phase.prediction_type, a / (1 - a))).mean(), phase.prediction_type: error.mean()}


def _kept_tokenizer(folder: Path) -> CLIPTokenizer:
    if not folder.is_dir():
        new_tokenizer().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def train_base(
    vae: AutoencoderKL,
    store: LatentStore,
    run_dir: Path,
    *,
    budget_minutes: float | None = None,
    device: torch.device | str = "cpu",
) -> tuple[StableDiffusionPipeline, dict[str, Progress]]:
    """Train U-Net and text encoder together through all phases, each for its share of the budget; returns each phase's progress.

    The run folder keeps its tokenizer: a word's number must stay what it was when it was learned. The store holds RGB latents; of a
    sample's captions, each reading draws one.
    """
    parts, scheduler = _BaseParts(_kept_tokenizer(run_dir / "tokenizer")).to(device), new_scheduler()
    samples = _Samples(store, parts, device)
    progress: dict[str, Progress] = {}
    for phase in base_phases():
        process = DiscreteProcess(scheduler.alphas_cumprod, phase.prediction_type)
        progress[phase.name] = fit(
            FunctionObjective(parts, partial(_base_loss, phase, process)),
            TensorFeed(len(store), partial(samples.draw, phase, process), samples.held),
            config=phase.config,
            run_dir=run_dir / phase.name,
            budget_minutes=None if budget_minutes is None else budget_minutes * phase.share,
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
