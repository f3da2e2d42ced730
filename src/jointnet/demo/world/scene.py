"""Demo scenes, and how a seed becomes one.

World frame: x right, y up, z away from the camera, in metres. The floor is y = 0, the camera stands at (0, height_m, 0) and
looks along +z, tilted down by pitch_deg.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin, tan

import numpy as np

NEAR_M = 1.5
"""The one global near distance: disparity01 = NEAR_M / z. No visible surface is nearer."""

SHAPES = ("ball", "box", "cylinder", "cone")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZES = ("small", "large")
FLOORS = ("grass", "sand", "stone", "wooden", "checkered", "tiled")
SKIES = ("blue sky", "cloudy sky", "sunset", "night")
ROOMS = ("white room", "yellow room", "green room", "blue room")
SETTINGS = SKIES + ROOMS

RADIUS_M = {"small": (0.27, 0.40), "large": (0.70, 0.95)}
COLOUR_RGB = {
    "red": (0.82, 0.10, 0.10),
    "orange": (0.95, 0.48, 0.05),
    "yellow": (0.95, 0.86, 0.12),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.12, 0.28, 0.85),
    "purple": (0.52, 0.16, 0.66),
    "white": (0.94, 0.94, 0.94),
    "black": (0.09, 0.09, 0.10),
}


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels; fov_deg is the full angle across the square image."""

    height_m: float
    pitch_deg: float
    fov_deg: float

    @property
    def half_width(self) -> float:
        """Half the image's width on the plane z = 1."""
        return tan(radians(self.fov_deg) / 2)


@dataclass(frozen=True)
class Solid:
    """One object standing on the floor.

    ``radius_m`` bounds it horizontally: the ball's and cylinder's radius, the cone's base radius, the box's half diagonal.
    """

    shape: str
    colour: str
    size: str
    x_m: float
    z_m: float
    radius_m: float
    height_m: float
    yaw_deg: float
    half_extents_m: tuple[float, float]
    albedo: tuple[float, float, float]
    gloss: float


@dataclass(frozen=True)
class Light:
    """A sun (direction towards it) or a lamp (position), with what it and the surroundings give."""

    is_lamp: bool
    vector: tuple[float, float, float]
    colour: tuple[float, float, float]
    ambient: tuple[float, float, float]


@dataclass(frozen=True)
class Room:
    """Walls at x = left_m, x = right_m, z = back_m, and a ceiling at y = ceiling_m."""

    left_m: float
    right_m: float
    back_m: float
    ceiling_m: float


@dataclass(frozen=True)
class Scene:
    """Everything that decides the picture.

    Attributes:
        light: None: the picture shows what colour every surface has, without light and shadows (its albedo), and the sky as it is.
        texture_seed: feeds the floor's and the sky's noise.
    """

    seed: int
    camera: Camera
    solids: tuple[Solid, ...]
    floor: str
    floor_yaw_deg: float
    floor_scale_m: float
    floor_tint: tuple[float, float, float]
    setting: str
    room: Room | None
    light: Light | None
    texture_seed: int

    def column(self, solid: Solid) -> float:
        """Horizontal image position of a solid's axis: -1 the left edge, 1 the right edge."""
        _, axis_m = _camera_coordinates(self.camera, solid.height_m / 2, solid.z_m)
        return solid.x_m / (axis_m * self.camera.half_width)


def _camera_coordinates(camera: Camera, y_m: float, z_m: float) -> tuple[float, float]:
    """(up, forward) in the camera's frame of a point at height y_m and distance z_m."""
    pitch = radians(camera.pitch_deg)
    dy = y_m - camera.height_m
    return dy * cos(pitch) + z_m * sin(pitch), z_m * cos(pitch) - dy * sin(pitch)


def _sample_camera(rng: np.random.Generator) -> Camera:
    """A camera whose lowest ray meets the floor at NEAR_M or farther."""
    height_m, pitch_deg, fov_deg = rng.uniform(1.2, 1.9), rng.uniform(5.0, 18.0), rng.uniform(46.0, 60.0)
    drop = sin(radians(pitch_deg)) + cos(radians(pitch_deg)) * tan(radians(fov_deg) / 2)
    return Camera(max(height_m, NEAR_M * drop), pitch_deg, fov_deg)


def sample_scene(seed: int) -> Scene:
    """Draw a scene from its seed: the same seed gives the same scene, whatever was drawn before."""
    rng = np.random.default_rng(seed)
    camera = _sample_camera(rng)
    setting = SETTINGS[rng.integers(len(SETTINGS))]
    room = _sample_room(rng) if setting in ROOMS else None
    solids = _sample_solids(rng, camera, room)
    return Scene(
        seed=seed,
        camera=camera,
        solids=solids,
        floor=FLOORS[rng.integers(len(FLOORS))],
        floor_yaw_deg=rng.uniform(0.0, 90.0),
        floor_scale_m=rng.uniform(0.75, 1.25),
        floor_tint=_triple(1.0 + 0.04 * rng.standard_normal(3).clip(-2, 2)),
        setting=setting,
        room=room,
        light=_sample_light(rng, setting, room),
        texture_seed=int(rng.integers(2**31)),
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _sample_room(rng: np.random.Generator) -> Room:
    return Room(
        left_m=-rng.uniform(2.6, 4.2),
        right_m=rng.uniform(2.6, 4.2),
        back_m=rng.uniform(7.0, 10.0),
        ceiling_m=rng.uniform(2.7, 3.6),
    )


def _sample_light(rng: np.random.Generator, setting: str, room: Room | None) -> Light:
    if room is not None:
        position = np.array([rng.uniform(-1.5, 1.5), room.ceiling_m - rng.uniform(0.15, 0.4), rng.uniform(1.5, 5.5)])
        warmth = rng.uniform(-0.04, 0.04)
        return Light(True, _triple(position), (0.62 + warmth, 0.62, 0.62 - warmth), (0.42, 0.42, 0.42))
    lowest, highest = {"sunset": (16.0, 30.0), "night": (35.0, 65.0)}.get(setting, (30.0, 68.0))
    elevation, azimuth = radians(rng.uniform(lowest, highest)), rng.uniform(0.0, 2 * np.pi)
    towards = np.array([cos(elevation) * cos(azimuth), sin(elevation), cos(elevation) * sin(azimuth)])
    colour, ambient = {
        "blue sky": ((0.68, 0.66, 0.62), (0.38, 0.40, 0.44)),
        "cloudy sky": ((0.18, 0.18, 0.18), (0.66, 0.67, 0.69)),
        "sunset": ((0.74, 0.54, 0.38), (0.48, 0.43, 0.44)),
        "night": ((0.26, 0.30, 0.40), (0.28, 0.30, 0.37)),
    }[setting]
    strength = rng.uniform(0.9, 1.1)
    return Light(False, _triple(towards), _triple(np.array(colour) * strength), ambient)


def _sample_solids(rng: np.random.Generator, camera: Camera, room: Room | None) -> tuple[Solid, ...]:
    """One to three solids of different colours: apart from each other, and each to be seen by at least 45 % of its width."""
    count = int(rng.choice([1, 2, 3], p=[0.25, 0.45, 0.30]))
    while True:
        colours = rng.permutation(len(COLOURS))[:count]
        solids: list[Solid] = []
        for colour in colours:
            for _ in range(40):
                solid = _sample_solid(rng, camera, COLOURS[colour])
                if _fits(solid, solids, camera, room):
                    solids.append(solid)
                    break
        if len(solids) == count:
            return tuple(solids)


def _sample_solid(rng: np.random.Generator, camera: Camera, colour: str) -> Solid:
    shape, size = SHAPES[rng.integers(len(SHAPES))], SIZES[rng.integers(len(SIZES))]
    radius = rng.uniform(*RADIUS_M[size])
    height = {
        "ball": 2 * radius,
        "box": radius * rng.uniform(1.1, 1.9),
        "cylinder": radius * rng.uniform(1.3, 2.5),
        "cone": radius * rng.uniform(1.7, 2.6),
    }[shape]
    corner = rng.uniform(radians(35), radians(55))
    nearest = 3.2 if size == "large" else 2.7
    z = rng.uniform(nearest, 6.5)
    x = rng.uniform(-0.8, 0.8) * z * camera.half_width
    jitter = np.clip(np.array(COLOUR_RGB[colour]) * rng.uniform(0.88, 1.08) + 0.025 * rng.standard_normal(3), 0.03, 1.0)
    return Solid(
        shape=shape,
        colour=colour,
        size=size,
        x_m=x,
        z_m=z,
        radius_m=radius,
        height_m=height,
        yaw_deg=rng.uniform(0.0, 90.0),
        half_extents_m=(radius * cos(corner), radius * sin(corner)),
        albedo=_triple(jitter),
        gloss=rng.uniform(0.0, 0.45),
    )


def _columns(solid: Solid, camera: Camera) -> tuple[float, float]:
    """The image columns a solid spans, -1 to 1 across the image."""
    middle, half = (v / (solid.z_m * camera.half_width) for v in (solid.x_m, solid.radius_m))
    return middle - half, middle + half


def _fits(solid: Solid, others: list[Solid], camera: Camera, room: Room | None) -> bool:
    first, last = _columns(solid, camera)
    if first < -1.0 or last > 1.0:
        return False
    if room is not None and not (room.left_m + 0.1 < solid.x_m - solid.radius_m and solid.x_m + solid.radius_m < room.right_m - 0.1):
        return False
    for other in others:
        apart = np.hypot(solid.x_m - other.x_m, solid.z_m - other.z_m)
        if apart < solid.radius_m + other.radius_m + 0.1:
            return False
        behind = max(solid, other, key=lambda s: s.z_m)
        (a, b), (c, d) = _columns(solid, camera), _columns(other, camera)
        start, end = _columns(behind, camera)
        if min(b, d) - max(a, c) > 0.55 * (end - start):
            return False
    return True
