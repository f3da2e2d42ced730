"""Normal metrics: pure functions on unit vectors (3, H, W), and the two ways to pool them over images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["image", "pixel"]
"""How errors are taken over a data set: of each image, then the mean (Marigold); or of all pixels together (DSINE).

They differ where images have different numbers of valid pixels, and in the median always: say which.
"""
NORMAL_SHARES_DEG = (5.0, 7.5, 11.25, 22.5, 30.0)
_BIN_DEG, _BINS = 0.01, 18_001


def angles_deg(p: Tensor, n: Tensor, valid: Tensor) -> Tensor:
    """Angles between two maps of unit vectors over valid pixels (H, W), in degrees, (V,). A zero vector counts as 90 degrees.

    >>> n = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    >>> p = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    >>> angles_deg(p, n, torch.ones(1, 1, dtype=torch.bool))
    tensor([90.])
    """
    cosine = (p * n).sum(0)[valid]
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


def normal_errors(angles: Tensor) -> dict[str, float]:
    """Mean, median and root mean square of angles (V,) in degrees, and the shares below some.

    >>> errors = normal_errors(torch.tensor([0.0, 10.0, 20.0]))
    >>> errors["mean"], errors["median"], errors["below_11.25"]
    (10.0, 10.0, 0.6666666865348816)
    """
    shares = {f"below_{limit:g}": float((angles < limit).float().mean()) for limit in NORMAL_SHARES_DEG}
    return {
        "mean": float(angles.mean()),
        "median": float(angles.quantile(0.5)) if len(angles) < 2**24 else float(angles.median()),
        "rmse": float(angles.square().mean().sqrt()),
        **shares,
    }


class AngleTotals:
    """Angles of all pixels together, in bins of a hundredth of a degree: memory does not grow with them, and totals can be merged.

    Mean and root mean square are exact, and so are the shares below NORMAL_SHARES_DEG; the median is that of the bins.
    """

    def __init__(self, bins: Tensor | None = None, total: float = 0.0, squares: float = 0.0) -> None:
        self.bins = torch.zeros(_BINS, dtype=torch.int64) if bins is None else bins
        self.total, self.squares = total, squares

    def add(self, angles: Tensor) -> None:
        """Add angles (V,) in degrees."""
        self.bins += torch.bincount((angles.double() / _BIN_DEG).floor().long().clamp(0, _BINS - 1), minlength=_BINS)
        self.total += float(angles.double().sum())
        self.squares += float(angles.double().square().sum())

    def merge(self, other: AngleTotals) -> None:
        """Add the angles of another."""
        self.bins += other.bins
        self.total, self.squares = self.total + other.total, self.squares + other.squares

    def errors(self) -> dict[str, float]:
        """As ``normal_errors``. Raises: ValueError without angles."""
        count = int(self.bins.sum())
        if not count:
            raise ValueError("got no valid pixel; expected some")
        below = self.bins.cumsum(0)
        shares = {f"below_{limit:g}": int(below[round(limit / _BIN_DEG) - 1]) / count for limit in NORMAL_SHARES_DEG}
        median = (int(torch.searchsorted(below, (count + 1) // 2)) + 0.5) * _BIN_DEG
        return {"mean": self.total / count, "median": median, "rmse": (self.squares / count) ** 0.5, **shares}
