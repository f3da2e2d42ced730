"""Every task is what is known and what is asked (Sec. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jointnet.errors import RangeError, ShapeError, UnknownNameError
from jointnet.modalities.modality import get_modality, within_limits
from jointnet.modalities.resize import resize_mask


@dataclass(frozen=True, kw_only=True)
class Task:
    """Maps of one picture (or a batch), and which of their pixels are asked.

    Attributes:
        size: height and width in pixels.
        maps: modality -> (B, c, H, W); one that is missing is asked everywhere.
        asked: modality -> (B, 1, H, W), 1 where a pixel is asked, 0 where it is known.
        strength: 1 starts from noise; less starts from the given maps, noised that far (Meng et al., 2022).
    """

    size: tuple[int, int]
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Mapping[str, Tensor] = field(default_factory=dict)
    strength: float = 1.0

    def __post_init__(self) -> None:
        for kind, maps in (("map", self.maps), ("mask", self.asked)):
            for name, value in maps.items():
                if tuple(value.shape[-2:]) != self.size:
                    raise ShapeError(
                        f"got a {name} {kind} of {_by(value.shape[-2:])} px beside {_by(self.size)}; expected one size for all"
                    )
        if len({len(m) for m in self.maps.values()}) > 1:
            raise ShapeError(f"got {[len(m) for m in self.maps.values()]} maps of {list(self.maps)}; expected as many of each")
        if not 0 <= self.strength <= 1:
            raise RangeError(f"got a strength of {self.strength:g}; expected 0 (changes nothing) to 1 (starts from noise)")

    @property
    def batch(self) -> int | None:
        """B, or None if nothing is given."""
        return next((len(m) for m in self.maps.values()), None)

    @property
    def knows(self) -> bool:
        """Whether any pixel is known."""
        return any(bool((mask < 0.5).any()) for mask in self.asked.values())

    def asks_something_of(self, modalities: Sequence[str]) -> bool:
        """Whether any pixel of a model's modalities is asked."""
        return any(name not in self.maps or bool((self.asked[name] >= 0.5).any()) for name in modalities)

    def is_wholly_known(self, modality: str) -> bool:
        """Whether no pixel of a modality is asked."""
        return modality in self.maps and bool((self.asked[modality] < 0.5).all())

    def resized(self, size: tuple[int, int]) -> Task:
        """Maps within their range, as their modality resizes them; a pixel counts as asked if any pixel it covers is."""
        maps = {name: within_limits(name, value) for name, value in self.maps.items()}
        if size == self.size:
            return replace(self, maps=maps)
        return replace(
            self,
            size=size,
            maps={name: get_modality(name).resize(value, size) for name, value in maps.items()},
            asked={name: resize_mask(value, size) for name, value in self.asked.items()},
        )

    def composited(self, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Made maps of any size at the task's own, with every known pixel exactly as it was given."""
        whole = {name: get_modality(name).resize(value, self.size) for name, value in made.items()}
        for name, mask in self.asked.items():
            if name in self.maps:
                given = self.maps[name].to(whole[name])
                whole[name] = torch.where(mask.to(given.device) < 0.5, given, whole[name])
        return whole


def generate(size: tuple[int, int]) -> Task:
    """Nothing known, everything asked."""
    return Task(size=size)


def given(maps: Mapping[str, Tensor]) -> Task:
    """Some modalities wholly known, the others asked: image -> depth, depth -> image (Sec. 4.1)."""
    size = _size(maps)
    return Task(size=size, maps=maps, asked={name: torch.zeros_like(value[:, :1]) for name, value in maps.items()})


def edit(maps: Mapping[str, Tensor], masks: Mapping[str, Tensor], strength: float = 1.0) -> Task:
    """Holes in some modalities, the same or different ones (Sec. 4.1).

    Raises: UnknownNameError for a mask without its map; ShapeError, also if no mask has a hole.
    """
    unknown = set(masks) - set(maps)
    if unknown:
        raise UnknownNameError(f"got a mask for {', '.join(sorted(unknown))} and maps of {', '.join(maps)}; expected the map to each mask")
    asked = {}
    for name, value in maps.items():
        mask = masks.get(name, torch.zeros_like(value[:, :1]))
        if len(mask) not in (1, len(value)):
            raise ShapeError(f"got {len(mask)} {name} masks for {len(value)} pictures; pass one, or one for each")
        asked[name] = mask.expand(len(value), -1, -1, -1)
    if not any(bool((mask >= 0.5).any()) for mask in asked.values()):
        raise ShapeError("got masks without a hole: nothing is asked; expected white (1) where something is to be made anew")
    return Task(size=_size(maps), maps=maps, asked=asked, strength=strength)


def refine(maps: Mapping[str, Tensor], refined: Sequence[str], strength: float = 0.4) -> Task:
    """Noise some modalities part of the way and denoise them again, the others known (Sec. 5.2). Raises: UnknownNameError."""
    missing = set(refined) - set(maps)
    if missing or not refined:
        raise UnknownNameError(f"got {sorted(refined)} to refine and maps of {sorted(maps)}; expected some of the given maps")
    asked = {name: torch.full_like(value[:, :1], float(name in refined)) for name, value in maps.items()}
    return Task(size=_size(maps), maps=maps, asked=asked, strength=strength)


def _size(maps: Mapping[str, Tensor]) -> tuple[int, int]:
    if not maps:
        raise ShapeError("got no map; expected at least one modality that is known")
    height, width = next(iter(maps.values())).shape[-2:]
    return height, width


def _by(size: Sequence[int]) -> str:
    return "x".join(str(side) for side in size)
