"""Axes, the state, and what a denoiser is.

Axes: B batch, M modality, C channel, H, W, L text tokens, D text width. RGB is modality 0. The state ``x`` of a sampling or training run
is one tensor (B, M, C, H, W); timesteps are (B, M), so each modality may stand at its own noise level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Text:
        """The same change of every tensor."""
        return Text(change(self.embeds), {k: change(v) for k, v in self.added.items()})

    def take(self, rows: Tensor) -> Text:
        """Some rows of the batch."""
        return self.mapped(lambda v: v[rows])

    def zeros(self) -> Text:
        """Nothing said, of the same shapes."""
        return self.mapped(torch.zeros_like)

    def where(self, is_other: Tensor, other: Text) -> Text:
        """The other's rows where ``is_other`` (B,); a single row stands for all."""

        def chosen(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(is_other.to(mine.device).view(-1, *[1] * (mine.ndim - 1)), theirs, mine)

        return Text(chosen(self.embeds, other.embeds), {k: chosen(v, other.added[k]) for k, v in self.added.items()})

    def then(self, other: Text) -> Text:
        """Both along the batch axis."""
        added = {k: torch.cat([v, other.added[k]]) for k, v in self.added.items()}
        return Text(torch.cat([self.embeds, other.embeds]), added)


def size_ids(size: tuple[int, int], original: tuple[int, int] | None = None, crop: tuple[int, int] = (0, 0)) -> Tensor:
    """What SDXL is told of a picture (``time_ids``), (1, 6): its original height and width, where it was cropped (top, left), its size.

    Source: Podell et al. (2023), Sec. 2.2.
    """
    return torch.tensor([[*(original or size), *crop, *size]], dtype=torch.float32)


@dataclass(frozen=True)
class Known:
    """What of a state is known: clean ``latents`` (B, M, C, H, W) and a ``mask`` (B, M, 1, H, W), 1 where a pixel is asked, 0 where known.

    Latents may hold anything where they are asked.
    """

    latents: Tensor
    mask: Tensor

    @property
    def masked_latents(self) -> Tensor:
        """The latents, 0 where they are asked."""
        return self.latents * (self.mask < 0.5)

    @property
    def is_whole(self) -> Tensor:
        """Which modalities are wholly known, (B, M)."""
        return (self.mask < 0.5).all((2, 3, 4))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Known:
        """The same change of both tensors."""
        return Known(change(self.latents), change(self.mask))


@dataclass(frozen=True)
class LowRes:
    """What an upscaling network reads beside the noisy state: smaller maps, enlarged to its size and noised.

    ``maps`` (B, M, C, H, W); ``level`` (B,): the timestep they are noised to.
    """

    maps: Tensor
    level: Tensor

    def mapped(self, change: Callable[[Tensor], Tensor]) -> LowRes:
        """The same change of both tensors."""
        return LowRes(change(self.maps), change(self.level))


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told besides the noisy state.

    ``negative`` is the unconditional or negative prompt that guidance pushes away from; None where guidance is off. ``known`` is for
    networks that were trained to take something as known; None: nothing is, or the network would not know what to do with it.
    ``low_res`` is there for upscaling networks only.
    """

    text: Text
    negative: Text | None = None
    known: Known | None = None
    low_res: LowRes | None = None

    def guidance_pair(self) -> Conditioning:
        """The conditioning of a doubled batch: the negative prompts first, then the prompts; all else is the same for both."""
        if self.negative is None:
            raise ValueError("guidance needs a negative conditioning; got None")
        known = None if self.known is None else self.known.mapped(_twice)
        low_res = None if self.low_res is None else self.low_res.mapped(_twice)
        return Conditioning(self.negative.then(self.text), None, known, low_res)

    def take(self, rows: Tensor, cut: Callable[[Tensor], Tensor]) -> Conditioning:
        """The conditioning of tiles: the rows of the batch they come from, and how a canvas (B, M, c, H, W) becomes the tiles' crops."""
        return Conditioning(
            self.text.take(rows),
            None if self.negative is None else self.negative.take(rows),
            None if self.known is None else self.known.mapped(cut),
            None if self.low_res is None else LowRes(cut(self.low_res.maps), self.low_res.level[rows]),
        )


def _twice(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows])


class Denoiser(Protocol):
    """Anything that predicts: the joint network, or a wrapper around it."""

    def __call__(self, x: Tensor, t: Tensor, conditioning: Conditioning, /) -> Tensor:
        """Predict, as the scheduler's prediction type says. Shapes: x (B, M, C, H, W), t (B, M) -> (B, M, C, H, W)."""
        ...
