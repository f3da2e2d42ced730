"""Captions of demo scenes: true sentences about what is in them, and the words they use."""

from __future__ import annotations

import numpy as np

from jointnet.demo.world.scene import COLOURS, FLOORS, ROOMS, SETTINGS, SHAPES, SIZES, Scene, Solid

FLOOR_PHRASES = {
    "grass": "on grass",
    "sand": "on sand",
    "stone": "on a stone floor",
    "wooden": "on a wooden floor",
    "checkered": "on a checkered floor",
    "tiled": "on a tiled floor",
}
SETTING_PHRASES = {
    "blue sky": "under a blue sky",
    "cloudy sky": "under a cloudy sky",
    "sunset": "at sunset",
    "night": "at night",
    **{room: f"in a {room}" for room in ROOMS},
}
_MIN_COLUMN_GAP, _MIN_DEPTH_GAP_M = 0.25, 1.0


def vocabulary() -> dict[str, tuple[str, ...]]:
    """Every word a caption can hold, by kind."""
    return {
        "shapes": SHAPES,
        "colours": COLOURS,
        "sizes": SIZES,
        "relations": ("left of", "right of", "behind", "in front of", "on the left", "in the middle", "on the right"),
        "floors": tuple(FLOOR_PHRASES[f] for f in FLOORS),
        "settings": tuple(SETTING_PHRASES[s] for s in SETTINGS),
        "joining words": ("a", "an", "and", "from left to right"),
    }


def known_words() -> frozenset[str]:
    """The single words of the vocabulary, lower case."""
    return frozenset(w for phrases in vocabulary().values() for phrase in phrases for w in phrase.split())


def describe(scene: Scene, draw: int = 0) -> str:
    """One of the captions that are true of a scene; ``draw`` selects among them, reproducibly."""
    rng = np.random.default_rng((scene.seed, draw, 0xCA97))
    solids = list(scene.solids)
    if len(solids) == 1:
        subject = _noun(solids[0], rng) + _place(scene.column(solids[0]), rng)
    elif len(solids) == 2:
        subject = _pair(scene, solids, rng)
    else:
        subject = _row(scene, solids, rng)
    return f"{subject} {FLOOR_PHRASES[scene.floor]} {SETTING_PHRASES[scene.setting]}"


def _noun(solid: Solid, rng: np.random.Generator) -> str:
    words = f"{solid.colour} {solid.shape}"
    if rng.random() < 0.7:
        words = f"{solid.size} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _place(column: float, rng: np.random.Generator) -> str:
    if rng.random() < 0.4:
        return ""
    if abs(column) < 0.2:
        return " in the middle"
    if abs(column) > 0.35:
        return " on the left" if column < 0 else " on the right"
    return ""


def _pair(scene: Scene, solids: list[Solid], rng: np.random.Generator) -> str:
    left, right = sorted(solids, key=scene.column)
    front, back = sorted(solids, key=lambda s: s.z_m)
    choices = []
    if scene.column(right) - scene.column(left) > _MIN_COLUMN_GAP:
        choices += [(left, "left of", right), (right, "right of", left)]
    if back.z_m - front.z_m > _MIN_DEPTH_GAP_M:
        choices += [(back, "behind", front), (front, "in front of", back)]
    if not choices or rng.random() < 0.1:
        first, second = rng.permutation(2)
        choices = [(solids[first], "and", solids[second])]
    subject, relation, other = choices[rng.integers(len(choices))]
    return f"{_noun(subject, rng)} {relation} {_noun(other, rng)}"


def _row(scene: Scene, solids: list[Solid], rng: np.random.Generator) -> str:
    row = sorted(solids, key=scene.column)
    gaps = np.diff([scene.column(s) for s in row])
    order = "from left to right " if gaps.min() > _MIN_COLUMN_GAP and rng.random() < 0.8 else ""
    if not order:
        row = [row[i] for i in rng.permutation(3)]
    first, second, third = (_noun(s, rng) for s in row)
    return f"{order}{first}, {second} and {third}"
