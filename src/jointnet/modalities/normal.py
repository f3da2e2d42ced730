"""Surface normals in the camera frame: (B, 3, H, W), unit vectors, x right, y up, z towards the camera."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from jointnet.modalities.ensemble import merge_directions
from jointnet.modalities.modality import Modality, register, resize_smooth

_MIN_LENGTH = 0.3
"""A shorter vector is nearer to none than to one."""


def _unit_or_zero(maps: Tensor) -> Tensor:
    """Return vectors (B, 3, H, W) of unit length, (0, 0, 0) where one is shorter than _MIN_LENGTH."""
    length = maps.norm(dim=1, keepdim=True)  # (B, 1, H, W)
    return normalize(maps, dim=1) * (length >= _MIN_LENGTH)


def _resize_directions(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Linear, then to unit length again; zero where most of the pixels were. Shapes: (B, 3, H, W) -> (B, 3, *size)."""
    return _unit_or_zero(resize_smooth(maps, size))


NORMAL = register(
    Modality(
        name="normal",
        channels=3,
        limits=(-1.0, 1.0),
        meaning="unit normal, camera frame: x right, y up, z towards the camera; (0, 0, 0) where there is none; PNG = (n + 1) / 2",
        settle=_unit_or_zero,
        resize=_resize_directions,
        merge=merge_directions,
    )
)
"""(0, 0, 0) where there is no surface (sky); the uncertainty of merged samples is an angle in degrees."""
