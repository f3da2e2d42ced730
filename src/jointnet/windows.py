"""Overlapping windows on a canvas: where they lie, how much each pixel of a window counts, how a window is cut out and laid back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from jointnet.errors import RangeError


@dataclass(frozen=True)
class Window:
    """Rows and columns of one window, as indices into the canvas."""

    rows: Tensor
    columns: Tensor

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of its first pixel."""
        return int(self.rows[0]), int(self.columns[0])

    def cut(self, canvas: Tensor) -> Tensor:
        """(..., H, W) -> (..., h, w)."""
        return canvas[..., self.rows[:, None], self.columns]

    def add_to(self, canvas: Tensor, values: Tensor) -> None:
        """Add values (..., h, w) to the window's pixels of a canvas (..., H, W), in place."""
        canvas[..., self.rows[:, None], self.columns] += values


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Square windows on a canvas (height, width); an axis no longer than the window is not cut, unless it wraps.

    Attributes:
        window, stride: side of a window, and distance of neighbouring ones, in the canvas's pixels.
        decay: pixels over which a window's weight falls linearly to 0 at its edges, along the axes that are cut.
        wraps: whether the canvas's left and right edges are neighbours.
        decays_everywhere: weights also fall along an axis that is not cut.
    Raises: RangeError if a stride is larger than the window or not positive, or the decay is longer than half a window.
    Source: Sec. 4.2.
    """

    canvas: tuple[int, int]
    window: int
    stride: int
    decay: int = 0
    wraps: bool = False
    decays_everywhere: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window:
            raise RangeError(
                f"got a stride of {self.stride} with a window of {self.window}; expected 1 to {self.window}, or pixels stay uncovered"
            )
        if not 0 <= self.decay <= self.window / 2:
            raise RangeError(f"got a decay of {self.decay} with windows of {self.window}; expected at most half a window")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a window on this canvas."""
        return min(self.window, self.canvas[0]), min(self.window, self.canvas[1])

    @property
    def is_cut(self) -> tuple[bool, bool]:
        """True for an axis with several windows: (rows, columns)."""
        return self.canvas[0] > self.window, self.canvas[1] > self.window or self.wraps

    def at(self, offset: Sequence[int] = (0, 0)) -> list[Window]:
        """The windows, moved by an offset (rows, columns), each in [0, stride): every pixel lies in one of them for every offset.

        Where the canvas does not wrap, windows that would leave it are moved back onto it.
        """
        starts = [_starts(self.canvas[axis], self.window, self.stride, offset[axis], wraps=self.wraps and axis == 1) for axis in (0, 1)]
        height, width = self.size
        rows = [y + torch.arange(height) for y in starts[0]]
        columns = [(x + torch.arange(width)) % self.canvas[1] for x in starts[1]]
        return [Window(r, c) for r in rows for c in columns]

    def draw_offset(self, generator: torch.Generator | None) -> tuple[int, int]:
        """A random offset along the axes that are cut."""
        device = "cpu" if generator is None else generator.device
        draw = [int(torch.randint(self.stride, (), generator=generator, device=device)) for _ in range(2)]
        return draw[0] * self.is_cut[0], draw[1] * self.is_cut[1]

    def weights(self) -> Tensor:
        """How much each pixel of a window counts, (h, w) in (0, 1]; where both axes decay, the smaller weight."""
        decays = [self.decay if cut or self.decays_everywhere else 0 for cut in self.is_cut]
        height, width = (_axis_weights(length, decay) for length, decay in zip(self.size, decays, strict=True))
        return torch.minimum(height[:, None], width)


def _starts(length: int, window: int, stride: int, offset: int, *, wraps: bool) -> list[int]:
    if wraps:
        return [(offset + k * stride) % length for k in range(ceil(length / stride))]
    if window >= length:
        return [0]
    last = length - window
    return sorted({min(max(k * stride - offset, 0), last) for k in range(ceil((last + offset) / stride) + 1)})


def _axis_weights(length: int, decay: int) -> Tensor:
    if decay == 0:
        return torch.ones(length)
    centres = torch.arange(length) + 0.5
    return (torch.minimum(centres, length - centres) / decay).clamp(max=1)
