"""Re-render consistency: an image and its depth, seen from another place, against what is truly there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jointnet.geometry.projection import Projection


@dataclass(frozen=True)
class View:
    """A picture moved to another place.

    Attributes:
        rgb: (3, H, W), 0 where nothing is seen; depth (H, W) as the projection defines it; is_seen (H, W).
    """

    rgb: Tensor
    depth: Tensor
    is_seen: Tensor


def move_camera(rgb: Tensor, depth_m: Tensor, projection: Projection, step_m: tuple[float, float, float]) -> View:
    """Splat every pixel to where a camera ``step_m`` away (x right, y up, z backwards) sees its point; the nearest wins.

    Args:
        rgb: (3, H, W); depth_m: (H, W) above 0.
    """
    height, width = depth_m.shape
    points = projection.rays(height, width) * depth_m.double().cpu().numpy()[..., None] - np.asarray(step_m)
    pixels, depth = projection.pixels(points, height, width)
    with np.errstate(invalid="ignore"):
        row, column = np.round(pixels[..., 0]), np.round(pixels[..., 1])
        if projection.wraps:
            column = column % width
        inside = (depth > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = (row[inside] * width + column[inside]).astype(np.int64)
    order = np.argsort(-depth[inside], kind="stable")  # the nearest is written last
    seen_rgb, seen_depth = np.zeros((3, height * width), np.float32), np.full(height * width, np.inf)
    colours = rgb.float().cpu().numpy()[:, inside]
    seen_rgb[:, place[order]] = colours[:, order]
    seen_depth[place[order]] = depth[inside][order]
    is_seen = np.isfinite(seen_depth)
    return View(
        torch.from_numpy(seen_rgb).view(3, height, width),
        torch.from_numpy(np.where(is_seen, seen_depth, 0)).view(height, width),
        torch.from_numpy(is_seen).view(height, width),
    )


def rerender_errors(view: View, rgb: Tensor, depth_m: Tensor | None = None, tolerance: float = 0.05) -> dict[str, float]:
    """How far a moved picture is from the true one at that place (3, H, W), over the pixels that it sees.

    Returns: "l1" (of colours in [0, 1]), "seen" (share of pixels) and, with true depth, "agrees": the share of the seen pixels whose depth
        is within ``tolerance`` of it.
    Raises: ValueError if nothing is seen.
    """
    if not view.is_seen.any():
        raise ValueError("got a view in which nothing is seen; move the camera less")
    errors = {"l1": float((view.rgb - rgb).abs().mean(0)[view.is_seen].mean()), "seen": float(view.is_seen.float().mean())}
    if depth_m is not None:
        off = ((view.depth - depth_m).abs() / depth_m)[view.is_seen]
        errors["agrees"] = float((off < tolerance).float().mean())
    return errors
