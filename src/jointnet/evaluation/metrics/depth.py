"""Depth metrics: pure functions on tensors, p a prediction in metres (aligned), d the ground truth, both (H, W) or any same shape.

Each is of one image; a data set's figure is the mean over its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import log

import torch
from torch import Tensor

BOUNDARY_RATIOS = tuple(1.05 + 0.2 * k / 9 for k in range(10))


def abs_rel(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """Mean of |p - d| / d over valid pixels.

    >>> abs_rel(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]))
    0.5
    """
    return float(((p - d).abs() / d)[valid].mean())


def sq_rel(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """Mean of (p - d)^2 / d over valid pixels, in metres.

    >>> sq_rel(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]))
    1.25
    """
    return float(((p - d).square() / d)[valid].mean())


def delta(p: Tensor, d: Tensor, valid: Tensor, n: float = 1) -> float:
    """Share of valid pixels with max(p / d, d / p) < 1.25^n.

    >>> delta(torch.tensor([2.4, 2.6]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]))
    0.5
    """
    ratio = torch.maximum(p / d, d / p)[valid]
    return float((ratio < 1.25**n).float().mean())


def rmse(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """Root of the mean squared difference over valid pixels.

    >>> rmse(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 5.0]), torch.tensor([True, True]))
    3.535533905029297
    """
    return float((p - d)[valid].square().mean().sqrt())


def rmse_log(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """The same of natural logarithms.

    >>> round(rmse_log(torch.tensor([1.0]), torch.tensor([1.0]).exp(), torch.tensor([True])), 6)
    1.0
    """
    return rmse(p.log(), d.log(), valid)


def log10_error(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """Mean of |log10 p - log10 d|.

    >>> log10_error(torch.tensor([10.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([True, True]))
    0.5
    """
    return float((p.log10() - d.log10())[valid].abs().mean())


def silog(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """100 x the standard deviation of ln p - ln d: errors of scale do not count. Source: Eigen et al. (2014), Eq. 1, as KITTI reports it.

    >>> silog(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 2.0]), torch.tensor([True, True]))
    0.0
    """
    e = (p.log() - d.log())[valid].double()
    return float(100 * (e.square().mean() - e.mean().square()).clamp(min=0).sqrt())


def irmse(p: Tensor, d: Tensor, valid: Tensor) -> float:
    """Root of the mean squared difference of the inverses, in 1 / m.

    >>> irmse(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([True]))
    0.5
    """
    return rmse(1 / p, 1 / d, valid)


DEPTH_METRICS: dict[str, Callable[[Tensor, Tensor, Tensor], float]] = {
    "abs_rel": abs_rel,
    "sq_rel": sq_rel,
    "rmse": rmse,
    "rmse_log": rmse_log,
    "log10": log10_error,
    "silog": silog,
    "irmse": irmse,
    "delta1": delta,
    "delta2": partial(delta, n=2),
    "delta3": partial(delta, n=3),
}
"""By name: (p, d, valid) -> figure."""


def boundary_f1(p: Tensor, d: Tensor, ratios: Sequence[float] = BOUNDARY_RATIOS) -> float:
    """Sharpness: do the occlusion edges of p lie where those of d do? Mean of F1 over the ratios, weighted by them.

    A pixel occludes a neighbour where the neighbour's depth is more than the ratio times its own. Precision is the share of p's edges that
    are edges of d, recall the share of d's that are p's; each is the mean over the four directions (left, right, up, down), with a
    denominator of at least 1. Shapes: (H, W), depth above 0. A map without edges has F1 0.
    Source: Bochkovskii et al. (2024, Depth Pro), Sec. 4; ratios, weights and pooling are those of its published evaluation.

    >>> d = torch.tensor([[1.0, 1.0, 2.0, 2.0]])
    >>> round(boundary_f1(d, d), 6), boundary_f1(torch.ones_like(d), d)
    (0.25, 0.0)
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
