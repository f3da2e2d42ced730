"""The demo base's autoencoder: an 8x AutoencoderKL with 8 latent channels, trained on crops of rendered scenes.

It is trained on colour, depth and normal maps alike: one that saw only colour decodes a grey map badly, and its error is a
floor under every figure of the dense modalities.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from jointnet.demo.world.cache import SceneCache
from jointnet.training.config import OptimConfig
from jointnet.training.feed import TensorFeed
from jointnet.training.state import Progress
from jointnet.training.trainer import FunctionObjective, fit

CROP = 64
KIND_SHARES = {"rgb": 0.68, "disparity": 0.12, "normal": 0.17, "shuffled rgb": 0.03}


_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (24, 48, 96, 96),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 2,
    "sample_size": 128,
    "mid_block_add_attention": False,
}


def autoencoder_config() -> OptimConfig:
    """Cosine from 1e-3; 160,000 crops."""
    return OptimConfig(lr=1e-3, batch_size=16, steps=10_000, warmup_steps=100, decay="cosine", weight_decay=1e-4, precision="fastest")


def new_autoencoder() -> AutoencoderKL:
    """2.1 M parameters, fully convolutional (no attention in the middle), so that any size and any tile decodes alike.

    Two norm groups: with 3 channels a group the last norm takes away each group's mean and scale, and with them the colours.
    """
    torch.manual_seed(0)
    return AutoencoderKL(**_AUTOENCODER)


class _Crops:
    """Random crops of the cached maps, which are held on a device, with the noise of their latents."""

    def __init__(self, scenes: SceneCache, latent_shape: tuple[int, int, int], device: torch.device | str) -> None:
        self.maps = {name: scenes.chunks(name, device) for name in ("rgb", "disparity", "normal")}
        self.chunk = len(self.maps["rgb"][0])
        self.kinds = list(KIND_SHARES)
        self.edges = np.cumsum(list(KIND_SHARES.values()))
        self.latent_shape = latent_shape

    def draw(self, row: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002 - it decides on the generator only
        """Which map and part of a scene (4,), and the noise."""
        return {"crop": torch.rand(4, generator=generator), "noise": torch.randn(self.latent_shape, generator=generator)}

    def cut(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Crops (B, 3, CROP, CROP) in [-1, 1]."""
        drawn = zip(batch["row"].tolist(), batch["crop"].tolist(), strict=True)
        return {"image": torch.stack([self._one(row, *crop) for row, crop in drawn])}

    def _one(self, index: int, which: float, row: float, column: float, flip: float) -> Tensor:
        kind = self.kinds[min(int(np.searchsorted(self.edges, which)), len(self.kinds) - 1)]
        map_ = self.maps["rgb" if kind == "shuffled rgb" else kind][index // self.chunk][index % self.chunk]
        top, left = (int(v * (map_.shape[0] - CROP + 1)) for v in (row, column))
        crop = map_[top : top + CROP, left : left + CROP].float()
        crop = (crop / 65535)[..., None].expand(-1, -1, 3) if kind == "disparity" else crop / 255
        if kind == "shuffled rgb":
            crop = crop.roll(-1, 2) if flip < 0.5 else 1 - crop
        if flip < 0.5:
            crop = crop.flip(1)
        return crop.permute(2, 0, 1) * 2 - 1


def reconstruction_loss(model: AutoencoderKL, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """L1 + L1 of 4 x 4 means + half the L1 of the image gradients + 1e-4 KL.

    The means keep colours right, which an L1 of pixels only gives up early for sharper edges.
    Shapes: "image" (B, 3, H, W) in [-1, 1]; "noise" (B, C, h, w), of the latents.
    """
    images = batch["image"].contiguous(memory_format=torch.channels_last)  # the convolutions run faster so
    posterior = model.encode(images).latent_dist
    decoded = model.decode(posterior.mean + posterior.std * batch["noise"]).sample.float()
    difference = decoded - images
    l1 = difference.abs().mean()
    gradient = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    means = avg_pool2d(difference, 4).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return {"loss": l1 + means + 0.5 * gradient + 1e-4 * kl, "l1": l1, "means": means, "kl": kl}


def train_autoencoder(
    scenes: SceneCache, run_dir: Path, *, budget_minutes: float | None = None, device: torch.device | str = "cpu"
) -> tuple[AutoencoderKL, Progress]:
    """Train (or resume) the autoencoder and set its scaling factor to one over the standard deviation of RGB latents."""
    model = new_autoencoder()
    cast(nn.Module, model).to(device)
    side = CROP // 2 ** (len(model.config.block_out_channels) - 1)
    crops = _Crops(scenes, (model.config.latent_channels, side, side), device)
    progress = fit(
        FunctionObjective(model, reconstruction_loss),
        TensorFeed(scenes.num_scenes, crops.draw, crops.cut),
        config=autoencoder_config(),
        run_dir=run_dir,
        budget_minutes=budget_minutes,
    )
    model.register_to_config(scaling_factor=latent_scale(model, scenes))
    return model, progress


@torch.no_grad()
def latent_scale(model: AutoencoderKL, scenes: SceneCache, num: int = 256) -> float:
    """One over the standard deviation of the posterior mean over the first ``num`` RGB scenes."""
    rgb = scenes.chunks("rgb")[0][:num].to(model.device).permute(0, 3, 1, 2) / 127.5 - 1
    latents = torch.cat([model.encode(part).latent_dist.mean for part in rgb.split(32)])
    return round(float(1 / latents.std()), 5)
