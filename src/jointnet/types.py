"""Axes, the state, and what a denoiser is.

Axes: B batch, M modality, C channel, H, W, L text tokens, D text width. RGB is modality 0. The state ``x`` of a sampling or training run
is one tensor (B, M, C, H, W); timesteps are (B, M), so each modality may stand at its own noise level.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor


class PredictionType(StrEnum):
    """What the network predicts, by diffusers' names in a scheduler's config."""

    EPSILON = "epsilon"
    V = "v_prediction"
    SAMPLE = "sample"

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
        """What the network should return for x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise.

        Shapes: x0, noise (B, M, C, H, W); alpha_bar broadcastable to them.
        """
        if self is PredictionType.EPSILON:
            return noise
        if self is PredictionType.SAMPLE:
            return x0
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0


@dataclass(frozen=True)
class Text:
    """Encoded prompts: ``embeds`` (B, L, D) and, for bases that want them, added conditions (B, ...) by diffusers' names."""

    embeds: Tensor
    added: dict[str, Tensor] = field(default_factory=dict)

    def then(self, other: Text) -> Text:
        """Both along the batch axis."""
        added = {k: torch.cat([v, other.added[k]]) for k, v in self.added.items()}
        return Text(torch.cat([self.embeds, other.embeds]), added)


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told besides the noisy state.

    ``negative`` is the unconditional or negative prompt that guidance pushes away from; None where guidance is off.
    """

    text: Text
    negative: Text | None = None

    def guidance_pair(self) -> Conditioning:
        """The conditioning of a doubled batch: the negative prompts first, then the prompts."""
        if self.negative is None:
            raise ValueError("guidance needs a negative conditioning; got None")
        return replace(self, text=self.negative.then(self.text), negative=None)


class Denoiser(Protocol):
    """Anything that predicts: the joint network, or a wrapper around it."""

    def __call__(self, x: Tensor, t: Tensor, conditioning: Conditioning, /) -> Tensor:
        """Predict, as the scheduler's prediction type says. Shapes: x (B, M, C, H, W), t (B, M) -> (B, M, C, H, W)."""
        ...
