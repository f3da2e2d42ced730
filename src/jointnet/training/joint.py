"""Training a joint network on encoded samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jointnet.data.samples import LatentSamples
from jointnet.diffusion.schedule import ForwardProcess
from jointnet.models.joint_unet import JointUNet
from jointnet.training.config import TrainConfig
from jointnet.training.loop import fit
from jointnet.training.objective import JointObjective
from jointnet.training.run import settings_of
from jointnet.training.state import Progress


def keeping_abilities(config: TrainConfig, joint_unet: JointUNet) -> TrainConfig:
    """The stage, with the ways to condition that the network has already: without training it would forget them."""
    has = joint_unet.config
    return replace(
        config,
        has_masked_input=config.has_masked_input or bool(has.has_masked_input),
        has_independent_timesteps=config.has_independent_timesteps or bool(has.has_independent_timesteps),
    )


def train_joint(
    joint_unet: JointUNet,
    samples: LatentSamples,
    process: ForwardProcess,
    config: TrainConfig,
    run_dir: Path,
    *,
    facts: Mapping[str, Any] | None = None,
    low_res_process: ForwardProcess | None = None,
    budget_minutes: float | None = None,
) -> Progress:
    """Run one stage on ``joint_unet`` in place, resuming from ``run_dir`` if it holds a state.

    Args:
        facts: what the run is known by besides its settings, see ``run.claim``.
        low_res_process: that of an upscaling base's smaller maps; by default the base's own.
    Raises: as ``fit`` does.
    """
    config = keeping_abilities(config, joint_unet)
    if config.has_masked_input:
        joint_unet.add_masked_input()
    if config.has_independent_timesteps:
        joint_unet.register_to_config(has_independent_timesteps=True)
    joint_unet.requires_grad_(True)
    joint_unet.branch("rgb").requires_grad_(not config.freeze_rgb)
    objective = JointObjective(joint_unet, process, low_res_process=low_res_process, noise_offset=config.noise_offset)

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        x0, text = samples.batch(indices, config.text_drop, generator)
        return objective(x0, text, objective.draw(x0, generator))

    return fit(
        joint_unet,
        loss_fn,
        num_samples=len(samples),
        config=config.optim,
        run_dir=run_dir,
        facts={**settings_of(config), **(facts or {})},
        budget_minutes=budget_minutes,
    )
