"""Lanczos' filter for maps, and smaller masks in which everything asked stays asked."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate


def resize_lanczos(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Lanczos' filter, clipped. Shapes: (B, c, H, W) in [0, 1] -> (B, c, *size).

    Source: the authors' release, which enlarges by it.
    """
    height, width = size
    channels = maps.flatten(0, 1).float().cpu().numpy()  # (B * c, H, W)
    large = [np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS)) for channel in channels]
    return torch.from_numpy(np.stack(large)).unflatten(0, maps.shape[:2]).to(maps).clamp(0, 1)


def resize_mask(asked: Tensor, size: tuple[int, int]) -> Tensor:
    """True where any pixel that the new one covers is True, so that nothing asked counts as known.

    Shapes: boolean (B, 1, H, W) -> (B, 1, *size).
    """
    if tuple(asked.shape[-2:]) == size:
        return asked
    return adaptive_max_pool2d(asked.float(), size) > 0


def resize_mask_nearest(asked: Tensor, size: tuple[int, int]) -> Tensor:
    """The nearest pixel's value. Shapes: boolean (B, 1, H, W) -> (B, 1, *size).

    Source: the authors' release.
    """
    return interpolate(asked.float(), size=size, mode="nearest").bool()
