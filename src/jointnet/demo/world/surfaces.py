"""Colours of what is not a solid: floors, walls and skies of the demo world. Colours are (N, 3) in [0, 1]."""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np

from jointnet.demo.world.scene import Scene

_FLOOR_RGB = {
    "grass": (0.30, 0.52, 0.20),
    "sand": (0.84, 0.72, 0.48),
    "stone": (0.55, 0.55, 0.56),
    "wooden": (0.58, 0.37, 0.21),
    "checkered": (0.52, 0.52, 0.52),
    "tiled": (0.72, 0.62, 0.55),
}
_WALL_RGB = {
    "white room": (0.86, 0.85, 0.83),
    "yellow room": (0.88, 0.78, 0.45),
    "green room": (0.50, 0.70, 0.52),
    "blue room": (0.45, 0.60, 0.82),
}


def floor_colour(scene: Scene, point: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
    """Albedo of the floor.

    Shapes: point (N, 3) in metres, footprint_m (N,): the floor length one image sample covers; patterns finer than it fade to
    their mean, so that the distance does not flicker.
    """
    c, s = cos(radians(scene.floor_yaw_deg)), sin(radians(scene.floor_yaw_deg))
    u = (c * point[:, 0] - s * point[:, 2]) / np.float32(scene.floor_scale_m)
    v = (s * point[:, 0] + c * point[:, 2]) / np.float32(scene.floor_scale_m)
    rng = np.random.default_rng(scene.texture_seed)
    base = np.array(_FLOOR_RGB[scene.floor], np.float32) * np.array(scene.floor_tint, np.float32)
    pattern = _FLOORS[scene.floor](u, v, footprint_m / np.float32(scene.floor_scale_m), rng)
    return base * (1 + pattern[:, None])


def _noise(u: np.ndarray, v: np.ndarray, footprint: np.ndarray, rng: np.random.Generator, lowest: float) -> np.ndarray:
    """Smooth noise of about unit size: six plane waves of rising frequency."""
    total = np.zeros_like(u)
    for octave in range(6):
        frequency = lowest * 1.6**octave
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = np.sin(np.float32(frequency * cos(angle)) * u + np.float32(frequency * sin(angle)) * v + np.float32(phase))
        total += wave * _fade(footprint, np.pi / frequency)
    return total / np.float32(2.0)


def _fade(footprint: np.ndarray, period: float) -> np.ndarray:
    return np.clip(1.5 - 2 * footprint / np.float32(period), 0, 1).astype(np.float32)


def _line(coordinate: np.ndarray, width: float, footprint: np.ndarray) -> np.ndarray:
    """Share of a sample that lies on lines of a given width at whole coordinates."""
    distance = np.abs(coordinate - np.round(coordinate))
    blur = np.maximum(footprint, 0.02)
    share = np.clip((width / 2 - distance) / blur + 0.5, 0, 1)
    return np.where(blur < 0.7, share, width).astype(np.float32)


def _grass(u, v, footprint, rng):
    return 0.16 * _noise(u, v, footprint, rng, 4.0)


def _sand(u, v, footprint, rng):
    return 0.07 * _noise(u, v, footprint, rng, 1.8)


def _stone(u, v, footprint, rng):
    return 0.10 * _noise(u, v, footprint, rng, 1.0)


def _wooden(u, v, footprint, rng):
    plank = np.floor(2 * u)
    tone = 0.16 * np.sin(plank * np.float32(12.9898 + rng.uniform())) * _fade(footprint, 0.5)
    grain = 0.05 * _noise(4 * u, v / 3, footprint, rng, 3.0)
    return tone + grain - 0.45 * _line(2 * u, 0.07, 2 * footprint)


def _checkered(u, v, footprint, _rng):
    def square(x):
        blur = np.maximum(footprint, 0.02)
        return np.clip((0.25 - np.abs((x / 2) % 1 - 0.5)) * 4 / blur, -1, 1)

    return 0.55 * square(u) * square(v) * _fade(footprint, 1.6)


def _tiled(u, v, footprint, rng):
    lines = np.maximum(_line(1.3 * u, 0.07, 1.3 * footprint), _line(1.3 * v, 0.07, 1.3 * footprint))
    return 0.04 * _noise(u, v, footprint, rng, 0.8) - 0.45 * lines


_FLOORS = {"grass": _grass, "sand": _sand, "stone": _stone, "wooden": _wooden, "checkered": _checkered, "tiled": _tiled}


def wall_colour(scene: Scene, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Albedo of a room's walls and ceiling: the wall's colour above a dark skirting board; the ceiling is near white."""
    wall = np.array(_WALL_RGB[scene.setting], np.float32) * np.array(scene.floor_tint, np.float32) ** 0.5
    colour = np.broadcast_to(wall, point.shape).copy()
    colour[point[:, 1] < 0.16] *= np.float32(0.55)
    colour[normal[:, 1] < -0.5] = (0.9, 0.9, 0.9)
    return colour


def sky_colour(scene: Scene, direction: np.ndarray) -> np.ndarray:
    """Colour of the sky along unit directions (N, 3): a vertical gradient, with clouds where the setting has them."""
    up = np.clip(direction[:, 1], 0, 1)[:, None]
    horizon, zenith, cloud, cover = {
        "blue sky": ((0.74, 0.86, 0.96), (0.22, 0.48, 0.86), (0.97, 0.97, 0.98), 0.45),
        "cloudy sky": ((0.74, 0.75, 0.77), (0.56, 0.58, 0.61), (0.86, 0.86, 0.87), 0.9),
        "sunset": ((0.98, 0.62, 0.30), (0.46, 0.32, 0.55), (0.92, 0.48, 0.42), 0.5),
        "night": ((0.12, 0.15, 0.28), (0.02, 0.03, 0.09), (0.18, 0.20, 0.30), 0.35),
    }[scene.setting]
    colour = np.array(horizon, np.float32) + np.clip(up / 0.42, 0, 1) * (np.array(zenith) - np.array(horizon))
    rng = np.random.default_rng(scene.texture_seed + 1)
    height = direction[:, 1] + np.float32(0.25)
    u, v = direction[:, 0] / height, direction[:, 2] / height
    amount = np.clip(_noise(u, v, np.zeros_like(u), rng, 1.4) - 0.2, 0, 1)[:, None] * cover
    return (colour + amount * (np.array(cloud) - colour)).astype(np.float32)
