"""Captions of demo scenes: true sentences about what is in them, the claims they make, and the words they use."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

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
MIN_COLUMN_GAP, MIN_DEPTH_GAP_M = 0.25, 1.0
MIDDLE, SIDE = 0.2, 0.35
"""Solids with |column| below MIDDLE may be said to be in the middle, above SIDE on a side."""

ClaimKind = Literal["shape", "size", "relation", "place", "count", "floor", "setting"]
CLAIM_KINDS: tuple[ClaimKind, ...] = ("shape", "size", "relation", "place", "count", "floor", "setting")


@dataclass(frozen=True)
class Claim:
    """One thing a caption says. ``subject`` and ``other`` are colours: no two solids of a scene share one.

    shape: subject is a ``value``; size: subject is ``value``; relation: subject is ``value`` ("left of", "behind") other;
    place: subject is at ``value`` ("left", "middle", "right"); count: there are ``value`` solids; floor, setting: its name.
    """

    kind: ClaimKind
    value: str
    subject: str = ""
    other: str = ""


@dataclass(frozen=True)
class Caption:
    """A sentence and all that it claims."""

    text: str
    claims: tuple[Claim, ...]


def vocabulary() -> dict[str, list[str]]:
    """Every phrase a caption can hold, by kind."""
    return {
        "shapes": list(SHAPES),
        "colours": list(COLOURS),
        "sizes": list(SIZES),
        "relations": ["left of", "right of", "behind", "in front of", "on the left", "in the middle", "on the right"],
        "floors": [FLOOR_PHRASES[f] for f in FLOORS],
        "settings": [SETTING_PHRASES[s] for s in SETTINGS],
        "joining words": ["a", "an", "and", "from left to right"],
    }


def known_words() -> frozenset[str]:
    """The single words of the vocabulary, lower case."""
    return frozenset(w for phrases in vocabulary().values() for phrase in phrases for w in phrase.split())


def describe(scene: Scene, draw: int = 0) -> str:
    """The text of caption(scene, draw)."""
    return caption(scene, draw).text


def caption(scene: Scene, draw: int = 0) -> Caption:
    """One of the captions that are true of a scene; ``draw`` selects among them, reproducibly."""
    rng = np.random.default_rng((scene.seed, draw, 0xCA97))
    solids = list(scene.solids)
    if len(solids) == 1:
        subject, claims = _single(scene, solids[0], rng)
    elif len(solids) == 2:
        subject, claims = _pair(scene, solids, rng)
    else:
        subject, claims = _row(scene, solids, rng)
    claims = [
        *claims,
        Claim("count", str(len(solids))),
        Claim("floor", scene.floor),
        Claim("setting", scene.setting),
    ]
    return Caption(f"{subject} {FLOOR_PHRASES[scene.floor]} {SETTING_PHRASES[scene.setting]}", tuple(claims))


def _noun(solid: Solid, rng: np.random.Generator) -> tuple[str, list[Claim]]:
    words, claims = f"{solid.colour} {solid.shape}", [Claim("shape", solid.shape, solid.colour)]
    if rng.random() < 0.7:
        words = f"{solid.size} {words}"
        claims.append(Claim("size", solid.size, solid.colour))
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}", claims


def _single(scene: Scene, solid: Solid, rng: np.random.Generator) -> tuple[str, list[Claim]]:
    noun, claims = _noun(solid, rng)
    column = scene.column(solid)
    if rng.random() < 0.4 or MIDDLE <= abs(column) <= SIDE:
        return noun, claims
    place = "middle" if abs(column) < MIDDLE else "left" if column < 0 else "right"
    phrase = "in the middle" if place == "middle" else f"on the {place}"
    return f"{noun} {phrase}", [*claims, Claim("place", place, solid.colour)]


def _pair(scene: Scene, solids: list[Solid], rng: np.random.Generator) -> tuple[str, list[Claim]]:
    left, right = sorted(solids, key=scene.column)
    front, back = sorted(solids, key=lambda s: s.z_m)
    choices = []
    if scene.column(right) - scene.column(left) > MIN_COLUMN_GAP:
        choices += [(left, "left of", right), (right, "right of", left)]
    if back.z_m - front.z_m > MIN_DEPTH_GAP_M:
        choices += [(back, "behind", front), (front, "in front of", back)]
    if not choices or rng.random() < 0.1:
        first, second = rng.permutation(2)
        choices = [(solids[first], "and", solids[second])]
    subject, relation, other = choices[rng.integers(len(choices))]
    (noun, claims), (other_noun, other_claims) = _noun(subject, rng), _noun(other, rng)
    related = [] if relation == "and" else [Claim("relation", relation, subject.colour, other.colour)]
    return f"{noun} {relation} {other_noun}", [*claims, *other_claims, *related]


def _row(scene: Scene, solids: list[Solid], rng: np.random.Generator) -> tuple[str, list[Claim]]:
    row = sorted(solids, key=scene.column)
    gaps = np.diff([scene.column(s) for s in row])
    ordered = bool(gaps.min() > MIN_COLUMN_GAP) and rng.random() < 0.8
    if not ordered:
        row = [row[i] for i in rng.permutation(3)]
    nouns, claims = zip(*(_noun(s, rng) for s in row), strict=True)
    related = [Claim("relation", "left of", a.colour, b.colour) for a, b in pairwise(row)] if ordered else []
    text = f"{'from left to right ' if ordered else ''}{nouns[0]}, {nouns[1]} and {nouns[2]}"
    return text, [*(c for group in claims for c in group), *related]
