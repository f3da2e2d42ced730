"""Tell from a depth map's values what they are: dense or scattered, disparity or distance."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

_LONGEST_SIDE = 512
"""Pixels a side that are looked at."""

_LEAST_RATIO = 1.2
"""Three pixels in a row are looked at where the outer two differ by this factor."""

_LEAST_VOTES = 0.02
"""Share of the pixels that must have a vote."""


def is_scattered(has_value: Tensor) -> bool:
    """True if in any map more than half of the pixels with a value lie beside one without: points of a lidar, not a picture with sky.

    Shapes: boolean (B, 1, H, W). Beside means above, below, left or right.
    """
    framed = pad(has_value.float(), (1, 1, 1, 1), value=1.0).bool()  # (B, 1, H + 2, W + 2)
    above, below, left, right = framed[..., :-2, 1:-1], framed[..., 2:, 1:-1], framed[..., 1:-1, :-2], framed[..., 1:-1, 2:]
    is_beside_hole = has_value & ~(above & below & left & right)
    return bool((2 * is_beside_hole.sum((1, 2, 3)) > has_value.sum((1, 2, 3))).any())


def distance_share(values: np.ndarray) -> float | None:
    """Return the share of a map's slopes that bend as distances do, and not as disparities; None if too few can be told apart.

    On a plane disparity is linear in the picture, however steep, and distance is its reciprocal. Of three pixels in a row the middle one is
    therefore the outer ones' arithmetic mean in the one case, their harmonic mean in the other. Each such three have a vote where the two
    means differ, if the middle pixel is near either: across an edge it lies anywhere.
    Shapes: (H, W); zeros and what is not finite have no vote.
    """
    every = max(1, -(-max(values.shape) // _LONGEST_SIDE))
    grid = values[::every, ::every].astype(np.float64)
    grid = np.where(np.isfinite(grid) & (grid > 0), grid, np.nan)
    votes = [_votes(lines, max(1, len(lines) // parts)) for lines in (grid, grid.T) for parts in (8, 16)]
    distance, disparity = (sum(vote[kind] for vote in votes) for kind in (0, 1))
    total = distance + disparity
    return distance / total if total >= max(1.0, _LEAST_VOTES * grid.size) else None


def _votes(lines: np.ndarray, step: int) -> tuple[int, int]:
    """Count threes along the first axis, ``step`` pixels apart, that bend as (distances, disparities)."""
    first, middle, last = lines[: -2 * step], lines[step:-step], lines[2 * step :]
    low, high = np.minimum(first, last), np.maximum(first, last)
    is_steep = high > _LEAST_RATIO * low  # False where one is NaN
    low, middle, high = low[is_steep], middle[is_steep], high[is_steep]
    place = (middle - low) / (high - low)  # of the arithmetic mean: 1/2
    harmonic = low / (low + high)  # the place of the harmonic mean, below 1/2
    is_between = (place > 0.6 * harmonic) & (place < 0.7)
    is_distance = place < (harmonic + 0.5) / 2
    return int((is_between & is_distance).sum()), int((is_between & ~is_distance).sum())
