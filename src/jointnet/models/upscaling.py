"""Smaller maps for an upscaling base (DeepFloyd-IF stage II), which reads them enlarged to its size and noised."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

FACTOR = 4
"""DeepFloyd-IF stage II goes from 64 to 256 pixels."""


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, M, C, h, w) -> (B, M, C, *size), linearly between the outermost pixels' centres, as diffusers does for this base."""
    rows = interpolate(maps.flatten(0, 1), size=size, mode="bilinear", align_corners=True)
    return rows.unflatten(0, maps.shape[:2])


def shrink_and_enlarge(x0: Tensor) -> Tensor:
    """Lose the detail of clean maps (B, M, C, H, W) that smaller ones do not have; shapes are kept.

    Noised to a uniform timestep, this is the smaller input in training.
    Source: conditioning augmentation, Ho et al. (2022, Cascaded Diffusion Models, Sec. 4.2).
    """
    height, width = x0.shape[-2:]
    rows = interpolate(x0.flatten(0, 1), size=(height // FACTOR, width // FACTOR), mode="bilinear", antialias=True)
    return enlarge(rows.unflatten(0, x0.shape[:2]), (height, width))
