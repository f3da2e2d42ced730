"""Training one variant: all by the same loop, feed, order of samples and draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any

from torch import nn

from jointnet.models.joint_unet import JointUNet
from jointnet.reproduction.objectives import (
    ControlNetObjective,
    ImageConditionedObjective,
    OneMapObjective,
    controlnet_pipeline,
    marigold_pipeline,
)
from jointnet.reproduction.rgbd_autoencoder import RGBDGenerator, train_rgbd
from jointnet.reproduction.setting import InverseDepth, Setting
from jointnet.reproduction.variants import Variant
from jointnet.training.config import TrainConfig
from jointnet.training.joint import train_joint
from jointnet.training.run import claim, open_run
from jointnet.training.stage import stage_feed, stage_objective
from jointnet.training.state import Progress
from jointnet.training.trainer import fit

Watch = Callable[[int, Any], None]
"""(step, the pipeline as it is then) -> nothing; called at checkpoints, the start included."""


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        pipeline: a JointNetPipeline; or of diffusers, a ControlNet's or Marigold's.
        seconds: of training; samples: that were seen; loss: mean of the last tenth of the curve.
        parameters_m: trained, in millions.
    """

    pipeline: Any
    seconds: float
    samples: int
    loss: float
    parameters_m: float


def train_variant(
    setting: Setting, variant: Variant, seed: int, run_dir: Path, *, checkpoints: Sequence[int] = (), watch: Watch | None = None
) -> Trained:
    """Train (or resume) a variant from the base. Raises: as ``training.trainer.fit``."""
    base = setting.base_pipeline()
    if variant.kind == "joint":
        pipeline = setting.joint_pipeline(variant.build(base.unet, seed), base)
        config = variant.change(replace(setting.config(seed), modalities=pipeline.modalities))
        return _train_joint(setting, pipeline, config, run_dir, is_inverse=variant.is_inverse, checkpoints=checkpoints, watch=watch)
    if variant.kind == "rgbd-autoencoder":
        pipeline, of_autoencoder, progress, objective = train_rgbd(setting, base, seed, run_dir)
        made = trained_of(RGBDGenerator(pipeline, setting.budget.sampling_steps), objective, progress)
        return replace(made, seconds=round(made.seconds + of_autoencoder.seconds, 1), samples=made.samples + of_autoencoder.samples)
    pipeline = setting.joint_pipeline(JointUNet.from_unet(base.unet), base)
    config = replace(setting.config(seed), modalities=pipeline.modalities)
    config = replace(config, optim=replace(config.optim, steps=2 * config.optim.steps))  # as many as JointNet's two stages
    rule = stage_objective(pipeline, config).rule
    if variant.kind == "controlnet":
        objective: Any = ControlNetObjective(base.unet, rule)
        progress = _fit(setting, pipeline, objective, config, run_dir, shown=("depth",))
        return trained_of(controlnet_pipeline(pipeline, objective), objective, progress)
    objective = ImageConditionedObjective(base.unet, rule, pipeline.training_text()[1])
    progress = _fit(setting, pipeline, objective, config, run_dir)
    return trained_of(marigold_pipeline(pipeline, objective), objective, progress)


def train_next_stage(setting: Setting, pipeline: Any, recipe: str, seed: int, run_dir: Path) -> Trained:
    """Train a stage that starts from stage 1's result, in the same budget."""
    config = replace(setting.config(seed, recipe), modalities=pipeline.modalities)
    return _train_joint(setting, pipeline, config, run_dir)


def _train_joint(
    setting: Setting,
    pipeline: Any,
    config: TrainConfig,
    run_dir: Path,
    *,
    is_inverse: bool = False,
    checkpoints: Sequence[int] = (),
    watch: Watch | None = None,
) -> Trained:
    if watch is not None and 0 in checkpoints:
        watch(0, pipeline)
    later = [step for step in checkpoints if step > 0]

    def validate(progress: Progress) -> None:
        if watch is not None and progress.step in later:
            watch(progress.step, pipeline)

    objective = stage_objective(pipeline, config)
    source = InverseDepth(setting.source) if is_inverse else setting.source
    read = [name for name in pipeline.modalities if name not in setting.labels]
    facts = {"data": source.contents(read), **{name: labeler.fingerprint() for name, labeler in setting.labels.items()}}
    latents = setting.work / "latents" / ("-".join(pipeline.modalities) + "-inverse" * is_inverse)
    with open_run(run_dir):
        claim(run_dir, config, facts)
        labels = {name: labeler for name, labeler in setting.labels.items() if name in pipeline.modalities}
        feed = stage_feed(pipeline, source, config, objective.rule, latents, known_by=facts, labels=labels, max_bad=setting.options.max_bad)
        options = replace(setting.options, validate_every=gcd(*later) if later else None)
        progress = train_joint(objective, feed, config, run_dir, options=options, facts=facts, validate=validate if later else None)
    return trained_of(pipeline, objective, progress)


def _fit(
    setting: Setting, pipeline: Any, objective: OneMapObjective, config: TrainConfig, run_dir: Path, shown: Sequence[str] = ()
) -> Progress:
    """Train another objective on the feed that a joint network has."""
    objective.to(setting.device)
    facts = {"data": setting.source.contents(pipeline.modalities)}
    latents = setting.work / "latents" / "-".join(pipeline.modalities)
    feed = stage_feed(pipeline, setting.source, config, objective.rule, latents, known_by=facts, max_bad=0, shown=shown)
    return fit(objective, feed, config=config.optim, run_dir=run_dir, facts=facts)


def trained_of(pipeline: Any, objective: nn.Module, progress: Progress) -> Trained:
    """Put what a training gave together."""
    last = progress.curve[-max(1, len(progress.curve) // 10) :]
    parameters = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    loss = sum(row["loss"] for row in last) / max(1, len(last))
    return Trained(pipeline, round(progress.seconds, 1), progress.samples, loss, round(parameters / 1e6, 2))
