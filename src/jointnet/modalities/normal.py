"""Surface normals in the camera frame: (B, 3, H, W), unit vectors, x right, y up, z towards the camera."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from jointnet.modalities.ensemble import merge_directions
from jointnet.modalities.files import FloatArray, Png8
from jointnet.modalities.modality import MapCheck, WritableMap, register
from jointnet.modalities.resize import resize_smooth

_MIN_LENGTH = 0.3


class Normal:
    """Unit normals; (0, 0, 0) where there is no surface (sky)."""

    name = "normal"
    channels = 3
    limits = (-1.0, 1.0)
    meaning = "unit normal, camera frame: x right, y up, z towards the camera; (0, 0, 0) where there is none; PNG = (n + 1) / 2"
    _check = MapCheck(name, channels, *limits)

    def encode(self, maps: Tensor) -> Tensor:
        """(B, 3, H, W), unit or zero -> the same numbers, already in [-1, 1]. Raises: ShapeError, RangeError."""
        self._check(maps)
        return maps

    def decode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit normals; (0, 0, 0) where the vector is shorter than 0.3, nearer to none than to one."""
        length = images.norm(dim=1, keepdim=True)
        return normalize(images, dim=1) * (length >= _MIN_LENGTH)

    def merge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> mean direction, mean angle to it in degrees."""
        return merge_directions(maps)

    def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """As depth, then to unit length again; no direction where most of the pixels had none."""
        return self.decode(resize_smooth(maps, size))

    def files(self, map_: Tensor) -> dict[str, WritableMap]:
        """normal.png (8 bit, (n + 1) / 2), normal.npy (float32)."""
        return {"normal.png": Png8((map_ + 1) / 2), "normal.npy": FloatArray(map_)}


NORMAL = register(Normal())
