"""Random masks of training samples in the masked-input stage (Sec. 4.1): boolean, True where a pixel is asked."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Draw = Callable[[int, tuple[int, int], torch.Generator], Tensor]
"""(M, (h, w), generator) -> the mask of one sample (M, 1, h, w)."""


def draw_masks(batch: int, modalities: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Masks (B, M, 1, h, w) for latents: each sample's kind is drawn by MIX."""
    kinds, shares = list(MIX), torch.tensor(list(MIX.values()))
    chosen = torch.multinomial(shares, batch, replacement=True, generator=generator)
    return torch.stack([kinds[k](modalities, size, generator) for k in chosen.tolist()])


def all_asked(modalities: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:  # noqa: ARG001 - one of several kinds
    """Plain generation."""
    return torch.ones(modalities, 1, *size, dtype=torch.bool)


def some_known(modalities: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """One modality wholly known, or of more than two several, the others wholly asked: image -> depth, depth -> image.

    Of a single one, nothing is known.
    """
    if modalities == 1:
        return all_asked(modalities, size, generator)
    count = int(torch.randint(1, modalities, (), generator=generator))
    known = torch.randperm(modalities, generator=generator)[:count]
    asked = torch.ones(modalities, 1, *size, dtype=torch.bool)
    asked[known] = False
    return asked


def same_hole(modalities: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """The same hole in all maps."""
    return draw_hole(size, generator).expand(modalities, 1, -1, -1)


def different_holes(modalities: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A hole of its own in each map."""
    return torch.stack([draw_hole(size, generator)[None] for _ in range(modalities)])


MIX: dict[Draw, float] = {all_asked: 0.2, some_known: 0.4, same_hole: 0.2, different_holes: 0.2}
"""Kind of mask -> its share of the samples."""


def draw_hole(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """One to three boxes or strokes, half the time turned inside out, (h, w)."""
    hole = torch.zeros(size, dtype=torch.bool)
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        draw = _box if torch.rand((), generator=generator) < 0.5 else _stroke
        hole = hole | draw(size, generator)
    return ~hole if torch.rand((), generator=generator) < 0.5 else hole


def _box(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A box with sides from an eighth to three quarters of the map's."""
    box = torch.zeros(size, dtype=torch.bool)
    spans = []
    for side in size:
        length = max(1, int(side * (0.125 + 0.625 * torch.rand((), generator=generator))))
        start = int(torch.randint(0, side - length + 1, (), generator=generator))
        spans.append(slice(start, start + length))
    box[spans[0], spans[1]] = True
    return box


def _stroke(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A polyline of two to four points, as thick as a brush."""
    scale = torch.tensor(size, dtype=torch.float32)
    points = torch.rand(int(torch.randint(2, 5, (), generator=generator)), 2, generator=generator) * scale
    radius = (0.04 + 0.1 * torch.rand((), generator=generator)) * float(scale.min())
    grid = torch.stack(torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij"), -1)  # (h, w, 2)
    nearest = torch.full(size, torch.inf)
    for a, b in pairwise(points):
        along = (((grid - a) @ (b - a)) / (b - a).square().sum().clamp(min=1e-9)).clamp(0, 1)
        nearest = torch.minimum(nearest, (grid - a - along[..., None] * (b - a)).norm(dim=-1))
    return nearest <= radius
