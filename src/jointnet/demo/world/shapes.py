"""Exact ray intersections with the solids of the demo world.

Rays are ``origin + t * direction``, (3, N) each; a shape's functions take them in the solid's own frame (its foot at the origin, y up).
Its distance is the nearest t > 0, (N,), inf where the ray misses; its normal at a hit is outward and unit, (3, N).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from math import cos, inf, radians, sin

import torch
from torch import Tensor

from jointnet.demo.world.scene import SHAPES, Scene, Solid
from jointnet.demo.world.vectors import at, column, columns, dot, places, take

_EPSILON = 1e-4


@dataclass(frozen=True)
class Solids:
    """One solid of each of B scenes, or of each of N rays: a column each, lengths in metres.

    ``shape`` is a place in SHAPES; ``reach_m2`` the squared radius of a bounding sphere, -inf where a scene has no such solid.
    """

    shape: Tensor
    x_m: Tensor
    z_m: Tensor
    radius_m: Tensor
    height_m: Tensor
    half_m: Tensor
    cos_yaw: Tensor
    sin_yaw: Tensor
    reach_m2: Tensor
    albedo: Tensor
    gloss: Tensor

    def take(self, index: Tensor) -> Solids:
        """The solids at places (N,)."""
        return Solids(*(at(getattr(self, field.name), index) for field in fields(self)))


def solids_of(scenes: Sequence[Scene], device: torch.device) -> list[tuple[frozenset[int], Solids]]:
    """The first solid of every scene, the second, and so on, each with the shapes that are among them."""
    slots: list[tuple[frozenset[int], Solids]] = []
    for number in range(max(len(scene.solids) for scene in scenes)):
        present = [scene.solids[number] if number < len(scene.solids) else None for scene in scenes]
        solids = [solid or scene.solids[0] for solid, scene in zip(present, scenes, strict=True)]
        shapes = [SHAPES.index(solid.shape) for solid in solids]
        slot = Solids(
            shape=torch.tensor(shapes, device=device),
            x_m=column((s.x_m for s in solids), device),
            z_m=column((s.z_m for s in solids), device),
            radius_m=column((s.radius_m for s in solids), device),
            height_m=column((s.height_m for s in solids), device),
            half_m=columns((s.half_extents_m for s in solids), device),
            cos_yaw=column((cos(radians(s.yaw_deg)) for s in solids), device),
            sin_yaw=column((sin(radians(s.yaw_deg)) for s in solids), device),
            reach_m2=column((-inf if s is None else _reach_m2(s) for s in present), device),
            albedo=columns((s.albedo for s in solids), device),
            gloss=column((s.gloss for s in solids), device),
        )
        slots.append((frozenset(shapes), slot))
    return slots


def _reach_m2(solid: Solid) -> float:
    return (solid.radius_m**2 + (solid.height_m / 2) ** 2) * 1.01


@dataclass(frozen=True)
class Hits:
    """Rays that come near solids of one shape. ``ray`` (N,): their places among all rays; ``t`` (N,): inf where one misses."""

    ray: Tensor
    t: Tensor
    shape: int
    solids: Solids
    origin: Tensor
    direction: Tensor

    def normal(self, which: Tensor) -> Tensor:
        """Outward normals (3, n) of some of the rays, at least one, which hit."""
        solids, o, d = self.solids.take(which), at(self.origin, which), at(self.direction, which)
        return _SHAPES[SHAPES[self.shape]].normal(solids, o, d, take(self.t, which))


def intersect(shapes: frozenset[int], solids: Solids, scene: Tensor, origin: Tensor, direction: Tensor) -> Iterator[Hits]:
    """Yield the hits of rays with their scenes' solids, shape by shape; a bounding sphere discards most rays first.

    Shapes: scene (N,), which of the B scenes a ray belongs to; origin, direction (3, N), or (3, 1) if all rays have the same.
    """
    foot_x, foot_z = at(solids.x_m, scene), at(solids.z_m, scene)
    local = torch.stack(torch.broadcast_tensors(origin[0] - foot_x, origin[1], origin[2] - foot_z))
    near = places(_may_hit(at(solids.height_m, scene) / 2, at(solids.reach_m2, scene), local, direction))
    for shape in sorted(shapes):
        ray = near if len(shapes) == 1 else near[solids.shape[scene[near]] == shape]
        if len(ray):
            mine, o, d = solids.take(at(scene, ray)), at(local, ray), at(direction, ray)
            yield Hits(ray, _SHAPES[SHAPES[shape]].distance(mine, o, d), shape, mine, o, d)


def _may_hit(half_m: Tensor, reach_m2: Tensor, local: Tensor, direction: Tensor) -> Tensor:
    centred = torch.stack(torch.broadcast_tensors(local[0], local[1] - half_m, local[2]))
    along = dot(centred, direction)
    return along * along > (dot(centred, centred) - reach_m2) * dot(direction, direction)


def _ball_distance(solid: Solids, o: Tensor, d: Tensor) -> Tensor:
    x, y, z = o[0], o[1] - solid.radius_m, o[2]
    return _nearest_root(dot(d, d), x * d[0] + y * d[1] + z * d[2], x * x + y * y + z * z - solid.radius_m**2)


def _ball_normal(solid: Solids, o: Tensor, d: Tensor, t: Tensor) -> Tensor:
    x, y, z = _point(o, d, t)
    return torch.stack([x, y - solid.radius_m, z]) / solid.radius_m


def _box_distance(solid: Solids, o: Tensor, d: Tensor) -> Tensor:
    enter, leave = _slabs(solid, _turned(o, solid), _turned(d, solid))
    t_in, t_out = enter.amax(0), leave.amin(0)
    return torch.where((t_in <= t_out) & (t_in > _EPSILON), t_in, inf)


def _box_normal(solid: Solids, o: Tensor, d: Tensor, t: Tensor) -> Tensor:  # noqa: ARG001 - the same for every shape
    d = _turned(d, solid)
    enter, _ = _slabs(solid, _turned(o, solid), d)
    is_axis = torch.arange(3, device=d.device)[:, None] == enter.argmax(0)
    x, y, z = torch.where(is_axis, -d.sign(), 0.0)
    return torch.stack([x * solid.cos_yaw + z * solid.sin_yaw, y, z * solid.cos_yaw - x * solid.sin_yaw])


def _slabs(solid: Solids, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the space between each pair of faces, (3, N) each."""
    (a, b), nil = solid.half_m, torch.zeros_like(solid.height_m)
    first, second = (torch.stack([-a, nil, -b]) - o) / d, (torch.stack([a, solid.height_m, b]) - o) / d
    return torch.minimum(first, second), torch.maximum(first, second)


def _turned(v: Tensor, solid: Solids) -> Tensor:
    """A vector in the frame of a box that is turned by its yaw."""
    return torch.stack(
        torch.broadcast_tensors(v[0] * solid.cos_yaw - v[2] * solid.sin_yaw, v[1], v[0] * solid.sin_yaw + v[2] * solid.cos_yaw)
    )


def _cylinder_distance(solid: Solids, o: Tensor, d: Tensor) -> Tensor:
    across, along = o[::2], d[::2]
    side = _nearest_root(dot(along, along), dot(along, across), dot(across, across) - solid.radius_m**2)
    return torch.minimum(_between_ends(solid, o, d, side), _top(solid, o, d))


def _top(solid: Solids, o: Tensor, d: Tensor) -> Tensor:
    """Where rays meet the disc at the top."""
    t = (solid.height_m - o[1]) / d[1]
    x, z = o[0] + t * d[0], o[2] + t * d[2]
    return torch.where((t > _EPSILON) & (x * x + z * z <= solid.radius_m**2), t, inf)


def _cylinder_normal(solid: Solids, o: Tensor, d: Tensor, t: Tensor) -> Tensor:
    x, _, z = _point(o, d, t) / solid.radius_m
    is_top = t == _top(solid, o, d)
    return torch.stack([x.masked_fill(is_top, 0), is_top.float(), z.masked_fill(is_top, 0)])


def _cone_distance(solid: Solids, o: Tensor, d: Tensor) -> Tensor:
    slope = (solid.radius_m / solid.height_m) ** 2
    apex = solid.height_m - o[1]
    a = dot(d[::2], d[::2]) - slope * d[1] * d[1]
    b = dot(o[::2], d[::2]) + slope * apex * d[1]
    c = dot(o[::2], o[::2]) - slope * apex * apex
    first, second = (_between_ends(solid, o, d, t) for t in _roots(a, b, c))
    return torch.minimum(first, second)


def _cone_normal(solid: Solids, o: Tensor, d: Tensor, t: Tensor) -> Tensor:
    x, y, z = _point(o, d, t)
    normal = torch.stack([x, (solid.radius_m / solid.height_m) ** 2 * (solid.height_m - y), z])
    return normal / dot(normal, normal).sqrt().clamp(min=1e-9)


@dataclass(frozen=True)
class _Shape:
    """Functions of the solids and of rays' origins and directions; the normal's last argument is the distance to the hit."""

    distance: Callable[[Solids, Tensor, Tensor], Tensor]
    normal: Callable[[Solids, Tensor, Tensor, Tensor], Tensor]


_SHAPES = {
    "ball": _Shape(_ball_distance, _ball_normal),
    "box": _Shape(_box_distance, _box_normal),
    "cylinder": _Shape(_cylinder_distance, _cylinder_normal),
    "cone": _Shape(_cone_distance, _cone_normal),
}


def _point(o: Tensor, d: Tensor, t: Tensor) -> Tensor:
    return o + t * d


def _between_ends(solid: Solids, o: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """t where its point lies between foot and top, inf elsewhere."""
    y = o[1] + t * d[1]
    return torch.where((y >= 0) & (y <= solid.height_m), t, inf)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots t > 0 of a t^2 + 2 b t + c = 0, inf where there is none."""
    root = (b * b - a * c).sqrt()  # nan where there is none: then no comparison holds
    first, second = (-b - root) / a, (root - b) / a
    return torch.where(first > _EPSILON, first, inf), torch.where(second > _EPSILON, second, inf)


def _nearest_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.minimum(*_roots(a, b, c))
