"""Several samples of one map -> one map and how uncertain each pixel is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

_ROUNDS = 20
_LEAST_GAIN = 0.05
_ALIGNMENT_SIDE = 256


def merge_affine(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Median of samples that agree up to scale and shift, after alignment.

    Each sample is taken as gain * median + shift + noise: its gain and shift are found by least squares and undone, in turns with the
    median. The samples' mean gain counts as 1 and their mean as the common one, so that noise flattens nothing. A sample that runs
    against the others keeps its gain: it counts as disagreement.
    Shapes: maps (N, c, H, W) -> map (c, H, W), uncertainty (1, H, W): half the mean distance between two aligned samples' values, in
    the map's unit; 0 for N = 1.
    """
    if len(maps) == 1:
        return maps[0], torch.zeros_like(maps[0, :1])
    gains = _relative_gains(maps)  # (N, 1)
    flat = maps.flatten(1).cpu().double()  # (N, P); Apple's GPUs have no float64
    aligned = (flat - flat.mean(1, keepdim=True)) / gains + flat.mean()
    aligned = aligned.view_as(maps).to(maps)
    return middle(aligned), _half_distance(aligned).mean(0, keepdim=True)


def _relative_gains(maps: Tensor) -> Tensor:
    """Gains of maps (N, c, H, W) with respect to their median, (N, 1), of mean 1.

    Two numbers a map need no large maps: they are found on maps of at most _ALIGNMENT_SIDE pixels along their long side.
    """
    share = _ALIGNMENT_SIDE / max(maps.shape[-2:])
    if share < 1:
        size = [max(1, round(side * share)) for side in maps.shape[-2:]]
        maps = interpolate(maps.float(), size=size, mode="area")
    flat = maps.flatten(1).cpu().double()
    centred = flat - flat.mean(1, keepdim=True)
    aligned, relative = flat, torch.ones(len(flat), 1)
    for _ in range(_ROUNDS):
        gains = _gains(centred, middle(aligned))
        relative = gains / gains.mean()
        aligned = centred / relative + flat.mean()
    return relative


def merge_values(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Median of samples as they are. Shapes as in merge_affine."""
    return middle(maps), _half_distance(maps).mean(0, keepdim=True)


def merge_directions(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean direction of unit vectors. Shapes: (N, 3, H, W) -> map (3, H, W), uncertainty (1, H, W): mean angle to it in degrees.

    Where more than half of the samples have no direction (zero vectors), neither has the result.
    """
    has_direction = maps.norm(dim=1, keepdim=True) > 0.5  # (N, 1, H, W)
    mean = normalize(maps.sum(0), dim=0)  # (3, H, W)
    angle_deg = torch.rad2deg((maps * mean).sum(1, keepdim=True).clamp(-1, 1).acos()) * has_direction
    count = has_direction.sum(0)
    kept = count * 2 > len(maps)
    return mean * kept, angle_deg.sum(0) / count.clamp(min=1) * kept


def middle(samples: Tensor) -> Tensor:
    """Median over the first axis; of an even number the mean of the two in the middle (torch.median takes the lower one)."""
    return samples.quantile(0.5, dim=0)


def _gains(centred: Tensor, target: Tensor) -> Tensor:
    """How much of the target (P,) each row (N, P) has in it, (N, 1); 1 for rows that have none or run against it."""
    target = target - target.mean()
    gains = (centred @ target) / target.square().sum().clamp(min=1e-12)
    return torch.where(gains > _LEAST_GAIN, gains, 1)[:, None]


def _half_distance(maps: Tensor) -> Tensor:
    """Half the mean absolute difference of two different samples (N, c, H, W) -> (c, H, W), by sorting: no pair is formed."""
    n = len(maps)
    if n == 1:
        return torch.zeros_like(maps[0])
    ranks = torch.arange(n, dtype=maps.dtype, device=maps.device).view(-1, *[1] * (maps.ndim - 1))
    total = ((2 * ranks - (n - 1)) * maps.sort(0).values).sum(0)  # sum over pairs of |a - b|
    return total / (n * (n - 1))
