"""Where a pixel looks. Camera frame: x right, y up, z towards the camera (it looks along -z), as in glTF.

A pixel's ray times its depth is its point, so a depth is measured as the projection defines it: z for pinhole (distance along the axis),
horizontal radius for cylindrical, distance for equirectangular. Pixels are square at the horizon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import radians, tan
from typing import Protocol

import numpy as np

from jointnet.errors import RangeError, UnknownNameError

Array = np.ndarray


class Projection(Protocol):
    """Between pixels and rays of a picture (height, width)."""

    @property
    def wraps(self) -> bool:
        """True where left and right edge are neighbours."""
        ...

    def rays(self, height: int, width: int) -> Array:
        """(H, W, 3): the ray of every pixel's centre, of depth 1."""
        ...

    def pixels(self, points: Array, height: int, width: int) -> tuple[Array, Array]:
        """Points (..., 3) -> (..., 2) pixel coordinates (row, column), 0 at the first pixel's centre, and (...) depth."""
        ...


@dataclass(frozen=True)
class Pinhole:
    """Perspective; ``fov_deg`` is the angle across the width, in (0, 180)."""

    fov_deg: float

    def __post_init__(self) -> None:
        if not 0 < self.fov_deg < 180:
            raise RangeError(f"got a field of view of {self.fov_deg:g} degrees; expected one between 0 and 180")

    @property
    def wraps(self) -> bool:
        return False

    def rays(self, height: int, width: int) -> Array:
        x, y = _centred(height, width)
        focal = self.focal(width)
        return _stack(x / focal, y / focal, np.full_like(x, -1.0))

    def pixels(self, points: Array, height: int, width: int) -> tuple[Array, Array]:
        depth = -points[..., 2]
        safe = np.where(depth > 0, depth, np.nan)
        focal = self.focal(width)
        return _rows_columns(points[..., 0] / safe * focal, points[..., 1] / safe * focal, height, width), depth

    def focal(self, width: int) -> float:
        """Return the focal length in pixels."""
        return width / 2 / tan(radians(self.fov_deg) / 2)


@dataclass(frozen=True)
class _Panoramic:
    """Columns evenly spaced in azimuth over ``span_deg``, in (0, 360]."""

    span_deg: float

    def __post_init__(self) -> None:
        if not 0 < self.span_deg <= 360:
            raise RangeError(f"got a span of {self.span_deg:g} degrees; expected one above 0, up to 360")

    @property
    def wraps(self) -> bool:
        return self.span_deg == 360


@dataclass(frozen=True)
class Cylindrical(_Panoramic):
    """Columns are evenly spaced in azimuth over ``span_deg``, rows in height on a cylinder of radius 1: verticals stay straight."""

    def rays(self, height: int, width: int) -> Array:
        x, y = _centred(height, width)
        azimuth = x * radians(self.span_deg) / width
        return _stack(np.sin(azimuth), y * radians(self.span_deg) / width, -np.cos(azimuth))

    def pixels(self, points: Array, height: int, width: int) -> tuple[Array, Array]:
        scale = width / radians(self.span_deg)
        radius = np.hypot(points[..., 0], points[..., 2])
        azimuth = np.arctan2(points[..., 0], -points[..., 2])
        return _rows_columns(azimuth * scale, points[..., 1] / radius * scale, height, width), radius


@dataclass(frozen=True)
class Equirectangular(_Panoramic):
    """Columns are evenly spaced in azimuth over ``span_deg``, rows in elevation."""

    def rays(self, height: int, width: int) -> Array:
        x, y = _centred(height, width)
        azimuth, elevation = (v * radians(self.span_deg) / width for v in (x, y))
        if np.abs(elevation).max() > np.pi / 2:
            raise RangeError(f"got an equirectangular picture of {height}x{width} over {self.span_deg:g} degrees; it would pass the poles")
        return _stack(np.cos(elevation) * np.sin(azimuth), np.sin(elevation), -np.cos(elevation) * np.cos(azimuth))

    def pixels(self, points: Array, height: int, width: int) -> tuple[Array, Array]:
        scale = width / radians(self.span_deg)
        distance = np.linalg.norm(points, axis=-1)
        azimuth = np.arctan2(points[..., 0], -points[..., 2])
        elevation = np.arcsin((points[..., 1] / distance).clip(-1, 1))
        return _rows_columns(azimuth * scale, elevation * scale, height, width), distance


PROJECTIONS: dict[str, Callable[[float], Projection]] = {
    "pinhole": Pinhole,
    "cylindrical": Cylindrical,
    "equirectangular": Equirectangular,
}
"""By name; each takes the angle across the width in degrees."""


def get_projection(name: str, angle_deg: float) -> Projection:
    """A projection by name. Raises: UnknownNameError, RangeError."""
    if name not in PROJECTIONS:
        raise UnknownNameError(f"got projection {name!r}; expected one of {', '.join(PROJECTIONS)}")
    return PROJECTIONS[name](angle_deg)


def _centred(height: int, width: int) -> tuple[Array, Array]:
    """Pixel centres from the picture's middle, x right and y up, each (H, W)."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return x - (width - 1) / 2, (height - 1) / 2 - y


def _rows_columns(x: Array, y: Array, height: int, width: int) -> Array:
    return np.stack([(height - 1) / 2 - y, x + (width - 1) / 2], -1)


def _stack(x: Array, y: Array, z: Array) -> Array:
    return np.stack([x, y, z], -1)
