"""Axes, the state, and what a denoiser is.

Axes: B batch, M modality, C channel, H, W, L text tokens, D text width. RGB is modality 0. The state ``x`` of a sampling or training run
is one tensor (B, M, C, H, W); timesteps are (B, M), so each modality may stand at its own noise level.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Encoded prompts: ``embeds`` (B, L, D) and, for bases that want them, added conditions (B, ...) by diffusers' names."""

    embeds: Tensor
    added: dict[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> Text:
        """The same change of every tensor."""
        return Text(change(self.embeds), {k: change(v) for k, v in self.added.items()})

    def take(self, rows: Tensor) -> Text:
        """Some rows of the batch."""
        return self.map(lambda v: v[rows])

    def zeros_like(self) -> Text:
        """Zeros of the same shapes."""
        return self.map(torch.zeros_like)

    def where(self, is_other: Tensor, other: Text) -> Text:
        """The other's rows where ``is_other`` (B,); a single row stands for all."""

        def choose(own: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(is_other.to(own.device).view(-1, *[1] * (own.ndim - 1)), theirs, own)

        return Text(choose(self.embeds, other.embeds), {k: choose(v, other.added[k]) for k, v in self.added.items()})

    def concat(self, other: Text) -> Text:
        """Both along the batch axis."""
        added = {k: torch.cat([v, other.added[k]]) for k, v in self.added.items()}
        return Text(torch.cat([self.embeds, other.embeds]), added)


def empty_like(text: Text, empty: Text) -> Text:
    """An empty prompt, one row, for each row of a text; what the empty one does not state (SDXL's sizes) is the text's own."""
    rows = empty.map(lambda v: v.to(text.embeds).expand(len(text.embeds), *v.shape[1:]))
    return Text(rows.embeds, {**text.added, **rows.added})


def size_ids(size: tuple[int, int], original: tuple[int, int] | None = None, crop: tuple[int, int] = (0, 0)) -> Tensor:
    """SDXL's ``time_ids`` of a picture, (1, 6): its original height and width, where it was cropped (top, left), its size.

    Source: Podell et al. (2023), Sec. 2.2.
    """
    return torch.tensor([[*(original or size), *crop, *size]], dtype=torch.float32)


@dataclass(frozen=True)
class Known:
    """The known part of a state: clean ``latents`` (B, M, C, H, W), and boolean ``asked`` (B, M, 1, H, W), True where a pixel is sampled.

    Latents may hold anything where ``asked`` is True.
    """

    latents: Tensor
    asked: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Known:
        """The same change of both tensors."""
        return Known(change(self.latents), change(self.asked))


@dataclass(frozen=True)
class LowRes:
    """Input of an upscaling network beside the noisy state: smaller maps, enlarged to its size and noised.

    ``maps`` (B, M, C, H, W); ``level`` (B,): the timestep they are noised to.
    """

    maps: Tensor
    level: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> LowRes:
        """The same change of both tensors."""
        return LowRes(change(self.maps), change(self.level))


@dataclass(frozen=True)
class Conditioning:
    """Input of a denoiser besides the noisy state.

    ``negative`` is the unconditional or negative prompt that guidance pushes away from; None where guidance is off. ``known`` is for
    networks that were trained to take a part as known; None: nothing is, or the network cannot use it. ``low_res`` is for upscaling
    networks only. ``is_pair``: the first half of the rows are the second half's with the negative prompts.
    """

    text: Text
    negative: Text | None = None
    known: Known | None = None
    low_res: LowRes | None = None
    is_pair: bool = False

    def guidance_pair(self) -> Conditioning:
        """The conditioning of a doubled batch: the negative prompts first, then the prompts; all else is the same for both."""
        if self.negative is None:
            raise ValueError("guidance needs a negative conditioning; got None")
        known = None if self.known is None else self.known.map(_twice)
        low_res = None if self.low_res is None else self.low_res.map(_twice)
        return Conditioning(self.negative.concat(self.text), None, known, low_res, is_pair=True)

    def take(self, rows: Tensor, cut: Callable[[Tensor], Tensor]) -> Conditioning:
        """The conditioning of tiles: the rows of the batch they come from, and how a canvas (B, M, c, H, W) becomes the tiles' crops."""
        return Conditioning(
            self.text.take(rows),
            None if self.negative is None else self.negative.take(rows),
            None if self.known is None else self.known.map(cut),
            None if self.low_res is None else LowRes(cut(self.low_res.maps), self.low_res.level[rows]),
        )


def _twice(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows])


@dataclass(frozen=True)
class Step:
    """Where a run stands.

    Attributes:
        index: of the noise level among the run's ``count`` ones, from 0; a solver of second order calls a denoiser twice at most of them.
        t: timesteps (B, M) of the state's rows and modalities.
        t_next: the timestep after this call, (); None at the last one.
        place: what the rows show, as far as it is known to come again at later steps: a name for some windows of a canvas. Anything that is
            kept from step to step is kept by place.
    """

    index: int
    count: int
    t: Tensor
    t_next: Tensor | None = None
    place: Hashable = None


class Denoiser(Protocol):
    """Anything that predicts: the joint network, or a wrapper around it."""

    def __call__(self, x: Tensor, step: Step, conditioning: Conditioning, /) -> Tensor:
        """Predict, as the scheduler's prediction type states. Shapes: x (B, M, C, H, W), step.t (B, M) -> (B, M, C, H, W)."""
        ...


Sent = tuple[Sequence["Tensor | int"], "Tensor | int"]
"""What a branch adds to another's skips and its mid block's output; 0 where nothing is sent."""


@dataclass
class Kept:
    """What calls leave for later ones, at one place.

    Attributes:
        deep: modality -> the hidden state before its last upward layers, all that was received in it.
        sent: (sender, receiver) -> what was added to the receiver's skips and its mid output.
        predictions: modality -> its last prediction.
        shallow: modality -> the last of its shallow skips when its deep layers last ran.
    """

    deep: dict[str, Tensor] = field(default_factory=dict)
    sent: dict[tuple[str, str], Sent] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    shallow: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """How one call may do less than all.

    Attributes:
        unguided: the first half of the rows are those of the second half with negative prompts, and the dense branches run on the second
            half only: they send the same to both, and predict the same for both, so guidance leaves their prediction as it is.
        layers: of the shallow part: 0 runs all; else the last so many upward layers, and the first so many skips, are run on every call.
        is_shallow: run only those, on what ``kept`` has of the deep ones (Ma et al., 2024, DeepCache).
        tolerance: run the deep ones all the same where the shallow skips have changed by more than this share of them since they last did.
        resting: modalities that do not run: their last prediction and what they last sent stand for them.
        keeps_sent: a later call has branches at rest, and needs what was sent.
        kept: read and written; None: nothing is kept.
    """

    unguided: bool = False
    layers: int = 0
    is_shallow: bool = False
    tolerance: float | None = None
    resting: frozenset[str] = frozenset()
    keeps_sent: bool = False
    kept: Kept | None = None
