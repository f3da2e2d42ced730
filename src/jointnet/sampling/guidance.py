"""Classifier-free guidance as a wrapper around a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jointnet.types import Conditioning, Denoiser, Step


@dataclass(frozen=True)
class Guided:
    """Pushes the prediction away from the negative prompt: e_neg + scale (e_pos - e_neg), in one doubled batch.

    A learned variance is that of the prompt, unguided. ``scale`` may be a function, for scales that change from step to step; at 1 or
    less there is no guidance.
    ``is_guided`` says of (step, number of steps) whether the step is guided at all: guidance in an interval; None: each is.
    ``rescale`` in [0, 1] mixes in the guided prediction brought back to the standard deviation of e_pos, per sample and modality.
    Source: Ho & Salimans (2022); rescale: Lin et al. (2023), Eq. 15-16; intervals: Kynkaanniemi et al. (2024).
    """

    denoiser: Denoiser
    scale: float | Callable[[], float]
    rescale: float = 0.0
    is_guided: Callable[[int, int], bool] | None = None

    def __call__(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        scale = self.scale() if callable(self.scale) else self.scale
        if scale <= 1 or not (self.is_guided is None or self.is_guided(step.index, step.count)):
            return self.denoiser(x, step, conditioning)
        doubled = replace(step, t=torch.cat([step.t, step.t]))
        both = self.denoiser(torch.cat([x, x]), doubled, conditioning.guidance_pair())
        channels = x.shape[2]
        negative, positive = both[:, :, :channels].chunk(2)
        guided = negative + scale * (positive - negative)
        if self.rescale != 0:
            axes = tuple(range(2, x.ndim))
            ratio = positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
            guided = self.rescale * guided * ratio + (1 - self.rescale) * guided
        variance = both[len(x) :, :, channels:]  # (B, M, C, H, W) where it is learned, else no channels
        return torch.cat([guided, variance], 2)
