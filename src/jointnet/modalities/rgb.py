"""Colour images: (B, 3, H, W) in [0, 1]."""

from __future__ import annotations

from torch import Tensor

from jointnet.modalities.ensemble import merge_values
from jointnet.modalities.files import Png8
from jointnet.modalities.modality import MapCheck, WritableMap, register
from jointnet.modalities.resize import resize_picture


class Rgb:
    """The base's own modality: [0, 1] <-> [-1, 1]."""

    name = "rgb"
    channels = 3
    limits = (0.0, 1.0)
    meaning = "sRGB colour in [0, 1]"
    _check = MapCheck(name, channels, *limits)

    def encode(self, maps: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, H, W) in [-1, 1]. Raises: ShapeError, RangeError."""
        self._check(maps)
        return maps * 2 - 1

    def decode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in about [-1, 1] -> (B, 3, H, W) in [0, 1], clipped."""
        return ((images + 1) / 2).clamp(0, 1)

    def merge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> median, uncertainty in [0, 1]."""
        return merge_values(maps)

    def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Antialiased bicubic."""
        return resize_picture(maps, size)

    def files(self, map_: Tensor) -> dict[str, WritableMap]:
        """image.png, 8 bit."""
        return {"image.png": Png8(map_)}


RGB = register(Rgb())
