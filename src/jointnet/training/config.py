"""Settings of a training run: frozen values only, so that a stage is a change to another stage."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Literal

Precision = Literal["float32", "bfloat16", "fastest"]
"""fastest: bfloat16, but float32 on a processor that has no instructions for bfloat16, where it is the faster one."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How any network here is optimised: AdamW with warm-up, an optional cosine decay and an optional weight average.

    Attributes:
        lr: learning rate after ``warmup_steps`` of linear rise.
        decay: "constant", or "cosine" down to ``final_lr_ratio`` of lr at the run's end.
        ema_decay: decay of the exponential moving average of the weights that is saved as the result; None saves the weights.
        precision: autocast type of forward and loss; weights, moments and average stay float32.
        has_plain_attention: compute attention without the fused kernel, whose backward is slow on a CPU; it needs memory for every pair of
            positions, so it suits small maps.
        seed: with the step's number it seeds every draw of that step, which makes a resumed run equal an uninterrupted one.
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
        freeze_rgb: train the dense branches and every exchange, in both directions; the RGB branch keeps its weights.
        text_drop: share of the samples whose prompt is emptied, for all branches together.
        noise_offset: size of the constant added to a sample's noise, drawn for each modality and channel.
        has_masked_input: train a network that reads which pixels are known, and their latents (Sec. 4.1).
        has_independent_timesteps: let each modality stand at a noise level of its own, for conditioning without masks. With masked input
            too, wholly known modalities are clean, and all others share a noise level.
    """

    optim: OptimConfig
    modalities: tuple[str, ...] = ("rgb", "depth")
    freeze_rgb: bool = True
    text_drop: float = 0.15
    noise_offset: float = 0.05
    has_masked_input: bool = False
    has_independent_timesteps: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.text_drop <= 1:
            raise ValueError(f"got text_drop = {self.text_drop}, expected a share in [0, 1]")
