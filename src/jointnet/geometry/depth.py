"""Disparity in [0, 1] -> depth in metres, in the two ways a map can be meant."""

from __future__ import annotations

from math import inf

import numpy as np

from jointnet.errors import RangeError

DISPARITY_KINDS = ("affine", "scaled")


def depth_from_disparity(disparity01: np.typing.ArrayLike, near_m: float, far_m: float, kind: str = "affine") -> np.ndarray:
    """Depth in [near_m, far_m], of disparities clipped to [0, 1].

    Args:
        kind: "affine": 1 is near, 0 is far, 1 / z = d (1 / near - 1 / far) + 1 / far; "scaled": d = near / z, and what would be farther
            than far (the sky, at d = 0) is put there.
    Raises: RangeError.
    """
    if not 0 < near_m < far_m < inf:
        raise RangeError(f"got near {near_m:g} m and far {far_m:g} m; expected 0 < near < far, both finite")
    if kind not in DISPARITY_KINDS:
        raise RangeError(f"got disparity kind {kind!r}; expected one of {', '.join(DISPARITY_KINDS)}")
    disparity = np.clip(np.asarray(disparity01, np.float64), 0, 1)
    if kind == "affine":
        return 1 / (disparity * (1 / near_m - 1 / far_m) + 1 / far_m)
    return near_m / np.maximum(disparity, near_m / far_m)
