"""Normals from the depth that another labeler estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from jointnet.data.labelers.labeler import Labeler
from jointnet.errors import RangeError
from jointnet.files.fingerprints import of_texts
from jointnet.geometry.projection import Pinhole

FOV_DEG, FAR_OVER_NEAR = 55.0, 30.0
"""As ``jointnet mesh`` takes them where nothing is known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalsFromDepth:
    """Normals of the surface that a depth labeler's map is, seen through a pinhole.

    Attributes:
        depth: estimates disparity in [0, 1].
        fov_deg: the angle across the picture's width.
        far_over_near: how many times farther disparity 0 is than disparity 1, which an affine disparity leaves open; None: the labeler's
            disparity is near / z, where 0 is infinitely far and has no normal.
    """

    depth: Labeler
    fov_deg: float = FOV_DEG
    far_over_near: float | None = FAR_OVER_NEAR
    modality: str = "normal"

    def __post_init__(self) -> None:
        """Raises: RangeError."""
        Pinhole(self.fov_deg)
        if self.far_over_near is not None and not self.far_over_near > 1:
            raise RangeError(f"got far_over_near {self.far_over_near:g}; expected a number above 1, or None")
        if self.depth.modality != "depth":
            raise RangeError(f"got a labeler of {self.depth.modality}; expected one of depth")

    @property
    def device(self) -> torch.device:
        """Where the depth labeler is."""
        return self.depth.device

    def to(self, device: torch.device | str) -> NormalsFromDepth:
        """Return the labeler on another device."""
        return replace(self, depth=self.depth.to(device))

    @torch.no_grad()
    def __call__(self, rgb: Tensor) -> Tensor:
        """Estimate depth, and from it normals.

        Shapes: (B, 3, H, W) in [0, 1] -> (B, 3, H, W), of length 1 or 0, on the pictures' device.
        Raises: as the depth labeler.
        """
        disparity = self.depth(rgb).float()
        return normals_of(disparity if self.far_over_near is None else disparity * (self.far_over_near - 1) + 1, self.fov_deg)

    def fingerprint(self) -> str:
        """Return the depth labeler's, and a hash of the lens."""
        return f"from-depth {of_texts((self.depth.fingerprint(), str(self.fov_deg), str(self.far_over_near)))}"


def normals_of(inverse_depth: Tensor, fov_deg: float) -> Tensor:
    """Return the normals of surfaces whose inverse depth is known up to one factor.

    On a plane n . P = c the point P = z (X, Y, -1) of the ray through (X, Y) gives 1 / z = w = (n_x X + n_y Y - n_z) / c, linear in X and
    Y. So n is proportional to (-w_X, -w_Y, w - X w_X - Y w_Y), towards the camera: exact on planes. Of the differences to the two
    neighbours the smaller one is taken, so that a depth edge tilts neither side of it.
    Shapes: (B, 1, H, W) in [0, inf) -> (B, 3, H, W), x right, y up, z towards the camera; (0, 0, 0) where the map is 0 all around.
    """
    height, width = inverse_depth.shape[-2:]
    rays = torch.from_numpy(Pinhole(fov_deg).rays(height, width)).to(inverse_depth)  # (H, W, 3)
    x, y = rays[..., 0], rays[..., 1]
    pitch = 1 / Pinhole(fov_deg).focal(width)  # between neighbouring rays' X, and Y
    w_x, w_y = _slope(inverse_depth, -1) / pitch, -_slope(inverse_depth, -2) / pitch  # rows count down, y up
    return normalize(torch.cat([-w_x, -w_y, inverse_depth - x * w_x - y * w_y], 1), dim=1)


def _slope(maps: Tensor, axis: int) -> Tensor:
    """Return the difference to the next or from the last pixel along an axis, whichever is smaller. Shapes: (B, 1, H, W) -> the same."""
    count = maps.shape[axis]
    if count < 2:
        return torch.zeros_like(maps)
    steps = maps.diff(dim=axis)
    first, last = steps.narrow(axis, 0, 1), steps.narrow(axis, count - 2, 1)
    before, after = torch.cat([first, steps], axis), torch.cat([steps, last], axis)
    return torch.where(before.abs() < after.abs(), before, after)
