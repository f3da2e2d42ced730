"""Depth as sensors and data sets store it, larger is farther -> disparity near / z."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jointnet.errors import DepthHolesWarning, DepthUnitWarning, RangeError, UnknownNameError
from jointnet.modalities.depth_checks import distance_share, is_scattered

_NEAREST_SHARE = 0.01
"""Share of the pixels, the nearest ones, that may be outliers."""

_SENSIBLE_M = (0.01, 2000.0)
"""Where the middle of a map's depths lies, in metres."""

_SURELY_DISTANCE, _SURELY_DISPARITY = 0.58, 0.4
"""``distance_share`` above and below which a map is taken for distances and for disparities. Noisy disparities of the demo's world
reach 0.53, noisy distances fall to 0.60."""

_FAINT = 0.2
"""Integers below this share of 65535 are faint as disparity, and usual as millimetres (13 m) or KITTI's unit (51 m)."""

_MANY_HOLES = 0.01
"""Share of pixels without value that is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class DepthUnit:
    """What the numbers of a depth map mean.

    Attributes:
        name: as on the command line.
        metres: what a stored 1 is in metres; None for disparity, which stays as it is.
        near_m: the distance that becomes disparity 1; None: each map's own nearest.
        meaning: in one sentence.
    """

    name: str
    metres: float | None
    near_m: float | None = None
    meaning: str

    def __post_init__(self) -> None:
        """Raises: RangeError."""
        for number in (self.metres, self.near_m):
            if number is not None and not 0 < number < math.inf:
                raise RangeError(f"got depth unit {self.name} with {number:g} m; expected a finite number above 0")


DISPARITY = DepthUnit(name="disparity", metres=None, meaning="disparity in [0, 1], 1 is nearest; integers are shares of 65535 or 255")
DEPTH_UNITS = {
    unit.name: unit
    for unit in (
        DISPARITY,
        DepthUnit(name="m", metres=1.0, meaning="metres, larger is farther; 0, negative, NaN or infinite: no value"),
        DepthUnit(name="mm", metres=1e-3, meaning="millimetres, larger is farther; 0: no value"),
        DepthUnit(name="kitti", metres=1 / 256, meaning="metres x 256, larger is farther; 0: no value"),
    )
}
"""By the names they have on the command line."""


@dataclass(frozen=True)
class DepthMap:
    """A depth map as the models take it.

    Attributes:
        disparity: (1, 1, H, W), 1 nearest, 0 infinitely far or unknown.
        near_m: the distance at disparity 1, so that depth is near_m / disparity; None for maps that were disparity before.
        far_m: the farthest distance; None as above.
        has_value: boolean (1, 1, H, W), False where the map knows nothing.
    """

    disparity: Tensor
    near_m: float | None
    far_m: float | None
    has_value: Tensor


def get_depth_unit(unit: str | DepthUnit) -> DepthUnit:
    """Return the unit of that name, or the unit itself. Raises: UnknownNameError."""
    if isinstance(unit, DepthUnit):
        return unit
    if unit not in DEPTH_UNITS:
        raise UnknownNameError(f"got depth unit {unit!r}; expected one of {', '.join(DEPTH_UNITS)}")
    return DEPTH_UNITS[unit]


def disparity_from_distance(values: np.ndarray, unit: DepthUnit, name: str = "the depth map") -> DepthMap:
    """Return near / z of a map (H, W) of distances.

    What has no value becomes 0, infinitely far or unknown. The near distance is the unit's ``near_m``, or else the nearest pixel's; but of
    the nearest 1 % of the pixels, which may be outliers, none counts as nearer than half of where the other 99 % begin. What is nearer
    than near gets disparity 1.
    Raises: RangeError for a map without values, of scattered points, of another unit, or more than 1 % of it nearer than ``unit.near_m``.
    """
    assert unit.metres is not None, "disparity has nothing to convert"
    with np.errstate(invalid="ignore"):
        depth_m = values.astype(np.float64) * unit.metres
        has_value = np.isfinite(depth_m) & (depth_m > 0)
    if not has_value.any():
        raise RangeError(f"got no depth above 0; expected {unit.meaning}")
    valid_m = depth_m[has_value]
    middle_m = float(np.median(valid_m))
    if not _SENSIBLE_M[0] <= middle_m <= _SENSIBLE_M[1]:
        raise RangeError(f"got depth around {middle_m:g} m as {unit.name}; expected {unit.meaning}: choose another unit")
    if valid_m.min() == valid_m.max():
        raise RangeError(f"got depth that is {middle_m:g} m wherever it has a value; expected a map that varies")
    mask = torch.from_numpy(has_value)[None, None]
    if is_scattered(mask):
        raise RangeError(f"got scattered depth, in {has_value.mean():.1%} of the pixels; expected a dense map: fill it first")
    _warn_of_disparity(values, unit, name)
    if 1 - has_value.mean() > _MANY_HOLES:
        warnings.warn(
            f"{name} has no value in {1 - has_value.mean():.0%} of its pixels: they count as infinitely far; fill those that are not",
            DepthHolesWarning,
            stacklevel=2,
        )
    near_m = _near_m(valid_m) if unit.near_m is None else unit.near_m
    if (valid_m < near_m).mean() > _NEAREST_SHARE:
        raise RangeError(f"got depth from {float(valid_m.min()):g} m; expected none nearer than {near_m:g} m, where disparity is 1")
    disparity = np.zeros(depth_m.shape, np.float32)
    disparity[has_value] = near_m / np.maximum(valid_m, near_m)
    return DepthMap(torch.from_numpy(disparity)[None, None], near_m, float(valid_m.max()), mask)


def warn_of_distance(values: np.ndarray, name: str) -> None:
    """Warn of integers (H, W) read as disparity that look like a sensor's distances (DepthUnitWarning).

    They do if they bend as distances do, or do not bend as disparities and are all faint.
    """
    if values.dtype.kind not in "iu" or values.ndim != 2:
        return
    share = distance_share(values)
    if share is None or share < 0.5:
        return
    is_faint = values.dtype != np.uint8 and float(values.max()) < _FAINT * 65535
    if share > _SURELY_DISTANCE or is_faint:
        units = "" if values.dtype == np.uint8 else ": pass its unit, mm, kitti or m (--depth-unit)"
        warnings.warn(
            f"{name} is read as disparity, where larger is nearer, but looks like distances{units}", DepthUnitWarning, stacklevel=2
        )


def _warn_of_disparity(values: np.ndarray, unit: DepthUnit, name: str) -> None:
    """Warn of disparities read as distances (DepthUnitWarning)."""
    share = distance_share(values)
    if share is not None and share < _SURELY_DISPARITY:
        warnings.warn(f"{name} is read as {unit.name}, where larger is farther, but looks like disparity", DepthUnitWarning, stacklevel=2)


def _near_m(valid_m: np.ndarray) -> float:
    """Return the nearest distance, or half of where all but the nearest 1 % begin if that is farther."""
    return max(float(valid_m.min()), float(np.quantile(valid_m, _NEAREST_SHARE)) / 2)
