"""Colour images: (B, 3, H, W) in [0, 1]."""

from __future__ import annotations

from torch import Tensor

from jointnet.modalities.files import Png8
from jointnet.modalities.modality import MapCheck, WritableMap, register


class Rgb:
    """The base's own modality: [0, 1] <-> [-1, 1]."""

    name = "rgb"
    channels = 3
    meaning = "sRGB colour in [0, 1]"
    _check = MapCheck("rgb", 3, 0.0, 1.0)

    def encode(self, maps: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, H, W) in [-1, 1]. Raises: ShapeError, RangeError."""
        self._check(maps)
        return maps * 2 - 1

    def decode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in about [-1, 1] -> (B, 3, H, W) in [0, 1], clipped."""
        return ((images + 1) / 2).clamp(0, 1)

    def files(self, map_: Tensor) -> dict[str, WritableMap]:
        """image.png, 8 bit."""
        return {"image.png": Png8(map_)}


RGB = register(Rgb())
