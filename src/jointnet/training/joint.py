"""Training a joint network on encoded samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from jointnet.data.samples import LatentSamples
from jointnet.models.joint_unet import JointUNet
from jointnet.training.config import TrainConfig
from jointnet.training.loop import fit
from jointnet.training.loss import NoiseLevels, NoiseSchedule, joint_loss
from jointnet.training.masks import draw_masks
from jointnet.training.state import Progress
from jointnet.types import Known


def draw_shown(x0: Tensor, schedule: NoiseSchedule, config: TrainConfig, generator: torch.Generator) -> tuple[NoiseLevels, Tensor | None]:
    """What a step shows of samples (B, M, C, h, w): noise levels, and masks (B, M, 1, h, w; 1 asked) for a network that reads them."""
    batch, modalities, _, height, width = x0.shape
    if not config.has_masked_input:
        draw = schedule.independent_levels if config.has_independent_timesteps else schedule.shared_levels
        return draw(batch, modalities, generator), None
    levels = schedule.shared_levels(batch, modalities, generator)
    mask = draw_masks(batch, modalities, (height, width), generator)
    if config.has_independent_timesteps:
        levels = levels.with_clean(Known(x0, mask).is_whole)
    return levels, mask


def keeping_abilities(config: TrainConfig, joint_unet: JointUNet) -> TrainConfig:
    """The stage with the ways to condition that the network has already: what is no longer trained would be unlearned."""
    has = joint_unet.config
    return replace(
        config,
        has_masked_input=config.has_masked_input or bool(has.has_masked_input),
        has_independent_timesteps=config.has_independent_timesteps or bool(has.has_independent_timesteps),
    )


def train_joint(
    joint_unet: JointUNet,
    samples: LatentSamples,
    schedule: NoiseSchedule,
    config: TrainConfig,
    run_dir: Path,
    *,
    budget_minutes: float | None = None,
) -> Progress:
    """Run one stage on ``joint_unet`` in place, resuming from ``run_dir`` if it holds a state."""
    config = keeping_abilities(config, joint_unet)
    if config.has_masked_input:
        joint_unet.add_masked_input()
    if config.has_independent_timesteps:
        joint_unet.register_to_config(has_independent_timesteps=True)
    joint_unet.requires_grad_(True)
    joint_unet.branch("rgb").requires_grad_(not config.freeze_rgb)

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        x0, text = samples.batch(indices, config.text_drop, generator)
        levels, mask = draw_shown(x0, schedule, config, generator)
        return joint_loss(joint_unet, x0, text, schedule, noise_offset=config.noise_offset, generator=generator, levels=levels, mask=mask)

    return fit(
        joint_unet,
        loss_fn,
        num_samples=len(samples),
        config=config.optim,
        run_dir=run_dir,
        budget_minutes=budget_minutes,
    )
