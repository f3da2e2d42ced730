"""Estimates that are known up to scale and shift -> disparity in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

LOW, HIGH = 0.02, 0.98
"""The quantiles that become 0 and 1."""


def quantiles_to_01(maps: Tensor) -> Tensor:
    """Map each picture's LOW quantile to 0 and its HIGH quantile to 1, and clip what lies beyond them.

    A map that is constant between its quantiles knows nothing and is 0 everywhere, which readers of depth refuse as constant.
    Shapes: (B, 1, H, W), any range -> (B, 1, H, W) in [0, 1].
    Source: Sec. 3.3 for the affine map to [0, 1]; the quantiles are ours.
    """
    ordered = maps.flatten(1).float().sort(1).values  # (B, H*W); torch.quantile takes 16 million values at most
    low, high = (_quantile(ordered, share)[:, None, None, None] for share in (LOW, HIGH))  # (B, 1, 1, 1)
    span = high - low
    return torch.where(span > 0, (maps.float() - low) / torch.where(span > 0, span, 1), 0).clamp(0, 1)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """Return a quantile of each row, linear between neighbours, as numpy does. Shapes: (B, N), ascending -> (B,)."""
    place = share * (ordered.shape[1] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)
