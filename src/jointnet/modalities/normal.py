"""Surface normals in the camera frame: (B, 3, H, W), unit vectors, x right, y up, z towards the camera."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from jointnet.errors import RangeError
from jointnet.modalities.ensemble import merge_directions
from jointnet.modalities.modality import Modality, register, resize_smooth

_MIN_LENGTH = 0.3
"""A shorter vector is nearer to none than to one."""

_UNIT_TOLERANCE = 0.1
"""A unit vector's length may be this much more or less than 1: 8 bits, and means over edges."""

_UNIT_SHARE = 0.8
"""Share of the vectors that must have unit length: JPEG and halving leave 0.93 of the demo's, of its photos no more than 0.65 have it."""

_GRAZING = 0.02
"""A surface that is seen from its edge may point this far away: 8 bits."""

_FACING_SHARE = 0.5
"""Share of the vectors that must point to the camera: in a room seen from above its ceiling does not, by its z."""


def _unit_or_zero(maps: Tensor) -> Tensor:
    """Return vectors (B, 3, H, W) of unit length, (0, 0, 0) where one is shorter than _MIN_LENGTH."""
    length = maps.norm(dim=1, keepdim=True)  # (B, 1, H, W)
    return normalize(maps, dim=1) * (length >= _MIN_LENGTH)


def _refuse_other_frames(maps: Tensor) -> None:
    """Raises: RangeError for maps (B, 3, H, W) that are no unit vectors, or that point away from the camera."""
    length = maps.norm(dim=1)  # (B, H, W)
    has_direction = length >= _MIN_LENGTH
    is_unit, faces_camera = (length - 1).abs() <= _UNIT_TOLERANCE, maps[:, 2] > -_GRAZING
    unit_share, facing_share = (_least_share(is_good, has_direction) for is_good in (is_unit, faces_camera))
    expected = "expected unit vectors, x right, y up, z towards the camera, as (n + 1) / 2 in pictures"
    if unit_share < _UNIT_SHARE:
        raise RangeError(f"got normals of which {unit_share:.0%} have length 1; {expected}: is it a photo, or in another range?")
    if facing_share < _FACING_SHARE:
        raise RangeError(
            f"got normals of which {facing_share:.0%} point to the camera; {expected}: turn the sign of z, and of y if it points down"
        )


def _least_share(is_good: Tensor, counts: Tensor) -> float:
    """Return the share of good pixels among those that count, in the worst of the maps (B, H, W); 1 for a map where none counts."""
    good, all_ = (is_good & counts).sum((1, 2)), counts.sum((1, 2))
    return float(torch.where(all_ > 0, good / all_.clamp(min=1), 1.0).min())


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
        no_value=0.0,
        check=_refuse_other_frames,
    )
)
"""(0, 0, 0) where there is no surface (sky); the uncertainty of merged samples is an angle in degrees."""
