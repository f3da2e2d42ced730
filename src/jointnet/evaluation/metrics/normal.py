"""Normal metrics: pure functions on unit vectors (3, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor


def angles_deg(p: Tensor, n: Tensor, valid: Tensor) -> Tensor:
    """Angles between two maps of unit vectors over valid pixels (H, W), in degrees, (V,). A zero vector counts as 90 degrees."""
    cosine = (p * n).sum(0)[valid]
    return torch.rad2deg(cosine.clamp(-1, 1).acos())
