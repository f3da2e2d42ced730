"""Settings of a training run: frozen values only, so that a stage is a change to another stage."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Literal

from jointnet.machine.precision import Precision
from jointnet.models.branch_kinds import BranchKind

Optimizer = Literal["adamw", "adamw8bit"]
"""adamw8bit keeps its moments in 8 bits; it needs bitsandbytes."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How any network here is optimised: AdamW with warm-up, an optional cosine decay and an optional weight average.

    Attributes:
        batch_size: samples a step, of all processes together.
        lr: learning rate after ``warmup_steps`` of linear rise.
        decay: "constant", or "cosine" down to ``final_lr_ratio`` of lr at the run's end.
        ema_decay: decay of the exponential moving average of the weights that is saved as the result; None saves the weights.
        precision: autocast type of forward and loss; weights, moments and average stay float32.
        has_plain_attention: compute attention without the fused kernel, whose backward is slow on a CPU; it needs memory for every pair of
            positions, so it suits small maps.
        seed: of the order of the samples and, with its epoch and id, of every draw of a sample: a resumed run equals an uninterrupted one.
    """

    lr: float
    batch_size: int
    steps: int
    warmup_steps: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    final_lr_ratio: float = 0.0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    precision: Precision = "float32"
    has_plain_attention: bool = False
    optimizer: Optimizer = "adamw"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "batch_size", "steps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"got {name} = {getattr(self, name)}, expected a number above 0")

    def lr_at(self, progress: float, step: int) -> float:
        """Learning rate at a step that stands at ``progress`` in [0, 1] of the run."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay == "constant":
            return self.lr * warm
        low = self.final_lr_ratio
        return self.lr * warm * (low + (1 - low) * (1 + cos(pi * min(progress, 1.0))) / 2)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One stage of training a joint network (Sec. 3.4).

    Attributes:
        modalities: what a base is extended to; a model has its own.
        branch: what its dense branches are, as ``JointUNet`` has it; a model has its own.
        size: side of the training pictures in pixels; None: the base's.
        freeze_rgb: train the dense branches and every exchange, in both directions; the RGB branch keeps its weights.
        text_drop: share of the samples whose prompt is emptied, for all branches together.
        noise_offset: size of the constant added to a sample's noise, drawn for each modality and channel.
        has_masked_input: train a network that reads which pixels are known, and their latents (Sec. 4.1).
        min_snr_gamma: limit of the signal-to-noise ratio in the loss's weight (Hang et al., 2023; 5 is usual); None weighs all noise levels
            alike, as the paper does.
        crop: which square of a picture is trained on: its middle, or a random one each time.
        has_aspect_buckets: train on whole pictures at about their aspect ratio, in batches of one size, instead of on squares.
        trains_text_encoder: the base's text encoder is trained along.
        caches_latents: encode every sample once, before training; not with random crops.
        caches_text: encode every caption once too, beside the latents; it takes more room than they do.
        teacher_steps: distil the model to few steps: it learns to reach in one what it reaches in so many guided ones now; None: train it.
        teacher_guidance: the scale of these; None: the model's own.
        predicts_in_one_step: train the model to make all maps of a picture in one step, through its decoder; afterwards it draws nothing.
        has_independent_timesteps: let each modality stand at a noise level of its own, for conditioning without masks. With masked input
            too, wholly known modalities are clean, and all others share a noise level.
    """

    optim: OptimConfig
    modalities: tuple[str, ...] = ("rgb", "depth")
    branch: str = "full"
    size: int | None = None
    freeze_rgb: bool = True
    text_drop: float = 0.15
    noise_offset: float = 0.05
    has_masked_input: bool = False
    has_independent_timesteps: bool = False
    min_snr_gamma: float | None = None
    crop: Literal["centre", "random"] = "centre"
    has_aspect_buckets: bool = False
    trains_text_encoder: bool = False
    caches_latents: bool = True
    caches_text: bool = False
    teacher_steps: int | None = None
    teacher_guidance: float | None = None
    predicts_in_one_step: bool = False

    def __post_init__(self) -> None:
        is_prepared = self.teacher_steps is None and self.has_independent_timesteps and self.crop == "centre"
        if self.predicts_in_one_step and not is_prepared:
            raise ValueError(
                "got predicts_in_one_step with teacher_steps, without independent timesteps or with random crops; it needs a network that "
                "takes a clean picture, and maps as they were encoded"
            )
        BranchKind.parse(self.branch)
        if self.min_snr_gamma is not None and (self.teacher_steps is not None or self.predicts_in_one_step):
            raise ValueError("got min_snr_gamma with teacher_steps or predicts_in_one_step, which weigh no errors so; leave it out")
        if not 0 <= self.text_drop <= 1:
            raise ValueError(f"got text_drop = {self.text_drop}, expected a share in [0, 1]")
        if self.has_aspect_buckets and self.crop != "centre":
            raise ValueError("got random crops with aspect buckets; buckets take whole pictures: leave one of them out")
        if self.caches_text and (not self.caches_latents or self.crop != "centre"):
            raise ValueError(
                "got caches_text without cached latents, beside which texts lie; leave it out, or cache latents of centre crops"
            )
        if self.caches_text and self.trains_text_encoder:
            raise ValueError("got caches_text with trains_text_encoder, which changes what captions are encoded to; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out. Nothing of it changes what is trained, so all of it may be another when a run resumes.

    Attributes:
        micro_batch_size: samples in one forward of one process; None: the process's share of the batch. Smaller ones are accumulated.
        has_gradient_checkpointing: compute activations again in the backward, for less memory and about a third more time.
        is_sharded: shard weights, gradients and moments over the processes (FSDP2) instead of copying them (DDP).
        num_workers: processes that read samples ahead.
        save_every_minutes, save_every_steps: when the state is saved; at most a tenth of the time goes into saving by the minute.
        keep_states: how many states of a run are kept; older ones are deleted.
        log_every: steps of a row of the loss curve.
        validate_every: steps between contact sheets of the validation prompts.
        trackers: names that Accelerate knows, such as "tensorboard" and "wandb".
        max_nonfinite: steps in a row whose loss or gradient is not finite, and which are skipped, before the run stops.
        max_bad: share of the samples that may be unusable before the run stops.
    """

    micro_batch_size: int | None = None
    has_gradient_checkpointing: bool = False
    is_sharded: bool = False
    num_workers: int = 0
    save_every_minutes: float | None = 1.0
    save_every_steps: int | None = None
    keep_states: int = 1
    log_every: int = 50
    validate_every: int | None = None
    trackers: tuple[str, ...] = ()
    max_nonfinite: int = 10
    max_bad: float = 0.01
