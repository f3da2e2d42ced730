"""A picture and its depth -> a triangle mesh or a point cloud, cut where depth jumps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jointnet.errors import RangeError, ShapeError
from jointnet.geometry.projection import Projection

Array = np.ndarray


@dataclass(frozen=True)
class Mesh:
    """A textured mesh, or a point cloud if ``faces`` is empty.

    Attributes:
        points: (V, 3) in metres, one a pixel, row by row (of a wrapping picture the first column comes again after the last).
        normals: (V, 3), unit, towards the camera.
        uv: (V, 2) texture coordinates, (0, 0) the picture's lower left corner.
        faces: (F, 3) indices, counter-clockwise as the camera sees them.
        picture: (H, W, 3) uint8.
    """

    points: Array
    normals: Array
    uv: Array
    faces: Array
    picture: Array


def build_mesh(picture: Array, depth_m: Array, projection: Projection, *, edge_threshold: float = 0.05) -> Mesh:
    """One vertex a pixel, two triangles for four neighbours, none across a depth edge; a picture that wraps is closed.

    Shapes: picture (H, W, 3) uint8, depth_m (H, W) as the projection measures it. A threshold of inf cuts nothing.
    Raises: ShapeError, RangeError.
    """
    if picture.shape[:2] != depth_m.shape or picture.ndim != 3:
        raise ShapeError(f"got a picture of {picture.shape[:2]} with a depth map of {depth_m.shape}; expected one size")
    if min(depth_m.shape) < 2:
        raise ShapeError(f"got a depth map of {depth_m.shape}; expected at least 2 x 2 pixels")
    if not edge_threshold > 0:
        raise RangeError(f"got an edge threshold of {edge_threshold:g}; expected one above 0")
    height, width = depth_m.shape
    points = projection.rays(height, width) * depth_m[..., None]  # (H, W, 3)
    wraps = projection.wraps
    disparity = _closed(1 / depth_m, wraps)
    kept_across = ~depth_edges(disparity, 1, edge_threshold, wraps=wraps)
    kept_down = ~depth_edges(disparity, 0, edge_threshold, wraps=wraps)
    faces = _faces(disparity, kept_across, kept_down)
    grid = _closed(points, wraps)
    return Mesh(
        points=grid.reshape(-1, 3),
        normals=_closed(_normals(points, wraps=wraps), wraps).reshape(-1, 3),
        uv=_uv(height, width, grid.shape[1]).reshape(-1, 2),
        faces=faces,
        picture=picture,
    )


def depth_edges(disparity: Array, axis: int, threshold: float, *, wraps: bool = False, reach: int | None = None) -> Array:
    """Find where depth jumps between a pixel and the next along an axis: (H, W) -> boolean, one less along it.

    On a plane disparity is linear in the picture, however steep. A step is an edge if it leaves the range of the steps ``reach`` pixels
    before and behind it by more than ``threshold`` times the larger of its two disparities. A blurred edge counts too, if it is no wider
    than twice the reach: by default 2 pixels, and a 64th of the height, since maps of large pictures come from small ones.
    """
    d = np.moveaxis(disparity, axis, -1)
    steps = np.diff(d, axis=-1)
    limit = threshold * np.maximum(d[..., 1:], d[..., :-1])
    edge = np.zeros(steps.shape, bool)
    for pixels in {2, max(2, disparity.shape[0] // 64)} if reach is None else {reach}:
        before, behind = (_shifted(steps, by, wraps=wraps and axis == 1) for by in (pixels, -pixels))
        low, high = np.fmin(before, behind), np.fmax(before, behind)
        excess = steps - np.clip(steps, np.nan_to_num(low), np.nan_to_num(high))
        edge |= np.abs(excess) > limit
    return np.moveaxis(edge, -1, axis)


def _shifted(steps: Array, by: int, *, wraps: bool) -> Array:
    """Moved along the last axis; nan comes in at the border unless it wraps."""
    moved = np.roll(steps, by, -1)
    if not wraps:
        moved[..., (slice(None, by) if by > 0 else slice(by, None))] = np.nan
    return moved


def _faces(disparity: Array, kept_across: Array, kept_down: Array) -> Array:
    """Two triangles a quad, split along the diagonal over which disparity changes less; each needs its two sides uncut."""
    height, width = disparity.shape
    index = np.arange(height * width).reshape(height, width)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]  # a b over c d
    top, bottom, left, right = kept_across[:-1], kept_across[1:], kept_down[:, :-1], kept_down[:, 1:]
    ad = np.abs(disparity[:-1, :-1] - disparity[1:, 1:]) < np.abs(disparity[:-1, 1:] - disparity[1:, :-1])
    parts = [
        (np.stack([a, c, d], -1), ad & left & bottom),
        (np.stack([a, d, b], -1), ad & top & right),
        (np.stack([a, c, b], -1), ~ad & left & top),
        (np.stack([b, c, d], -1), ~ad & right & bottom),
    ]
    return np.concatenate([triangles[kept] for triangles, kept in parts]).astype(np.int64)


def _normals(points: Array, *, wraps: bool) -> Array:
    """Unit normals (H, W, 3) from neighbouring points, the nearer neighbour along each axis, turned to the camera."""
    across = _nearer_difference(points, 1, wraps=wraps)
    down = _nearer_difference(points, 0, wraps=False)
    normals = np.cross(down, across)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    away = -points / np.linalg.norm(points, axis=-1, keepdims=True)
    normals = np.where(length > 1e-12, normals / np.maximum(length, 1e-12), away)
    return np.where((normals * away).sum(-1, keepdims=True) < 0, -normals, normals)


def _nearer_difference(points: Array, axis: int, *, wraps: bool) -> Array:
    """Of the differences to the neighbour before and behind, the shorter one: it does not reach over a depth edge."""
    steps = np.diff(points, axis=axis)
    first, last = np.take(steps, [0], axis), np.take(steps, [-1], axis)
    if wraps:
        first = last = np.take(points, [0], axis) - np.take(points, [-1], axis)
    steps = np.concatenate([first, steps, last], axis)
    count = points.shape[axis]
    before, behind = (np.take(steps, range(start, start + count), axis) for start in (0, 1))
    shorter = np.linalg.norm(before, axis=-1, keepdims=True) < np.linalg.norm(behind, axis=-1, keepdims=True)
    return np.where(shorter, before, behind)


def _uv(height: int, width: int, columns: int) -> Array:
    """Texture coordinates of pixel centres; a repeated first column lies right of the last."""
    v, u = np.mgrid[:height, :columns].astype(np.float64)
    return np.stack([(u + 0.5) / width, 1 - (v + 0.5) / height], -1)


def _closed(values: Array, wraps: bool) -> Array:
    return np.concatenate([values, values[:, :1]], 1) if wraps else values
