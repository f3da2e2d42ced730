"""Smaller maps as an upscaling base reads them (DeepFloyd-IF stage II): enlarged to its size and noised."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from jointnet.types import LowRes

FACTOR = 4
"""DeepFloyd-IF stage II goes from 64 to 256 pixels."""

DEFAULT_NOISE_LEVEL = 250
"""The timestep diffusers noises the enlarged picture to."""


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, M, C, h, w) -> (B, M, C, *size), linearly between the outermost pixels' centres, as diffusers does for this base."""
    rows = interpolate(maps.flatten(0, 1), size=size, mode="bilinear", align_corners=True)
    return rows.unflatten(0, maps.shape[:2])


def noise_low_res(enlarged: Tensor, level: Tensor, noise: Tensor, alpha_bar: Tensor) -> LowRes:
    """Noise enlarged maps (B, M, C, H, W) to the timesteps ``level`` (B,)."""
    a = alpha_bar.to(enlarged.device, torch.float32)[level][:, None, None, None, None]
    return LowRes((a.sqrt() * enlarged + (1 - a).sqrt() * noise).to(enlarged.dtype), level)


def draw_low_res(x0: Tensor, alpha_bar: Tensor, generator: torch.Generator) -> LowRes:
    """What training shows for the clean state x0 (B, M, C, H, W): itself, made smaller and noised to a uniform timestep.

    Source: conditioning augmentation, Ho et al. (2022, Cascaded Diffusion Models, Sec. 4.2).
    """
    height, width = x0.shape[-2:]
    rows = interpolate(x0.flatten(0, 1), size=(height // FACTOR, width // FACTOR), mode="bilinear", antialias=True)
    enlarged = enlarge(rows.unflatten(0, x0.shape[:2]), (height, width))
    level = torch.randint(len(alpha_bar), (len(x0),), generator=generator)
    return noise_low_res(enlarged, level, torch.randn(x0.shape, generator=generator), alpha_bar)
