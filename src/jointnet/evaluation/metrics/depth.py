"""Depth metrics: pure functions on tensors, p a prediction, d the ground truth, both (H, W) or any same shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p

import torch
from torch import Tensor

BOUNDARY_THRESHOLDS = (0.05, 0.07, 0.09, 0.11, 0.13, 0.15, 0.17, 0.19, 0.21, 0.23, 0.25)


@dataclass(frozen=True)
class ScaleShift:
    """aligned = scale * p + shift."""

    scale: float
    shift: float

    def __call__(self, p: Tensor) -> Tensor:
        return self.scale * p + self.shift


def fit_scale_shift(p: Tensor, target: Tensor, valid: Tensor) -> ScaleShift:
    """(s, t) = argmin over valid pixels of sum (s p + t - target)^2; s = 0 where p is constant.

    Raises: ValueError if fewer than two pixels are valid.
    """
    x, y = p[valid].double(), target[valid].double()
    if len(x) < 2:
        raise ValueError(f"got {len(x)} valid pixels; expected at least 2")
    variance = (x - x.mean()).square().mean()
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    scale = float(covariance / variance) if float(variance) > 1e-12 else 0.0
    return ScaleShift(scale, float(y.mean() - scale * x.mean()))


def align_disparity(p: Tensor, disparity: Tensor, valid: Tensor, *, cap_m: float, unit: float = 1.0) -> Tensor:
    """Fit predicted to true disparity, clip at that of the far limit, invert: depth in metres.

    ``unit`` is the depth at disparity 1 (near / z has unit near). Source: MiDaS' protocol, as in Ranftl et al. (2021).
    """
    aligned = fit_scale_shift(p, disparity, valid)(p)
    return unit / aligned.clamp(min=unit / cap_m)


def abs_rel(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """Mean of |p - d| / d over valid pixels."""
    return float(((p - d).abs() / d)[valid].mean())


def delta(p: Tensor, d: Tensor, valid: Tensor, n: int = 1) -> float:
    """Share of valid pixels with max(p / d, d / p) < 1.25^n."""
    ratio = torch.maximum(p / d, d / p)[valid]
    return float((ratio < 1.25**n).float().mean())


def rmse(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """Root of the mean squared difference over valid pixels."""
    return float((p - d)[valid].square().mean().sqrt())


def boundary_f1(p: Tensor, d: Tensor, thresholds: Sequence[float] = BOUNDARY_THRESHOLDS) -> float:
    """Sharpness: do the occlusion edges of p lie where those of d do? Mean of F1 over thresholds, weighted by them.

    A pixel occludes its right or lower neighbour (or is occluded by it) where their depths' ratio exceeds 1 + threshold. Precision is
    the share of p's edges that are edges of d, recall the share of d's that are p's. Shapes: (H, W), depth above 0. nan if d has no edge.
    Source: Bochkovskii et al. (2024, Depth Pro), Sec. 4.
    """
    total = weight = 0.0
    for threshold in thresholds:
        found, true = _occlusions(p, threshold), _occlusions(d, threshold)
        if not true.any():
            continue
        hits = float((found & true).sum())
        precision, recall = hits / max(float(found.sum()), 1.0), hits / float(true.sum())
        total += threshold * (2 * precision * recall / (precision + recall) if hits else 0.0)
        weight += threshold
    return total / weight if weight else float("nan")


def _occlusions(depth: Tensor, threshold: float) -> Tensor:
    """In front of and behind the right and the lower neighbour, all four as one vector."""
    log = depth.log()
    limit = log1p(threshold)
    steps = [log.diff(dim=axis).flatten() for axis in (0, 1)]
    return torch.cat([side for step in steps for side in (step > limit, step < -limit)])
