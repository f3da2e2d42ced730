"""The regressor that ``predict`` is measured against: one branch's network, trained to read depth latents off image latents."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from jointnet.data.latents import LatentStore
from jointnet.demo.training.base import new_unet
from jointnet.training.config import OptimConfig
from jointnet.training.feed import TensorFeed
from jointnet.training.state import Progress
from jointnet.training.trainer import FunctionObjective, fit


def regressor_config() -> OptimConfig:
    """Cosine from 1e-3, averaged weights."""
    return OptimConfig(
        lr=1e-3,
        batch_size=32,
        steps=6000,
        warmup_steps=200,
        decay="cosine",
        final_lr_ratio=0.02,
        ema_decay=0.999,
        precision="fastest",
        has_plain_attention=True,
        seed=11,
    )


class LatentRegressor(nn.Module):
    """The base's U-Net without noise, time or text: RGB latents (B, C, h, w) -> depth latents (B, C, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = new_unet()

    def forward(self, latents: Tensor) -> Tensor:
        no_text = latents.new_zeros(len(latents), 1, self.unet.config.cross_attention_dim)
        return self.unet(latents, 0, no_text).sample


def train_latent_regressor(
    store: LatentStore, run_dir: Path, *, budget_minutes: float | None = None, device: torch.device | str = "cpu"
) -> tuple[LatentRegressor, Progress]:
    """Train (or resume) it on the squared error of the latents; the store's modalities are RGB and depth."""
    torch.manual_seed(5)
    model = LatentRegressor().to(device)
    channels, side = model.unet.config.in_channels, model.unet.config.sample_size
    latents = store.all_latents(channels, (side, side)).to(device)  # (N, 2, C, h, w)

    def held(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        rgb, depth = latents[batch["row"].to(latents.device)].float().unbind(1)
        return {"rgb": rgb, "depth": depth}

    def loss_fn(network: LatentRegressor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (network(batch["rgb"]).float() - batch["depth"]).square().mean()}

    objective = FunctionObjective(model, loss_fn)
    feed = TensorFeed(len(store), lambda *_: {}, held)  # nothing is drawn
    progress = fit(objective, feed, config=regressor_config(), run_dir=run_dir, budget_minutes=budget_minutes)
    return model, progress
