"""Depth as disparity: (B, 1, H, W) in [0, 1], large is near, 0 is infinitely far or unknown."""

from __future__ import annotations

from torch import Tensor

from jointnet.modalities.ensemble import merge_affine
from jointnet.modalities.files import ColourPreview, FloatArray, Png16
from jointnet.modalities.modality import MapCheck, WritableMap, register
from jointnet.modalities.resize import resize_smooth


class Depth:
    """Disparity, repeated over three channels for the RGB autoencoder and read back as their mean."""

    name = "depth"
    channels = 1
    limits = (0.0, 1.0)
    meaning = "disparity in [0, 1]: 1 is nearest, 0 infinitely far; PNG value = pixel / 65535, .npy float32 and unclipped"
    _check = MapCheck(name, channels, *limits)

    def encode(self, maps: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B, 3, H, W) in [-1, 1]. Raises: ShapeError, RangeError. Source: Sec. 3.2."""
        self._check(maps)
        return (maps * 2 - 1).expand(-1, 3, -1, -1)

    def decode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H, W), not clipped. Note: the release reads channel 0; we take the mean of the three."""
        return (images.mean(1, keepdim=True) + 1) / 2

    def merge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, H, W) -> median after affine alignment, uncertainty in disparity."""
        return merge_affine(maps)

    def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Area means when it shrinks, linear when it grows."""
        return resize_smooth(maps, size)

    def files(self, map_: Tensor) -> dict[str, WritableMap]:
        """depth.png (16 bit), depth.npy (float32), depth_preview.png (colour)."""
        return {"depth.png": Png16(map_), "depth.npy": FloatArray(map_), "depth_preview.png": ColourPreview(map_)}


DEPTH = register(Depth())
