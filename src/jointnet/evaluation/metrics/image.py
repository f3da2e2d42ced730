"""Picture metrics: pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB per image. Shapes: (B, C, H, W) twice -> (B,)."""
    error = (a - b).square().mean(tuple(range(1, a.ndim)))
    return 10 * torch.log10(data_range**2 / error)
