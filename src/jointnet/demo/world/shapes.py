"""Exact ray intersections with the solids of the demo world.

Every function takes rays ``origin + t * direction`` as (N, 3) arrays in the solid's own frame (its foot at the origin, y up)
and returns ``(t, normal)``: t (N,), inf where the ray misses, the nearest t > 0 otherwise; normal (N, 3), outward, unit.
"""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np

from jointnet.demo.world.scene import Solid

Hit = tuple[np.ndarray, np.ndarray]
_EPSILON = np.float32(1e-4)


def intersect(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> Hit:
    """Nearest hit of world-frame rays (N, 3) with a solid; a bounding sphere discards most rays first."""
    t = np.full(len(direction), np.inf, np.float32)
    normal = np.zeros((len(direction), 3), np.float32)
    foot = np.array([solid.x_m, 0.0, solid.z_m], np.float32)
    local = origin - foot
    near = np.flatnonzero(_may_hit(solid, local, direction))
    if len(near) == 0:
        return t, normal
    turn = _yaw(solid.yaw_deg)
    local_near = np.broadcast_to(local, direction.shape)[near] @ turn
    t_near, normal_near = _SHAPES[solid.shape](solid, local_near, direction[near] @ turn)
    t[near], normal[near] = t_near, normal_near @ turn.T
    return t, normal


def _yaw(yaw_deg: float) -> np.ndarray:
    c, s = cos(radians(yaw_deg)), sin(radians(yaw_deg))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)


def _may_hit(solid: Solid, local: np.ndarray, direction: np.ndarray) -> np.ndarray:
    half = np.float32(solid.height_m / 2)
    radius_squared = np.float32((solid.radius_m**2 + float(half) ** 2) * 1.01)
    x, y, z = local[..., 0], local[..., 1] - half, local[..., 2]
    dx, dy, dz = direction[:, 0], direction[:, 1], direction[:, 2]
    along = x * dx + y * dy + z * dz
    missed_by = (x * x + y * y + z * z - radius_squared) * (dx * dx + dy * dy + dz * dz)
    return along * along > missed_by


def _ball(solid: Solid, o: np.ndarray, d: np.ndarray) -> Hit:
    r = np.float32(solid.radius_m)
    centre = np.array([0, r, 0], np.float32)
    t = _nearest_root(_dot(d, d), _dot(d, o - centre), _dot(o - centre, o - centre) - r * r)
    return t, (_at(o, d, t) - centre) / r


def _box(solid: Solid, o: np.ndarray, d: np.ndarray) -> Hit:
    a, b = solid.half_extents_m
    low = np.array([-a, 0, -b], np.float32)
    high = np.array([a, solid.height_m, b], np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (low - o) / d, (high - o) / d
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    axis = enter.argmax(1)
    t_in, t_out = enter.max(1), leave.min(1)
    t = np.where((t_in <= t_out) & (t_in > _EPSILON), t_in, np.inf).astype(np.float32)
    normal = np.zeros_like(d)
    rows = np.arange(len(d))
    normal[rows, axis] = -np.sign(d[rows, axis])
    return t, normal


def _cylinder(solid: Solid, o: np.ndarray, d: np.ndarray) -> Hit:
    r, h = np.float32(solid.radius_m), np.float32(solid.height_m)
    oh, dh = o[:, [0, 2]], d[:, [0, 2]]
    side = _nearest_root(_dot(dh, dh), _dot(dh, oh), _dot(oh, oh) - r * r)
    y = _at(o, d, side)[:, 1]
    side = np.where((y >= 0) & (y <= h), side, np.inf)
    top = _plane(o[:, 1] - h, d[:, 1])
    p = _at(o, d, top)
    top = np.where(p[:, 0] ** 2 + p[:, 2] ** 2 <= r * r, top, np.inf)
    t = np.minimum(side, top)
    normal = _at(o, d, t) / r
    normal[:, 1] = 0
    normal[top < side] = (0, 1, 0)
    return t, normal


def _cone(solid: Solid, o: np.ndarray, d: np.ndarray) -> Hit:
    r, h = np.float32(solid.radius_m), np.float32(solid.height_m)
    slope = (r / h) ** 2
    apex = h - o[:, 1]
    a = d[:, 0] ** 2 + d[:, 2] ** 2 - slope * d[:, 1] ** 2
    b = o[:, 0] * d[:, 0] + o[:, 2] * d[:, 2] + slope * apex * d[:, 1]
    c = o[:, 0] ** 2 + o[:, 2] ** 2 - slope * apex**2
    best = np.full(len(d), np.inf, np.float32)
    for t in _roots(a, b, c):
        y = _at(o, d, t)[:, 1]
        best = np.where((y >= 0) & (y <= h) & (t < best), t, best)
    p = _at(o, d, best)
    normal = np.stack([p[:, 0], slope * (h - p[:, 1]), p[:, 2]], 1)
    return best, normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)


_SHAPES = {"ball": _ball, "box": _box, "cylinder": _cylinder, "cone": _cone}


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", a, b)


def _at(o: np.ndarray, d: np.ndarray, t: np.ndarray) -> np.ndarray:
    return o + np.where(np.isfinite(t), t, 0)[:, None] * d


def _plane(height: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """t at which a ray ``height`` above a horizontal plane meets it; inf if it does not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -height / dy
    return np.where(t > _EPSILON, t, np.inf).astype(np.float32)


def _roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both roots t > 0 of a t^2 + 2 b t + c = 0, inf where there is none."""
    discriminant = b * b - a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.maximum(discriminant, 0))
        pair = (-b - root) / a, (-b + root) / a
    first, second = (np.where((discriminant >= 0) & (t > _EPSILON), t, np.inf).astype(np.float32) for t in pair)
    return first, second


def _nearest_root(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.minimum(*_roots(a, b, c))
