"""Every task is a set of known maps and the pixels that are asked for (Sec. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from jointnet.errors import RangeError, ShapeError, UnknownNameError
from jointnet.modalities.modality import get_modality, within_limits


@dataclass(frozen=True, kw_only=True)
class Task:
    """Maps of one picture (or a batch), and which of their pixels are asked.

    Attributes:
        size: height and width in pixels.
        maps: modality -> (B, c, H, W); a missing one is asked everywhere.
        asked: modality -> boolean (B, 1, H, W), True where a pixel is to be sampled, False where it is known.
        strength: 1 starts from noise; less starts from the maps, noised that far (Meng et al., 2022).
    Raises: ShapeError, RangeError.
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
        assert all(mask.dtype == torch.bool for mask in self.asked.values()), "masks are boolean"
        if len({len(m) for m in self.maps.values()}) > 1:
            raise ShapeError(f"got {[len(m) for m in self.maps.values()]} maps of {list(self.maps)}; expected as many of each")
        if not 0 <= self.strength <= 1:
            raise RangeError(f"got a strength of {self.strength:g}; expected 0 (changes nothing) to 1 (starts from noise)")

    @property
    def batch(self) -> int | None:
        """B, or None without maps."""
        return next((len(m) for m in self.maps.values()), None)

    @property
    def has_known_pixels(self) -> bool:
        """True if any pixel is known."""
        return not all(bool(mask.all()) for mask in self.asked.values())

    def asks_any_of(self, modalities: Sequence[str]) -> bool:
        """True if any pixel of a model's modalities is asked."""
        return any(name not in self.maps or bool(self.asked[name].any()) for name in modalities)

    def is_wholly_known(self, modality: str) -> bool:
        """True if no pixel of a modality is asked."""
        return modality in self.maps and not bool(self.asked[modality].any())

    def resized(self, size: tuple[int, int]) -> Task:
        """Maps within their range, as their modality resizes them; a pixel counts as asked if any pixel it covers is."""
        maps = {name: within_limits(name, value) for name, value in self.maps.items()}
        if size == self.size:
            return replace(self, maps=maps)
        return replace(
            self,
            size=size,
            maps={name: get_modality(name).resize(value, size) for name, value in maps.items()},
            asked={name: asked_if_any(value, size) for name, value in self.asked.items()},
        )

    def composite(self, sampled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sampled maps of any size at the task's own, with every known pixel exactly as it came."""
        if not self.maps and all(tuple(value.shape[-2:]) == self.size for value in sampled.values()):
            return dict(sampled)
        whole = {name: get_modality(name).resize(value, self.size) for name, value in sampled.items()}
        for name, mask in self.asked.items():
            if name in self.maps:
                known = self.maps[name].to(whole[name])
                whole[name] = torch.where(mask.to(known.device), whole[name], known)
        return whole


def asked_if_any(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Boolean (B, 1, H, W) -> (B, 1, *size): True where any pixel it covers is, so that nothing asked counts as known."""
    if tuple(mask.shape[-2:]) == size:
        return mask
    return adaptive_max_pool2d(mask.float(), size).bool()


def asked_if_nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """As ``asked_if_any``, but each pixel is the nearest one's: the authors' release."""
    return interpolate(mask.float(), size=size, mode="nearest").bool()


def all_asked(size: tuple[int, int]) -> Task:
    """Generation: no map is known."""
    return Task(size=size)


def all_known(maps: Mapping[str, Tensor]) -> Task:
    """Some modalities wholly known, the others asked: image -> depth, depth -> image (Sec. 4.1)."""
    return Task(size=size_of(maps), maps=maps, asked={name: _mask_like(value, False) for name, value in maps.items()})


def holes(maps: Mapping[str, Tensor], masks: Mapping[str, Tensor], strength: float = 1.0) -> Task:
    """Holes in some modalities, the same or different ones (Sec. 4.1); ``masks`` are boolean (B or 1, 1, H, W), True in a hole.

    Raises: UnknownNameError for a mask without its map; ShapeError, also if no mask has a hole.
    """
    unknown = set(masks) - set(maps)
    if unknown:
        raise UnknownNameError(f"got a mask for {', '.join(sorted(unknown))} and maps of {', '.join(maps)}; expected the map to each mask")
    asked = {}
    for name, value in maps.items():
        mask = masks.get(name, _mask_like(value, False))
        if len(mask) not in (1, len(value)):
            raise ShapeError(f"got {len(mask)} {name} masks for {len(value)} pictures; pass one, or one for each")
        asked[name] = mask.expand(len(value), -1, -1, -1)
    if not any(bool(mask.any()) for mask in asked.values()):
        raise ShapeError("got masks without a hole: nothing is asked; expected white (1) where something is to be made anew")
    return Task(size=size_of(maps), maps=maps, asked=asked, strength=strength)


def noised(maps: Mapping[str, Tensor], refined: Sequence[str], strength: float = 0.4) -> Task:
    """Noise some modalities part of the way and denoise them again, the others known (Sec. 5.2). Raises: UnknownNameError."""
    missing = set(refined) - set(maps)
    if missing or not refined:
        raise UnknownNameError(f"got {sorted(refined)} to refine and maps of {sorted(maps)}; expected some of the maps passed")
    return Task(
        size=size_of(maps),
        maps=maps,
        asked={name: _mask_like(value, name in refined) for name, value in maps.items()},
        strength=strength,
    )


def size_of(maps: Mapping[str, Tensor]) -> tuple[int, int]:
    """Height and width of the first map. Raises: ShapeError without one."""
    if not maps:
        raise ShapeError("got no map; expected at least one modality that is known")
    height, width = next(iter(maps.values())).shape[-2:]
    return height, width


def _mask_like(map_: Tensor, value: bool) -> Tensor:
    """(B, c, H, W) -> (B, 1, H, W)."""
    return torch.full_like(map_[:, :1], value, dtype=torch.bool)


def _by(size: Sequence[int]) -> str:
    return "x".join(str(side) for side in size)
