"""The ray caster of the demo world: scenes -> RGB, exact disparity and exact normals, on any device.

RGB averages 2 x 2 samples a pixel; disparity and normals are those of the ray through the pixel's centre, with no filter, so
they are exact to float32. Rays are columns (3, N); each knows the number of its scene.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, inf, radians, sin

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from jointnet.demo.world.scene import FLOORS, NEAR_M, Light, Scene
from jointnet.demo.world.shapes import intersect, solids_of
from jointnet.demo.world.surfaces import floor_colour, floors_of, skies_of, sky_colour, wall_colour, walls_of
from jointnet.demo.world.vectors import at, column, columns, dot, places, take, unit

_RAYS_AT_ONCE = {"cpu": 2**16}
"""By the device's type; one that is not here takes _MANY_RAYS. On a CPU the arrays of more would leave its caches."""
_MANY_RAYS = 2**22
_SKY, _FLOOR, _WALL, _FIRST_SOLID = -1, 0, 1, 2
_NO_LIGHT = Light(is_lamp=False, vector=(0, 1, 0), colour=(0, 0, 0), ambient=(0, 0, 0))


@dataclass(frozen=True)
class Rendered:
    """One scene's maps, channels last.

    rgb (H, W, 3) in [0, 1]; disparity01 (H, W) = NEAR_M / z, 0 in the sky; normal (H, W, 3), unit, camera frame (x right, y up,
    z towards the camera), (0, 0, 0) in the sky; solid (H, W): index of the visible solid, -1 elsewhere.
    """

    rgb: np.ndarray
    disparity01: np.ndarray
    normal: np.ndarray
    solid: np.ndarray


@dataclass(frozen=True)
class Maps:
    """The maps of B scenes, see ``Rendered``, on their device: rgb and normal (B, 3, H, W), disparity01 and solid (B, H, W)."""

    rgb: Tensor
    disparity01: Tensor
    normal: Tensor
    solid: Tensor


def render(scene: Scene, size: int = 128) -> Rendered:
    """Render a scene at (size, size) pixels."""
    maps = render_batch([scene], size)
    return Rendered(
        rgb=maps.rgb[0].permute(1, 2, 0).contiguous().numpy(),
        disparity01=maps.disparity01[0].numpy(),
        normal=maps.normal[0].permute(1, 2, 0).contiguous().numpy(),
        solid=maps.solid[0].numpy(),
    )


def render_batch(scenes: Sequence[Scene], size: int = 128, device: torch.device | str = "cpu") -> Maps:
    """Render scenes at (size, size) pixels, as many at once as the device takes."""
    device = torch.device(device)
    rays_at_once = _RAYS_AT_ONCE.get(device.type, _MANY_RAYS)
    scenes_at_once = max(1, rays_at_once // (2 * size) ** 2)
    count = len(scenes)
    maps = Maps(
        rgb=torch.empty(count, 3, size, size, device=device),
        disparity01=torch.empty(count, size, size, device=device),
        normal=torch.empty(count, 3, size, size, device=device),
        solid=torch.empty(count, size, size, dtype=torch.int64, device=device),
    )
    for start in range(0, count, scenes_at_once):
        some = slice(start, start + scenes_at_once)
        world = _World(scenes[some], device)
        for rows in _bands(size, rays_at_once // 4):
            samples = slice(2 * rows.start, 2 * rows.stop)
            maps.rgb[some, :, rows] = avg_pool2d(world.shaded(2 * size, samples), 2)
            maps.disparity01[some, rows], maps.normal[some, :, rows], maps.solid[some, rows] = world.seen(size, rows)
    return maps


def _bands(size: int, pixels: int) -> Iterator[slice]:
    """Rows of an image, of about as many pixels at once."""
    step = max(1, min(size, pixels // size))
    return (slice(first, min(first + step, size)) for first in range(0, size, step))


def depth_along(scene: Scene, rays: np.ndarray) -> np.ndarray:
    """Exact depth of the first surface along camera-frame rays (..., 3), in their lengths: of any projection's; inf in the sky."""
    world = _World([scene], torch.device("cpu"))
    camera = torch.from_numpy(rays.reshape(-1, 3).astype(np.float32)).T
    return world.trace(world.one, world.turned(world.one, camera)).z_m.numpy().reshape(rays.shape[:-1])


@dataclass(frozen=True)
class _Surface:
    """What rays meet first: depth z_m (N,), inf in the sky; normal (3, N), world frame; kind (N,)."""

    z_m: Tensor
    normal: Tensor
    kind: Tensor


class _World:
    """B scenes on a device."""

    def __init__(self, scenes: Sequence[Scene], device: torch.device) -> None:
        cameras, lights = [scene.camera for scene in scenes], [scene.light or _NO_LIGHT for scene in scenes]
        rooms = [scene.room for scene in scenes]
        self.num, self.device = len(scenes), device
        self.one = torch.zeros(1, dtype=torch.int64, device=device)
        self.origin = columns(((0, camera.height_m, 0) for camera in cameras), device)
        self.cos_pitch = column((cos(radians(camera.pitch_deg)) for camera in cameras), device)
        self.sin_pitch = column((sin(radians(camera.pitch_deg)) for camera in cameras), device)
        self.half_width = column((camera.half_width for camera in cameras), device)
        self.has_rooms = any(room is not None for room in rooms)
        self.walls_m = columns(
            ((-inf, inf, inf, inf) if room is None else (room.left_m, room.right_m, room.ceiling_m, room.back_m) for room in rooms), device
        )
        self.slots = solids_of(scenes, device)
        self.floor_kinds = frozenset(FLOORS.index(scene.floor) for scene in scenes)
        self.floors, self.wall_rgb, self.skies = floors_of(scenes, device), walls_of(scenes, device), skies_of(scenes, device)
        self.light = columns((light.vector for light in lights), device)
        self.light_colour = columns((light.colour for light in lights), device)
        self.ambient = columns((light.ambient for light in lights), device)
        self.is_unlit = torch.tensor([scene.light is None for scene in scenes], device=device)
        self.has_unlit = any(scene.light is None for scene in scenes)
        self.has_lamps = any(light.is_lamp for light in lights)
        self.is_lamp = torch.tensor([light.is_lamp for light in lights], device=device)

    def shaded(self, size: int, rows: slice) -> Tensor:
        """Colours (B, 3, rows, size) of some rows of images at (size, size) samples."""
        scene, rays = self.camera_rays(size, rows)
        rgb = self.shade(scene, rays, self.trace(scene, rays), sample_width=2 * self.half_width / size)
        return rgb.view(3, self.num, -1, size).transpose(0, 1)

    def seen(self, size: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Disparity (B, rows, size), normals (B, 3, rows, size) and solids (B, rows, size)."""
        scene, rays = self.camera_rays(size, rows)
        surface = self.trace(scene, rays)
        normal = self.turned(scene, surface.normal).view(3, self.num, -1, size).transpose(0, 1)
        solid = (surface.kind - _FIRST_SOLID).clamp(min=-1)
        return (NEAR_M / surface.z_m).view(self.num, -1, size), normal, solid.view(self.num, -1, size)

    def camera_rays(self, size: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Scenes (N,) and world-frame directions (3, N), row by row, each with camera-frame z = 1: t along them is the depth z."""
        across = ((torch.arange(size, dtype=torch.float32, device=self.device) + 0.5) * (2 / size) - 1) * self.half_width[:, None]
        x, down = across[:, None, :], across[:, rows, None]  # (B, 1, W), (B, rows, 1)
        c, s = self.cos_pitch[:, None, None], self.sin_pitch[:, None, None]
        rays = torch.stack(torch.broadcast_tensors(x, -down * c - s, c - down * s)).view(3, -1)
        if self.num == 1:
            return self.one, rays
        return torch.arange(self.num, device=self.device).repeat_interleave(rays.shape[1] // self.num), rays

    def turned(self, scene: Tensor, vector: Tensor) -> Tensor:
        """Between world and camera frame (x right, y up, z backwards), either way: the matrix is its own inverse."""
        c, s = at(self.cos_pitch, scene), at(self.sin_pitch, scene)
        x, y, z = vector
        return torch.stack([x, c * y + s * z, s * y - c * z])

    def trace(self, scene: Tensor, rays: Tensor) -> _Surface:
        """The first surface along each ray from its camera."""
        origin = at(self.origin, scene)
        z, normal, kind = self._planes(scene, origin, rays)
        for number, (shapes, solids) in enumerate(self.slots):
            for hits in intersect(shapes, solids, scene, origin, rays):
                nearer = places(hits.t < take(z, hits.ray))
                if len(nearer):
                    ray = take(hits.ray, nearer)
                    z.index_copy_(0, ray, take(hits.t, nearer))
                    kind.index_fill_(0, ray, _FIRST_SOLID + number)
                    normal.index_copy_(1, ray, hits.normal(nearer))
        return _Surface(z, normal, kind)

    def _planes(self, scene: Tensor, origin: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Depth, normal and kind of the floor, of a room's walls, or of the sky."""
        left, right, ceiling, back = at(self.walls_m, scene)
        x, y, z = rays
        depth = ((torch.where(y < 0, 0.0, ceiling) - origin[1]) / y).abs()
        normal = torch.zeros_like(rays)
        is_sky = depth == inf
        normal[1] = torch.where(is_sky, 0.0, -y.sign())
        kind = torch.where(is_sky, _SKY, torch.where(y < 0, _FLOOR, _WALL))
        if self.has_rooms:
            side = ((torch.where(x > 0, right, left) - origin[0]) / x).abs()
            behind = torch.where(z > 0, (back - origin[2]) / z, inf)
            for axis, t in ((0, side), (2, behind)):
                is_nearer = t < depth
                depth = torch.where(is_nearer, t, depth)
                normal.masked_fill_(is_nearer, 0)
                normal[axis] = torch.where(is_nearer, -rays[axis].sign(), normal[axis])
                kind.masked_fill_(is_nearer, _WALL)
        return depth, normal, kind

    def shade(self, scene: Tensor, rays: Tensor, surface: _Surface, *, sample_width: Tensor) -> Tensor:
        """Colour (3, N) in [0, 1]: albedo x (ambient + sun or lamp, with cast shadows) + highlight; albedo in a scene without light."""
        rgb = torch.empty_like(rays)
        unit_rays = unit(rays)
        sky, hit = places(surface.kind == _SKY), places(surface.kind != _SKY)
        if len(sky):
            rgb.index_copy_(1, sky, sky_colour(self.skies, at(scene, sky), take(unit_rays, sky)))
        if not len(hit):
            return rgb
        z, normal, kind, view = (take(values, hit) for values in (surface.z_m, surface.normal, surface.kind, unit_rays))
        scene = at(scene, hit)
        point = at(self.origin, scene) + z * take(rays, hit)
        albedo, gloss = self._material(scene, point, normal, kind, z * at(sample_width, scene) / (-view[1]).clamp(min=0.02))

        towards = at(self.light, scene)
        if self.has_lamps:
            towards = torch.where(at(self.is_lamp, scene), unit(towards - point), towards)
        facing = dot(normal, towards)
        lit = facing.clamp(min=0) * ~self._in_shadow(scene, point + 2e-3 * normal, towards, facing)
        colour = at(self.light_colour, scene)
        rgb_hit = albedo * (at(self.ambient, scene) * (0.85 + 0.15 * normal[1]) + lit * colour)
        shiny = places((gloss > 0) & (lit > 0))
        if len(shiny):
            glint = dot(take(normal, shiny), unit(at(towards, shiny) - take(view, shiny)))
            rgb_hit.index_add_(1, shiny, take(gloss, shiny) * glint.clamp(min=0) ** 40 * at(colour, shiny))
        if self.has_unlit:
            rgb_hit = torch.where(at(self.is_unlit, scene), albedo, rgb_hit)
        return rgb.index_copy_(1, hit, rgb_hit).clamp_(0, 1)

    def _material(self, scene: Tensor, point: Tensor, normal: Tensor, kind: Tensor, footprint_m: Tensor) -> tuple[Tensor, Tensor]:
        """Albedo (3, N) and gloss (N,) of what is no sky."""
        albedo, gloss = torch.empty_like(point), torch.zeros_like(footprint_m)
        floor = places(kind == _FLOOR)
        if len(floor):
            colour = floor_colour(self.floor_kinds, self.floors, at(scene, floor), take(point, floor), take(footprint_m, floor))
            albedo.index_copy_(1, floor, colour)
        if self.has_rooms:
            wall = places(kind == _WALL)
            albedo.index_copy_(1, wall, wall_colour(at(self.wall_rgb, at(scene, wall)), take(point, wall), take(normal, wall)))
        for number, (_, solids) in enumerate(self.slots):
            mine = places(kind == _FIRST_SOLID + number)
            if len(mine):
                solid = solids.take(at(scene, mine))
                albedo.index_copy_(1, mine, solid.albedo.expand(-1, len(mine)))
                gloss.index_copy_(0, mine, solid.gloss.expand(len(mine)))
        return albedo, gloss

    def _in_shadow(self, scene: Tensor, point: Tensor, towards: Tensor, facing: Tensor) -> Tensor:
        """True (N,) where a solid stands between a point that faces the light and the light."""
        asked = places(facing > 0)
        scene, point, towards = at(scene, asked), take(point, asked), at(towards, asked)
        is_dark = torch.zeros_like(asked, dtype=torch.bool)
        for shapes, solids in self.slots:
            for hits in intersect(shapes, solids, scene, point, towards):
                is_dark.index_copy_(0, hits.ray, take(is_dark, hits.ray) | (hits.t < inf))
        return torch.zeros_like(facing, dtype=torch.bool).index_copy_(0, asked, is_dark)
