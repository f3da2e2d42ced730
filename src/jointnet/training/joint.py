"""Training a joint network on encoded samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from jointnet.data.samples import LatentSamples
from jointnet.models.joint_unet import JointUNet
from jointnet.training.config import TrainConfig
from jointnet.training.loop import fit
from jointnet.training.loss import NoiseSchedule, joint_loss
from jointnet.training.state import Progress


def train_joint(
    joint_unet: JointUNet,
    samples: LatentSamples,
    schedule: NoiseSchedule,
    config: TrainConfig,
    run_dir: Path,
    *,
    budget_minutes: float | None = None,
    save_every_minutes: float = 5.0,
    on_save: Callable[[Progress], None] | None = None,
) -> Progress:
    """Run one stage on ``joint_unet`` in place, resuming from ``run_dir`` if it holds a state."""
    joint_unet.requires_grad_(True)
    joint_unet.branch("rgb").requires_grad_(not config.freeze_rgb)

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        x0, text = samples.batch(indices, config.text_drop, generator)
        return joint_loss(joint_unet, x0, text, schedule, noise_offset=config.noise_offset, generator=generator)

    return fit(
        joint_unet,
        loss_fn,
        num_samples=len(samples),
        config=config.optim,
        run_dir=run_dir,
        budget_minutes=budget_minutes,
        save_every_minutes=save_every_minutes,
        on_save=on_save,
    )
