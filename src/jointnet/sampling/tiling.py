"""Denoising a large canvas in tiles, as a wrapper around a denoiser (Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import floor

import torch
from torch import Tensor

from jointnet.errors import RangeError
from jointnet.sampling.schedulers import Generators
from jointnet.types import Conditioning, Denoiser, Step
from jointnet.windows import Window, Windows


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a canvas is cut; all lengths in latent pixels.

    Attributes:
        window: side of the square windows, the size the base was made for.
        stride: distance of neighbouring windows; by default half a window.
        decay: length over which a window's weight falls to 0; by default an eighth of a window.
        wraps: left and right edges are neighbours, as in a panorama of 360 degrees.
        decays_everywhere: a window's weight also falls along an axis with a single window.
        whole_weight: weight of the whole image as one more tile, against 1 of a window.
        whole_share: the whole image takes part in the first floor(whole_share * steps) steps; 0 leaves it out.
        whole_every: of these steps, it takes part in every so many, the first one included.
        alone_share: in the first floor(alone_share * steps) steps there are no windows: the whole image, at its own size, is all.
        has_random_offset: move all windows by one random offset in [0, stride) in each step.
        batch_size: tiles in one call of the network.
    Raises: RangeError.
    """

    window: int
    stride: int | None = None
    decay: int | None = None
    wraps: bool = False
    decays_everywhere: bool = False
    whole_weight: float = 5.0
    whole_share: float = 0.4
    whole_every: int = 1
    alone_share: float = 0.0
    has_random_offset: bool = True
    batch_size: int = 4

    def __post_init__(self) -> None:
        for name in ("whole_share", "alone_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RangeError(f"got {name} = {getattr(self, name)}; expected a share of the steps in [0, 1]")
        for name in ("batch_size", "whole_every"):
            if getattr(self, name) < 1:
                raise RangeError(f"got {name} = {getattr(self, name)}; expected at least 1")
        self.on((self.window, self.window))

    def on(self, canvas: tuple[int, int]) -> Windows:
        """The windows on a canvas (height, width)."""
        stride = self.window // 2 if self.stride is None else self.stride
        decay = self.window // 8 if self.decay is None else self.decay
        return Windows(
            canvas=canvas, window=self.window, stride=stride, decay=decay, wraps=self.wraps, decays_everywhere=self.decays_everywhere
        )


def first_share(share: float, count: int) -> int:
    """floor(share * count): the steps in which the whole canvas takes part (Sec. 4.2)."""
    return floor(share * count + 1e-9)


@dataclass(frozen=True)
class Tiled:
    """Predicts a canvas as the weighted mean of its tiles' predictions; works with any scheduler, whose one state steps the canvas.

    Masks and known latents are cut with the tile; tiles are merged in float32. A tile of the whole canvas's size is the canvas: then this
    changes nothing.

    Attributes:
        generator: of the offsets; with a list each sample has its own, so that a batch equals its single images.
        hold: steps through which windows stay where they are, so that what is kept of a window can be used again.
        count_whole_steps: (whole_share, number of steps) -> the number of first steps in which the whole canvas takes part.
    """

    denoiser: Denoiser
    tiling: Tiling
    generator: Generators = None
    count_whole_steps: Callable[[float, int], int] = first_share
    hold: int = 1
    _held: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def __call__(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        windows = self.tiling.on((x.shape[-2], x.shape[-1]))
        if not any(windows.is_cut):
            return self.denoiser(x, step, conditioning)
        if step.index < first_share(self.tiling.alone_share, step.count):
            return self.denoiser(x, step, conditioning)
        weights = windows.weights().to(x.device)
        mean = _RunningMean(x)
        places = [(row, window) for row, offset in enumerate(self._offsets(windows, len(x), step)) for window in windows.at(offset)]
        for start in range(0, len(places), self.tiling.batch_size):
            some = places[start : start + self.tiling.batch_size]
            rows = torch.tensor([row for row, _ in some], device=x.device)
            cropped = conditioning.take(rows, lambda canvas, some=some: _cut(canvas, some))
            at_rows = replace(step, t=step.t[rows], place=tuple((row, *window.corner) for row, window in some))
            for place, tile in zip(some, self.denoiser(_cut(x, some), at_rows, cropped), strict=True):
                mean.add(place, tile, weights)
        share = self.tiling.whole_share
        if share > 0 and step.index < self.count_whole_steps(share, step.count) and step.index % self.tiling.whole_every == 0:
            mean.add_whole(self.denoiser(x, step, conditioning), self.tiling.whole_weight)
        return mean.value()

    def _offsets(self, windows: Windows, batch: int, step: Step) -> list[tuple[int, int]]:
        if self.hold == 1:
            return self._drawn_offsets(windows, batch)
        group = step.index // self.hold
        if group not in self._held:
            self._held.clear()
            self._held[group] = self._drawn_offsets(windows, batch)
        return self._held[group]

    def _drawn_offsets(self, windows: Windows, batch: int) -> list[tuple[int, int]]:
        if not self.tiling.has_random_offset:
            return [(0, 0)] * batch
        if isinstance(self.generator, list):
            return [windows.draw_offset(g) for g in self.generator]
        return [windows.draw_offset(self.generator)] * batch


Place = tuple[int, Window]
"""A sample's row in the batch, and a window on it."""


def _cut(canvas: Tensor, places: list[Place]) -> Tensor:
    """(B, M, c, H, W) -> one crop a place, (tiles, M, c, h, w)."""
    return torch.stack([window.cut(canvas[row]) for row, window in places])


class _RunningMean:
    """A running weighted mean over tiles, in float32; as many channels as the network returns, which may be more than x has."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.total = x, None
        self.weight = x.new_zeros(len(x), 1, 1, *x.shape[-2:], dtype=torch.float32)

    def add(self, place: Place, tile: Tensor, weights: Tensor) -> None:
        """A tile (M, c, h, w) with weights (h, w)."""
        row, window = place
        if self.total is None:
            self.total = self.x.new_zeros(len(self.x), *tile.shape[:2], *self.x.shape[-2:], dtype=torch.float32)
        window.add_to(self.total[row], weights * tile.float())
        window.add_to(self.weight[row], weights)

    def add_whole(self, prediction: Tensor, weight: float) -> None:
        """The whole canvas (B, M, c, H, W) as one more tile."""
        self.total = weight * prediction.float() + (0 if self.total is None else self.total)
        self.weight = self.weight + weight

    def value(self) -> Tensor:
        """(B, M, c, H, W) in the state's type."""
        assert self.total is not None, "no tile was added"
        return (self.total / self.weight).to(self.x.dtype)
