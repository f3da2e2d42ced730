"""Maps as files that keep their meaning: float32 .npy, 8- and 16-bit PNG, and a colour preview for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

_PREVIEW_STOPS = np.array(
    [(12, 8, 38), (62, 15, 102), (125, 30, 110), (190, 48, 84), (235, 92, 44), (251, 165, 24), (246, 240, 150)], np.float64
)
"""Far (dark) to near (bright), evenly spaced, monotone in lightness."""


@dataclass(frozen=True)
class FloatArray:
    """float32 .npy: (H, W) for one channel, (H, W, C) for more; not clipped."""

    map_: Tensor

    def write(self, path: Path) -> None:
        """Raises: OSError."""
        np.save(path, channels_last(self.map_).astype(np.float32))


@dataclass(frozen=True)
class Png8:
    """8-bit PNG of (C, H, W) values in [0, 1], C = 1 or 3; values outside are clipped."""

    map_: Tensor

    def write(self, path: Path) -> None:
        """Raises: OSError."""
        to_pil(self.map_).save(path, format="PNG")


@dataclass(frozen=True)
class Png16:
    """16-bit greyscale PNG of (1, H, W) values in [0, 1]: value = pixel / 65535; values outside are clipped."""

    map_: Tensor

    def write(self, path: Path) -> None:
        """Raises: OSError."""
        values = channels_last(self.map_).clip(0, 1)
        Image.fromarray(np.round(values * 65535).astype(np.uint16)).save(path, format="PNG")


@dataclass(frozen=True)
class ColourPreview:
    """8-bit colour PNG of (1, H, W), stretched between its own 1 % and 99 % quantiles; to look at, not to compute with."""

    map_: Tensor

    def write(self, path: Path) -> None:
        """Raises: OSError."""
        preview(self.map_).save(path, format="PNG")


def channels_last(map_: Tensor) -> np.ndarray:
    """(C, H, W) -> float32 (H, W, C), or (H, W) if C is 1."""
    array = map_.detach().float().cpu().permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def to_pil(map_: Tensor) -> Image.Image:
    """(C, H, W) in [0, 1], C = 1 or 3 -> an 8-bit picture."""
    return Image.fromarray(np.round(channels_last(map_).clip(0, 1) * 255).astype(np.uint8))


def preview(map_: Tensor) -> Image.Image:
    """(1, H, W) -> a colour picture, bright where the value is high."""
    values = channels_last(map_)
    low, high = np.quantile(values, [0.01, 0.99])
    place = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    stops = np.linspace(0, 1, len(_PREVIEW_STOPS))
    colours = [np.interp(place, stops, _PREVIEW_STOPS[:, channel]) for channel in range(3)]
    return Image.fromarray(np.round(np.stack(colours, -1)).astype(np.uint8))
