"""Colours of what is not a solid: floors, walls and skies of the demo world. Colours are (3, N) in [0, 1].

A scene's own noise is drawn here, from its seed; all else is arithmetic on the rays' device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import cos, pi, radians, sin

import numpy as np
import torch
from torch import Tensor

from jointnet.demo.world.scene import FLOORS, Scene
from jointnet.demo.world.vectors import at, column, columns, places, take

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
_SKY = {
    "blue sky": ((0.74, 0.86, 0.96), (0.22, 0.48, 0.86), (0.97, 0.97, 0.98), 0.45),
    "cloudy sky": ((0.74, 0.75, 0.77), (0.56, 0.58, 0.61), (0.86, 0.86, 0.87), 0.9),
    "sunset": ((0.98, 0.62, 0.30), (0.46, 0.32, 0.55), (0.92, 0.48, 0.42), 0.5),
    "night": ((0.12, 0.15, 0.28), (0.02, 0.03, 0.09), (0.18, 0.20, 0.30), 0.35),
}
"""Horizon, zenith, clouds, and how much of these there is."""
_SKY_LOWEST = 1.4
_OCTAVES = 6


@dataclass(frozen=True)
class Floors:
    """The floor of each of B scenes, or of each of N points: a column each. ``kind`` is a place in FLOORS."""

    kind: Tensor
    rgb: Tensor
    cos_yaw: Tensor
    sin_yaw: Tensor
    scale_m: Tensor
    waves: Tensor
    tone: Tensor

    def take(self, index: Tensor) -> Floors:
        """The floors at places (N,)."""
        return Floors(*(at(getattr(self, field.name), index) for field in fields(self)))


def floors_of(scenes: Sequence[Scene], device: torch.device) -> Floors:
    """The scenes' floors, with what is drawn for their patterns."""
    waves, tones = [], []
    for scene in scenes:
        rng = np.random.default_rng(scene.texture_seed)
        tones.append(12.9898 + rng.uniform() if scene.floor == "wooden" else 0.0)
        waves.append(_draw_waves(rng, _FLOORS[scene.floor].lowest))
    return Floors(
        kind=torch.tensor([FLOORS.index(scene.floor) for scene in scenes], device=device),
        rgb=columns(([a * b for a, b in zip(_FLOOR_RGB[scene.floor], scene.floor_tint, strict=True)] for scene in scenes), device),
        cos_yaw=column((cos(radians(scene.floor_yaw_deg)) for scene in scenes), device),
        sin_yaw=column((sin(radians(scene.floor_yaw_deg)) for scene in scenes), device),
        scale_m=column((scene.floor_scale_m for scene in scenes), device),
        waves=columns(waves, device).view(_OCTAVES, 3, -1),
        tone=column(tones, device),
    )


def floor_colour(kinds: frozenset[int], floors: Floors, scene: Tensor, point: Tensor, footprint_m: Tensor) -> Tensor:
    """Albedo of the floor.

    Shapes: point (3, N) in metres; scene (N,), which of the B floors it lies on, whose kinds are ``kinds``; footprint_m (N,): the floor
    length one image sample covers. Patterns finer than it fade to their mean, so that the distance does not flicker.
    """
    floor = floors.take(scene)
    u = (floor.cos_yaw * point[0] - floor.sin_yaw * point[2]) / floor.scale_m
    v = (floor.sin_yaw * point[0] + floor.cos_yaw * point[2]) / floor.scale_m
    footprint = footprint_m / floor.scale_m
    if len(kinds) == 1:
        pattern = _FLOORS[FLOORS[min(kinds)]].pattern(u, v, footprint, floor)
    else:
        pattern = torch.zeros_like(u)
        for kind in sorted(kinds):
            mine = places(floor.kind == kind)
            pattern.index_copy_(
                0, mine, _FLOORS[FLOORS[kind]].pattern(take(u, mine), take(v, mine), take(footprint, mine), floor.take(mine))
            )
    return floor.rgb * (1 + pattern)


def _draw_waves(rng: np.random.Generator, lowest: float) -> list[float]:
    """Plane waves of rising frequency: for each, its frequency along u and v, and its phase."""
    waves: list[float] = []
    for octave in range(_OCTAVES):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        frequency = lowest * 1.6**octave
        waves += [frequency * cos(angle), frequency * sin(angle), phase]
    return waves


def _noise(u: Tensor, v: Tensor, footprint: Tensor | None, waves: Tensor, lowest: float) -> Tensor:
    """Smooth noise of about unit size (N,): plane waves (6, 3, N), each faded where it is finer than the footprint."""
    total = torch.zeros_like(u)
    for octave, (along_u, along_v, phase) in enumerate(waves):
        wave = (along_u * u + along_v * v + phase).sin_()
        total += wave if footprint is None else wave * _fade(footprint, pi / (lowest * 1.6**octave))
    return total / 2


def _fade(footprint: Tensor, period: float) -> Tensor:
    return (1.5 - 2 * footprint / period).clamp_(0, 1)


def _line(coordinate: Tensor, width: float, footprint: Tensor) -> Tensor:
    """Share of a sample that lies on lines of a given width at whole coordinates."""
    distance = (coordinate - coordinate.round()).abs()
    blur = footprint.clamp(min=0.02)
    return torch.where(blur < 0.7, ((width / 2 - distance) / blur + 0.5).clamp(0, 1), width)


def _speckled(size: float, lowest: float) -> _Floor:
    return _Floor(lowest, lambda u, v, footprint, floor: size * _noise(u, v, footprint, floor.waves, lowest))


def _wooden(u: Tensor, v: Tensor, footprint: Tensor, floor: Floors) -> Tensor:
    tone = 0.16 * ((2 * u).floor() * floor.tone).sin() * _fade(footprint, 0.5)
    grain = 0.05 * _noise(4 * u, v / 3, footprint, floor.waves, 3.0)
    return tone + grain - 0.45 * _line(2 * u, 0.07, 2 * footprint)


def _checkered(u: Tensor, v: Tensor, footprint: Tensor, floor: Floors) -> Tensor:  # noqa: ARG001 - the same for every floor
    blur = footprint.clamp(min=0.02)

    def square(x: Tensor) -> Tensor:
        return ((0.25 - ((x / 2) % 1 - 0.5).abs()) * 4 / blur).clamp(-1, 1)

    return 0.55 * square(u) * square(v) * _fade(footprint, 1.6)


def _tiled(u: Tensor, v: Tensor, footprint: Tensor, floor: Floors) -> Tensor:
    lines = torch.maximum(_line(1.3 * u, 0.07, 1.3 * footprint), _line(1.3 * v, 0.07, 1.3 * footprint))
    return 0.04 * _noise(u, v, footprint, floor.waves, 0.8) - 0.45 * lines


@dataclass(frozen=True)
class _Floor:
    """The lowest frequency of a floor's noise, and its pattern around 0 by place (u, v) and footprint, in units of the floor's scale."""

    lowest: float
    pattern: Callable[[Tensor, Tensor, Tensor, Floors], Tensor]


_FLOORS = {
    "grass": _speckled(0.16, 4.0),
    "sand": _speckled(0.07, 1.8),
    "stone": _speckled(0.10, 1.0),
    "wooden": _Floor(3.0, _wooden),
    "checkered": _Floor(1.0, _checkered),
    "tiled": _Floor(0.8, _tiled),
}


def walls_of(scenes: Sequence[Scene], device: torch.device) -> Tensor:
    """Colour of each scene's walls (3, B)."""
    walls = ((_WALL_RGB.get(scene.setting, (0, 0, 0)), scene.floor_tint) for scene in scenes)
    return columns(([a * b**0.5 for a, b in zip(rgb, tint, strict=True)] for rgb, tint in walls), device)


def wall_colour(wall_rgb: Tensor, point: Tensor, normal: Tensor) -> Tensor:
    """Albedo of a room's walls and ceiling: the wall's colour above a dark skirting board; the ceiling is near white."""
    colour = torch.where(point[1] < 0.16, 0.55 * wall_rgb, wall_rgb)
    return torch.where(normal[1] < -0.5, 0.9, colour)


@dataclass(frozen=True)
class Skies:
    """The sky of each of B scenes, a column each; of rooms, none that is ever seen."""

    horizon: Tensor
    zenith: Tensor
    cloud: Tensor
    cover: Tensor
    waves: Tensor


def skies_of(scenes: Sequence[Scene], device: torch.device) -> Skies:
    """The scenes' skies, with what is drawn for their clouds."""
    skies = [_SKY.get(scene.setting, _SKY["night"]) for scene in scenes]
    waves = (_draw_waves(np.random.default_rng(scene.texture_seed + 1), _SKY_LOWEST) for scene in scenes)
    return Skies(
        horizon=columns((sky[0] for sky in skies), device),
        zenith=columns((sky[1] for sky in skies), device),
        cloud=columns((sky[2] for sky in skies), device),
        cover=column((sky[3] for sky in skies), device),
        waves=columns(waves, device).view(_OCTAVES, 3, -1),
    )


def sky_colour(skies: Skies, scene: Tensor, direction: Tensor) -> Tensor:
    """Colour of the sky along unit directions (3, N): a vertical gradient, with clouds where the setting has them."""
    horizon = at(skies.horizon, scene)
    colour = horizon + (direction[1].clamp(0, 1) / 0.42).clamp(0, 1) * (at(skies.zenith, scene) - horizon)
    height = direction[1] + 0.25
    noise = _noise(direction[0] / height, direction[2] / height, None, at(skies.waves, scene), _SKY_LOWEST)
    return colour + (noise - 0.2).clamp(0, 1) * at(skies.cover, scene) * (at(skies.cloud, scene) - colour)
