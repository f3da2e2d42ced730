"""Relative-normal error: do surfaces bend where they should? Usual depth metrics hardly see that a flat wall was made bumpy."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor
from torch.nn.functional import normalize

SCALES = (1, 2, 4, 8)
RADIUS, MIN_RADIUS = 32, 3
_SPACING = 2


def relative_normal_error(
    p_points: Tensor, points: Tensor, valid: Tensor, p_valid: Tensor | None = None, *, num_pairs: int = 100_000, seed: int = 0
) -> float:
    """Mean over pairs of near pixels of | angle between p's normals - angle between the true normals |, in radians, mean over scales.

    A pair without a predicted normal (where three points lie on a line, or p is not valid) counts as pi.

    Args:
        p_points, points: (3, H, W), points of the prediction and the ground truth in camera coordinates, in any unit.
        valid, p_valid: (H, W); p_valid None: all.
        num_pairs: of pixels, drawn at each scale.
    Raises: ValueError if no pair has ground truth.
    Source: Wu et al. (2025, "How to evaluate monocular depth estimation?"); scales 1, 2, 4, 8, a radius of 32 pixels of the full size (at
        least 3 at any scale), normals of triangles two pixels wide, and pi for what is missing, as in its published evaluation. There the
        pairs come from a Sobol sequence; here from a seeded generator.
    """
    p_valid = torch.ones_like(valid) if p_valid is None else p_valid
    generator = torch.Generator().manual_seed(seed)
    means = []
    for scale in SCALES:
        every = (..., slice(None, None, scale), slice(None, None, scale))
        if min(valid[every].shape) <= _SPACING:
            continue
        (p_normals, p_has), (normals, has) = (
            triangle_normals(p_points[every], p_valid[every]),
            triangle_normals(points[every], valid[every]),
        )
        first, second = near_pairs(has.shape[0], has.shape[1], max(RADIUS // scale, MIN_RADIUS), num_pairs, generator)
        is_counted = has.flatten()[first] & has.flatten()[second]
        if not is_counted.any():
            continue
        is_known = p_has.flatten()[first] & p_has.flatten()[second]
        error = (_angle(normals, first, second) - _angle(p_normals, first, second)).abs()
        means.append(float(torch.where(is_known, error, torch.full_like(error, pi))[is_counted].mean()))
    if not means:
        raise ValueError("got no pair of valid pixels; expected a map with valid pixels beside each other")
    return sum(means) / len(means)


def triangle_normals(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Normals of the triangles (i, j), (i + 2, j), (i, j + 2), and where there is one.

    Shapes: (3, H, W), (H, W) -> (3, H - 2, W - 2), (H - 2, W - 2).
    """
    corner, below, right = (_corners(points) for _corners in (_own, _below, _right))
    crossed = torch.linalg.cross(normalize(below - corner, dim=0), normalize(right - corner, dim=0), dim=0)
    length = crossed.norm(dim=0)
    return crossed / length.clamp(min=1e-5), (length > 1e-5) & _own(valid) & _below(valid) & _right(valid)


def near_pairs(height: int, width: int, radius: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs of pixels, the second within ``radius`` rows and columns of the first, as flat indices (at most ``count`` each)."""
    radius = min(radius, max(height, width))
    row, column = torch.randint(height, (2 * count,), generator=generator), torch.randint(width, (2 * count,), generator=generator)
    steps = torch.randint(-radius, radius, (2, 2 * count), generator=generator)
    other_row, other_column = row + steps[0], column + steps[1]
    inside = (other_row >= 0) & (other_row < height) & (other_column >= 0) & (other_column < width)
    first, second = row * width + column, other_row * width + other_column
    return first[inside][:count], second[inside][:count]


def _angle(normals: Tensor, first: Tensor, second: Tensor) -> Tensor:
    flat = normals.flatten(1)
    return (flat[:, first] * flat[:, second]).sum(0).clamp(-1, 1).acos()


def _own(value: Tensor) -> Tensor:
    return value[..., :-_SPACING, :-_SPACING]


def _below(value: Tensor) -> Tensor:
    return value[..., _SPACING:, :-_SPACING]


def _right(value: Tensor) -> Tensor:
    return value[..., :-_SPACING, _SPACING:]
