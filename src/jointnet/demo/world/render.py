"""The ray caster of the demo world: a scene -> RGB, exact disparity and exact normals.

RGB averages 2 x 2 samples a pixel; disparity and normals are those of the ray through the pixel's centre, with no filter, so
they are exact to float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np

from jointnet.demo.world.scene import NEAR_M, Camera, Room, Scene
from jointnet.demo.world.shapes import intersect
from jointnet.demo.world.surfaces import floor_colour, sky_colour, wall_colour

_RAYS_AT_ONCE = 8192
"""Bands of the image are shaded one after the other, so that their arrays stay in the cache."""
_SKY, _FLOOR, _WALL, _FIRST_SOLID = -1, 0, 1, 2


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
class _Surface:
    z_m: np.ndarray
    normal: np.ndarray
    kind: np.ndarray


def render(scene: Scene, size: int = 128) -> Rendered:
    """Render a scene at (size, size) pixels."""
    origin = np.array([0, scene.camera.height_m, 0], np.float32)
    bands = np.array_split(camera_rays(scene.camera, 2 * size), max(1, 4 * size * size // _RAYS_AT_ONCE))
    width = scene.camera.half_width / size
    shaded = [_shade(scene, origin, rays, _trace(scene, origin, rays), sample_width=width) for rays in bands]
    rgb = np.concatenate(shaded).reshape(size, 2, size, 2, 3).mean((1, 3))

    centres = _trace(scene, origin, camera_rays(scene.camera, size))
    disparity01 = np.float32(NEAR_M) / centres.z_m
    return Rendered(
        rgb=rgb,
        disparity01=disparity01.reshape(size, size),
        normal=(centres.normal @ _world_to_camera(scene.camera).T).reshape(size, size, 3),
        solid=np.maximum(centres.kind - _FIRST_SOLID, -1).reshape(size, size),
    )


def depth_along(scene: Scene, rays: np.ndarray) -> np.ndarray:
    """Exact depth of the first surface along camera-frame rays (..., 3), in their lengths: of any projection's; inf in the sky."""
    origin = np.array([0, scene.camera.height_m, 0], np.float32)
    world = rays.reshape(-1, 3).astype(np.float32) @ _world_to_camera(scene.camera)
    return _trace(scene, origin, world).z_m.reshape(rays.shape[:-1])


def camera_rays(camera: Camera, size: int) -> np.ndarray:
    """World-frame directions (size * size, 3), row by row, each with camera-frame z = 1: t along them is the depth z."""
    across = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1) * np.float32(camera.half_width)
    u, v = np.meshgrid(across, -across)
    pitch = radians(camera.pitch_deg)
    y = v * np.float32(cos(pitch)) - np.float32(sin(pitch))
    z = v * np.float32(sin(pitch)) + np.float32(cos(pitch))
    return np.stack([u, y, z], -1).reshape(-1, 3)


def _world_to_camera(camera: Camera) -> np.ndarray:
    """Rows: the camera's x (right), y (up) and z (backwards) axes in the world frame."""
    c, s = cos(radians(camera.pitch_deg)), sin(radians(camera.pitch_deg))
    return np.array([[1, 0, 0], [0, c, s], [0, s, -c]], np.float32)


def _trace(scene: Scene, origin: np.ndarray, rays: np.ndarray) -> _Surface:
    """The first surface along each ray; z_m is inf in the sky."""
    z = np.full(len(rays), np.inf, np.float32)
    normal = np.zeros_like(rays)
    kind = np.full(len(rays), _SKY)

    def keep_nearer(t: np.ndarray, n: np.ndarray, k: int) -> None:
        nearer = t < z
        z[nearer], kind[nearer] = t[nearer], k
        normal[nearer] = n[nearer] if n.ndim == 2 else n

    for axis, position, facing in _planes(scene.room):
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (np.float32(position) - origin[axis]) / rays[:, axis]
        n = np.zeros(3, np.float32)
        n[axis] = facing
        keep_nearer(np.where(t > 0, t, np.inf), n, _FLOOR if axis == 1 and facing > 0 else _WALL)
    for index, solid in enumerate(scene.solids):
        keep_nearer(*intersect(solid, origin, rays), _FIRST_SOLID + index)
    return _Surface(z, normal, kind)


def _planes(room: Room | None) -> list[tuple[int, float, float]]:
    """(axis, position, sign of the normal) of the floor and of a room's walls."""
    if room is None:
        return [(1, 0.0, 1.0)]
    return [
        (1, 0.0, 1.0),
        (1, room.ceiling_m, -1.0),
        (0, room.left_m, 1.0),
        (0, room.right_m, -1.0),
        (2, room.back_m, -1.0),
    ]


def _shade(scene: Scene, origin: np.ndarray, rays: np.ndarray, surface: _Surface, *, sample_width: float) -> np.ndarray:
    """Colour (N, 3) in [0, 1]: albedo x (ambient + sun or lamp, with cast shadows) + highlight; albedo in a scene without light."""
    rgb = np.empty_like(rays)
    sky = surface.kind == _SKY
    unit = _unit(rays)
    if sky.any():
        rgb[sky] = sky_colour(scene, unit[sky])
    hit = np.flatnonzero(~sky)
    z, normal, kind, view = surface.z_m[hit], surface.normal[hit], surface.kind[hit], unit[hit]
    point = origin + z[:, None] * rays[hit]

    albedo = np.empty_like(point)
    gloss = np.zeros(len(hit), np.float32)
    on_floor, on_wall = kind == _FLOOR, kind == _WALL
    grazing = np.maximum(-view[on_floor, 1], 0.02)
    albedo[on_floor] = floor_colour(scene, point[on_floor], z[on_floor] * np.float32(sample_width) / grazing)
    if on_wall.any():
        albedo[on_wall] = wall_colour(scene, point[on_wall], normal[on_wall])
    for index, solid in enumerate(scene.solids):
        mine = kind == _FIRST_SOLID + index
        albedo[mine], gloss[mine] = solid.albedo, solid.gloss
    if scene.light is None:
        rgb[hit] = albedo
        return rgb.clip(0, 1)

    towards = np.array(scene.light.vector, np.float32)
    if scene.light.is_lamp:
        towards = _unit(towards - point)
    else:
        towards = np.broadcast_to(towards, point.shape)
    facing = _dot(normal, towards)
    lit = np.maximum(facing, 0) * ~_in_shadow(scene, point + 2e-3 * normal, towards, facing)
    colour = np.array(scene.light.colour, np.float32)
    sheltered = np.float32(0.85) + np.float32(0.15) * normal[:, 1:2]
    rgb[hit] = albedo * (np.array(scene.light.ambient, np.float32) * sheltered + lit[:, None] * colour)
    shiny = np.flatnonzero((gloss > 0) & (lit > 0))
    glint = _dot(normal[shiny], _unit(towards[shiny] - view[shiny]))
    rgb[hit[shiny]] += (gloss[shiny] * np.maximum(glint, 0) ** 40)[:, None] * colour
    return rgb.clip(0, 1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", a, b)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt(_dot(vector, vector))[:, None]


def _in_shadow(scene: Scene, point: np.ndarray, towards: np.ndarray, facing: np.ndarray) -> np.ndarray:
    shadow = np.zeros(len(point), bool)
    for solid in scene.solids:
        ask = np.flatnonzero((facing > 0) & ~shadow)
        t, _ = intersect(solid, point[ask], towards[ask])
        shadow[ask] = np.isfinite(t)
    return shadow
