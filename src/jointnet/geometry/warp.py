"""Laying a photograph, or a map of it, onto the canvas of another projection."""

from __future__ import annotations

from math import radians

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from jointnet.errors import RangeError, ShapeError
from jointnet.geometry.projection import Pinhole, Projection


def place_photo(photo: Tensor, fov_deg: float, projection: Projection, span_deg: float, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A perspective photo, or a map of it, looking at the middle of a canvas of another projection.

    Args:
        photo: (B, c, h, w) in [0, 1]; fov_deg: its angle across its width; span_deg: the canvas's angle across its width.
        size: height and width of the canvas.
    Returns: canvas (B, c, H, W), the photo's border colours where it does not reach, and known (B, 1, H, W), 1 where it does.
    Raises: RangeError, also if the photo covers no pixel of the canvas; ShapeError if it has no two rows and columns.
    """
    height, width = size
    if min(photo.shape[-2:]) < 2:
        raise ShapeError(f"got a photo of {photo.shape[-2]}x{photo.shape[-1]} px; expected at least 2x2")
    lens = Pinhole(fov_deg)
    focal = photo.shape[-1] / 2 / np.tan(radians(fov_deg) / 2)
    shrink = min(1.0, width / radians(span_deg) / focal)
    if shrink < 1:
        smaller = [max(2, round(side * shrink)) for side in photo.shape[-2:]]
        photo = interpolate(photo, size=smaller, mode="bicubic", antialias=True).clamp(0, 1)
    rows, columns = photo.shape[-2:]
    pixels, depth = lens.pixels(projection.rays(height, width), rows, columns)
    row, column = pixels[..., 0], pixels[..., 1]
    with np.errstate(invalid="ignore"):
        inside = (depth > 0) & (row >= 0) & (row <= rows - 1) & (column >= 0) & (column <= columns - 1)
    if not inside.any():
        raise RangeError(
            f"got a photo of {fov_deg:g} degrees, which covers no pixel of {height}x{width}; expected a larger angle or canvas"
        )
    unit = np.stack([column / (columns - 1), row / (rows - 1)], -1) * 2 - 1
    grid = torch.from_numpy(np.nan_to_num(unit.clip(-1, 1)).astype(np.float32)).to(photo.device)
    known = torch.from_numpy(inside).to(photo)[None, None].expand(len(photo), -1, -1, -1)
    canvas = grid_sample(photo, grid.expand(len(photo), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=True)
    return canvas.clamp(0, 1), known


def place_disparity(disparity01: Tensor, fov_deg: float, projection: Projection, span_deg: float, size: tuple[int, int]) -> Tensor:
    """The disparity of a perspective photo as that of a canvas of another projection, which measures depth otherwise.

    Exact for disparity that is 0 infinitely far (near / z); one known up to scale and shift only is taken as such.

    Args: as ``place_photo``, but for ``disparity01`` (B, 1, h, w) in [0, 1], 0 infinitely far.
    Returns: (B, 1, H, W) in [0, 1].
    """
    canvas, _ = place_photo(disparity01, fov_deg, projection, span_deg, size)
    _, z_of_unit_depth = Pinhole(fov_deg).pixels(projection.rays(*size), 2, 2)  # near / r = near / z * z / r
    return canvas * torch.from_numpy(z_of_unit_depth.clip(0, 1).astype(np.float32)).to(canvas)
