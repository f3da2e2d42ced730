"""Alignments: what a predicted map must be multiplied by and moved before it is compared, since many models leave scale and shift open.

Maps are (H, W); ``valid`` (H, W) marks the pixels with ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScaleShift:
    """aligned = scale * p + shift."""

    scale: float
    shift: float = 0.0

    def __call__(self, p: Tensor) -> Tensor:
        return self.scale * p + self.shift


def fit_scale_shift(p: Tensor, target: Tensor, valid: Tensor) -> ScaleShift:
    """(s, t) = argmin over valid pixels of sum (s p + t - target)^2; s = 0 where p is constant.

    >>> p = torch.tensor([[1.0, 2.0, 3.0]])
    >>> fit_scale_shift(p, 2 * p + 1, torch.ones_like(p, dtype=torch.bool))
    ScaleShift(scale=2.0, shift=1.0)

    Raises: ValueError if fewer than two pixels are valid.
    """
    x, y = p[valid].double(), target[valid].double()
    if len(x) < 2:
        raise ValueError(f"got {len(x)} valid pixels; expected at least 2")
    variance = (x - x.mean()).square().mean()
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    scale = float(covariance / variance) if float(variance) > 1e-12 * float(x.square().mean()) else 0.0
    return ScaleShift(scale, float(y.mean() - scale * x.mean()))


def fit_scale(p: Tensor, target: Tensor, valid: Tensor) -> ScaleShift:
    """s = argmin over valid pixels of sum (s p - target)^2.

    >>> p = torch.tensor([[1.0, 2.0, 3.0]])
    >>> fit_scale(p, 4 * p, torch.ones_like(p, dtype=torch.bool)).scale
    4.0

    Raises: ValueError if no pixel is valid.
    """
    x, y = _some(p, target, valid)
    return ScaleShift(float((x * y).sum() / x.square().sum().clamp(min=torch.finfo(x.dtype).tiny)))


def fit_median(p: Tensor, target: Tensor, valid: Tensor) -> ScaleShift:
    """s = median(target) / median(p) over valid pixels. Source: Zhou et al. (2017), Sec. 4.1.

    >>> fit_median(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[3.0, 6.0, 6.0]]), torch.ones(1, 3, dtype=torch.bool)).scale
    3.0

    Raises: ValueError if no pixel is valid.
    """
    x, y = _some(p, target, valid)
    return ScaleShift(float(y.median() / x.median()))


def fit_median_of_samples(p: Tensor, target: Tensor, valid: Tensor, *, num_samples: int, repeats: int, seed: int = 0) -> ScaleShift:
    """The paper's alignment: least squares on a random sample of the pixels where both maps are above 0, repeated; medians of (s, t).

    The paper states neither how many samples nor how often: say both with every result.
    Source: Sec. 5.2.
    Raises: ValueError if fewer than two pixels can be used.
    """
    usable = valid & (p > 0) & (target > 0)
    x, y = p[usable], target[usable]
    if len(x) < 2:
        raise ValueError(f"got {len(x)} pixels where both maps are above 0; expected at least 2")
    generator = torch.Generator().manual_seed(seed)
    fits = []
    for _ in range(repeats):
        chosen = torch.randint(len(x), (num_samples,), generator=generator).to(x.device)
        fits.append(fit_scale_shift(x[chosen], y[chosen], torch.ones(num_samples, dtype=torch.bool, device=x.device)))
    scales, shifts = (torch.tensor(values, dtype=torch.float64) for values in zip(*((f.scale, f.shift) for f in fits), strict=True))
    return ScaleShift(float(scales.quantile(0.5)), float(shifts.quantile(0.5)))


def align_depth(p: Tensor, d: Tensor, valid: Tensor, *, cap_m: float, floor_m: float = 1e-6) -> Tensor:
    """Fit predicted to true depth with scale and shift, and clip to the data set's range. Source: Marigold's protocol (Ke et al., 2024).

    >>> d = torch.tensor([[2.0, 4.0, 100.0]])
    >>> align_depth(d / 2 + 1, d, torch.ones_like(d, dtype=torch.bool), cap_m=80.0)
    tensor([[ 2.,  4., 80.]])
    """
    return fit_scale_shift(p, d, valid)(p).clamp(floor_m, cap_m)


def align_disparity(
    p: Tensor, disparity: Tensor, valid: Tensor, *, cap_m: float, unit: float = 1.0, fit: ScaleShift | None = None
) -> Tensor:
    """Fit predicted to true disparity, clip at that of the far limit, invert: depth in metres.

    ``unit`` is the depth at disparity 1 (near / z has unit near); ``fit`` another fit than least squares on all valid pixels.
    Source: MiDaS' protocol, as in Ranftl et al. (2021).
    """
    aligned = (fit_scale_shift(p, disparity, valid) if fit is None else fit)(p)
    return unit / aligned.clamp(min=unit / cap_m)


def _some(p: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    if not bool(valid.any()):
        raise ValueError("got no valid pixel; expected at least 1")
    return p[valid].double(), target[valid].double()
