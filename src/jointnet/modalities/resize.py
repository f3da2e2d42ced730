"""Changing the size of maps without leaving their range."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate


def resize_picture(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, c, H, W) in [0, 1] -> (B, c, *size), antialiased bicubic, clipped."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return interpolate(maps, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def resize_lanczos(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, c, H, W) in [0, 1] -> (B, c, *size) by Lanczos' filter, clipped: what the authors' release does."""
    height, width = size
    channels = maps.flatten(0, 1).float().cpu().numpy()  # (B * c, H, W)
    large = [np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS)) for channel in channels]
    return torch.from_numpy(np.stack(large)).unflatten(0, maps.shape[:2]).to(maps).clamp(0, 1)


def resize_smooth(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, c, H, W) -> (B, c, *size), linear with antialiasing: never overshoots."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return interpolate(maps, size=size, mode="bilinear", antialias=True, align_corners=False)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) of 0 and 1 -> (B, 1, *size): 1 where any pixel it covers is 1 (asked), so that nothing asked counts as known."""
    if tuple(mask.shape[-2:]) == size:
        return mask
    return adaptive_max_pool2d(mask, size)


def resize_mask_nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """As resize_mask, but each pixel is the nearest one's: what the authors' release does."""
    return interpolate(mask, size=size, mode="nearest")
