"""Training a joint network on samples of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jointnet.diffusion.schedule import ForwardProcess
from jointnet.errors import UnsupportedBaseError
from jointnet.models.branch_kinds import BranchKind
from jointnet.models.joint_unet import JointUNet
from jointnet.training.config import RunOptions, TrainConfig
from jointnet.training.joint_feed import JointBatch, JointFeed
from jointnet.training.objective import JointObjective
from jointnet.training.run import settings_of
from jointnet.training.state import Progress
from jointnet.training.trainer import Losses, Objective, fit


def keeping_abilities(config: TrainConfig, joint_unet: JointUNet) -> TrainConfig:
    """The stage, with the ways to condition that the network has already: without training it would forget them."""
    has = joint_unet.config
    return replace(
        config,
        has_masked_input=config.has_masked_input or bool(has.has_masked_input),
        has_independent_timesteps=config.has_independent_timesteps or bool(has.has_independent_timesteps),
    )


def prepare_network(joint_unet: JointUNet, config: TrainConfig) -> None:
    """Prepare a network for a stage, in place: what it reads, and which weights are trained."""
    config = keeping_abilities(config, joint_unet)
    if config.has_masked_input:
        joint_unet.add_masked_input()
    if config.has_independent_timesteps:
        joint_unet.register_to_config(has_independent_timesteps=True)
    joint_unet.requires_grad_(True)
    joint_unet.branch("rgb").requires_grad_(not config.freeze_rgb)


def joint_objective(
    joint_unet: JointUNet,
    process: ForwardProcess,
    config: TrainConfig,
    low_res_process: ForwardProcess | None = None,
    teacher: JointUNet | None = None,
) -> JointObjective:
    """Prepare a network for a stage, in place, and return its objective.

    Args:
        low_res_process: that of an upscaling base's smaller maps; by default the base's own.
        teacher: a trained network that this one learns from.
    Raises: UnsupportedBaseError for a teacher that reads or predicts something else.
    """
    prepare_network(joint_unet, config)
    return JointObjective(
        joint_unet,
        process,
        low_res_process=low_res_process,
        noise_offset=config.noise_offset,
        min_snr_gamma=config.min_snr_gamma,
        teacher=teacher,
    )


class JointTraining(Objective):
    """A joint network's objective on batches of a feed, with the text encoders that are trained along."""

    def __init__(self, objective: JointObjective, feed: JointFeed, text_encoders: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.objective = objective
        self.text_encoders = nn.ModuleList(text_encoders)
        self.feed = feed

    def counts(self, batch: JointBatch) -> Tensor:
        return self.objective.counted(batch.draws, batch.is_good)

    def units(self) -> Iterable[nn.Module]:
        network = self.objective.network
        return [*network.parts, network]

    def forward(self, batch: JointBatch, counts: Tensor) -> Losses:
        text = self.feed.encode_text(batch) if batch.text is None else batch.text
        assert batch.x0 is not None, "the feed has prepared it"
        shown = {} if batch.shown is None else {"shown": batch.shown}
        return self.objective(batch.x0, text, batch.draws, is_good=batch.is_good, counts=counts, **shown)


def train_joint(
    objective: JointObjective,
    feed: JointFeed,
    config: TrainConfig,
    run_dir: Path,
    *,
    options: RunOptions | None = None,
    facts: Mapping[str, Any] | None = None,
    text_encoders: Sequence[nn.Module] = (),
    budget_minutes: float | None = None,
    validate: Callable[[Progress], None] | None = None,
) -> Progress:
    """Run one stage on an objective's network in place, resuming from ``run_dir`` if it holds a state.

    Args:
        facts: what the run is known by besides its settings, see ``run.claim``.
        text_encoders: those to train along.
    Raises: UnsupportedBaseError for weights to be sharded that branches share; as ``fit`` does.
    """
    options = options or RunOptions()
    kind = objective.network.config.branch
    if options.is_sharded and BranchKind.parse(kind).rank:
        raise UnsupportedBaseError(f"got branches {kind} to be sharded; they run the RGB branch's layers, whose weights lie elsewhere then")
    if options.has_gradient_checkpointing:
        objective.network.enable_gradient_checkpointing()
    try:
        return fit(
            JointTraining(objective, feed, text_encoders),
            feed,
            config=config.optim,
            run_dir=run_dir,
            options=options,
            facts={**settings_of(config), **(facts or {})},
            budget_minutes=budget_minutes,
            validate=validate,
        )
    finally:
        if options.has_gradient_checkpointing:
            objective.network.disable_gradient_checkpointing()
