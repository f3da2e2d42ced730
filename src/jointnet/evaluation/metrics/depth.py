"""Depth metrics: pure functions on tensors, p a prediction, d the ground truth, both (H, W) or any same shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
