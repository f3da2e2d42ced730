"""Depth metrics: pure functions on tensors, p a prediction, d the ground truth, both (H, W) or any same shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

BOUNDARY_RATIOS = tuple(1.05 + 0.2 * k / 9 for k in range(10))


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
    scale = float(covariance / variance) if float(variance) > 1e-12 * float(x.square().mean()) else 0.0
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


def boundary_f1(p: Tensor, d: Tensor, ratios: Sequence[float] = BOUNDARY_RATIOS) -> float:
    """Sharpness: do the occlusion edges of p lie where those of d do? Mean of F1 over the ratios, weighted by them.

    A pixel occludes a neighbour where the neighbour's depth is more than the ratio times its own. Precision is the share of p's edges that
    are edges of d, recall the share of d's that are p's; each is the mean over the four directions (left, right, up, down), with a
    denominator of at least 1. Shapes: (H, W), depth above 0. A map without edges has F1 0.
    Source: Bochkovskii et al. (2024, Depth Pro), Sec. 4; ratios, weights and pooling are those of its published evaluation.
    """
    scores = [_f1_at(p.log(), d.log(), log(ratio)) for ratio in ratios]
    return sum(r * s for r, s in zip(ratios, scores, strict=True)) / sum(ratios)


def _f1_at(log_p: Tensor, log_d: Tensor, limit: float) -> float:
    precisions, recalls = [], []
    for axis in (0, 1):
        for sign in (1, -1):
            found, true = (sign * value.diff(dim=axis) > limit for value in (log_p, log_d))
            hits = float((found & true).sum())
            precisions.append(hits / max(float(found.sum()), 1.0))
            recalls.append(hits / max(float(true.sum()), 1.0))
    precision, recall = sum(precisions) / 4, sum(recalls) / 4
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
