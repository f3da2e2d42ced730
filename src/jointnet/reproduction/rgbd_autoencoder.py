"""LDM3D's way: the base's autoencoder is made to hold RGB and depth in one latent, then its U-Net is fine-tuned on those latents."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from jointnet.codecs.latent import LatentCodec
from jointnet.data.sample import Sample
from jointnet.evaluation.models.adapters import generators_of
from jointnet.models.direct_extend import wider
from jointnet.models.joint_unet import JointUNet
from jointnet.reproduction.setting import Setting, WrappedSource
from jointnet.tasks.conventions import PAPER
from jointnet.tasks.generate import Generate
from jointnet.tasks.options import SamplingOptions
from jointnet.training.feed import TensorFeed
from jointnet.training.joint import train_joint
from jointnet.training.stage import stage_feed, stage_objective
from jointnet.training.state import Progress
from jointnet.training.trainer import FunctionObjective, fit

_SHARE_OF_STEPS = 0.5
"""Of the budget's steps, for the autoencoder, beside all of them for the U-Net."""


def extended_autoencoder(vae: AutoencoderKL) -> AutoencoderKL:
    """Return a copy of an autoencoder that reads and makes a fourth channel; at first it makes the mean of the others there."""
    body: Any = copy.deepcopy(vae)
    body.encoder.conv_in = wider(vae.encoder.conv_in, nn.init.zeros_, in_groups=1)
    last: Any = vae.decoder.conv_out
    body.decoder.conv_out = wider(last, nn.init.zeros_, out_groups=1)
    with torch.no_grad():
        read, made = cast(Any, body.encoder.conv_in), cast(Any, body.decoder.conv_out)
        read.weight = nn.Parameter(read.weight[:, :4].clone())
        made.weight[3:4], made.bias[3:4] = last.weight.mean(0, keepdim=True), last.bias.mean()
        made.weight, made.bias = nn.Parameter(made.weight[:4].clone()), nn.Parameter(made.bias[:4].clone())
    read.in_channels, made.out_channels = 4, 4
    body.register_to_config(in_channels=4, out_channels=4)
    return cast(AutoencoderKL, body.requires_grad_(True))


def rgbd_loss(model: AutoencoderKL, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """L1 of pixels, of 4 x 4 means and of gradients, and a little KL, as the demo base's autoencoder was trained. "image": (B, 4, H, W)."""
    images = batch["image"]
    posterior = model.encode(images).latent_dist
    difference = model.decode(posterior.mean + posterior.std * batch["noise"]).sample.float() - images
    gradient = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return {"loss": difference.abs().mean() + avg_pool2d(difference, 4).abs().mean() + 0.5 * gradient + 1e-4 * kl}


class RGBDSource(WrappedSource):
    """A Source whose "rgb" has depth for its fourth channel."""

    def read(self, row: int, modalities: Sequence[str] = ("rgb",)) -> Sample:
        """Read a sample of four channels."""
        sample = self.source.read(row, [*modalities, "depth"])
        return replace(sample, maps={"rgb": torch.cat([sample.maps["rgb"], sample.maps["depth"]])})

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:
        """The source's, of both."""
        return self.source.contents([*modalities, "depth"])


class RGBDCodec(LatentCodec):
    """A LatentCodec of maps of four channels."""

    def encode(self, modality: str, maps: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002 - as a Codec has it
        """Shapes: (B, 4, H, W) in [0, 1] -> scaled latents (B, C, h, w)."""
        images = (maps * 2 - 1).to(self.vae.device, self.vae.dtype)
        return cast(Any, self.vae.encode(images)).latent_dist.mode() * self.vae.config.scaling_factor


@dataclass(frozen=True)
class RGBDGenerator:
    """A ``Generator`` whose autoencoder makes RGB and depth of one latent.

    Attributes:
        pipeline: a JointNetPipeline of "rgb" alone, with four channels.
    """

    pipeline: Any
    steps: int = 50

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> dict[str, Tensor]:
        """See ``Generator``."""
        as_made = replace(PAPER, decode=lambda _, images: images / 2 + 0.5)
        options = SamplingOptions(num_inference_steps=self.steps, generator=generators_of(seeds), conventions=as_made)
        made = self.pipeline.run(Generate(prompt=list(prompts), options=options)).maps["rgb"]
        return {"rgb": made[:, :3], "depth": made[:, 3:]}


def train_rgbd(setting: Setting, base: Any, seed: int, run_dir: Path) -> tuple[Any, Progress, Progress, nn.Module]:
    """Train autoencoder and U-Net; return a pipeline of four channels, the progress of both, and what was trained last."""
    # 1. The autoencoder
    source, vae = RGBDSource(setting.source), extended_autoencoder(base.vae.float())
    cast(nn.Module, vae).to(setting.device)
    side = setting.size // 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (vae.config.latent_channels, side, side)

    def read(row: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"image": source.read(row).maps["rgb"] * 2 - 1, "noise": torch.randn(shape, generator=generator)}

    optim = setting.config(seed).optim
    of_vae = replace(optim, steps=round(optim.steps * _SHARE_OF_STEPS), lr=5e-4, ema_decay=None)
    first = fit(FunctionObjective(vae, rgbd_loss), TensorFeed(len(source), read), config=of_vae, run_dir=run_dir / "autoencoder")
    vae.requires_grad_(False)
    with torch.no_grad():
        some = torch.stack([source.read(row).maps["rgb"] * 2 - 1 for row in range(min(64, len(source)))])
        vae.register_to_config(scaling_factor=float(1 / vae.encode(some.to(setting.device)).latent_dist.mean.std()))

    # 2. The U-Net
    base.vae = vae
    pipeline = setting.joint_pipeline(JointUNet.from_unet(base.unet, ("rgb",)), base)
    config = replace(setting.config(seed), modalities=("rgb",), freeze_rgb=False)
    objective, facts = stage_objective(pipeline, config), {"data": source.contents(("rgb",))}
    codec, latents = RGBDCodec(vae), run_dir / "latents"
    feed = stage_feed(pipeline, source, config, objective.rule, latents, known_by=facts, max_bad=0, codec=codec)
    return pipeline, first, train_joint(objective, feed, config, run_dir / "unet", facts=facts), objective
