"""What a modality is: how its maps become three channels for the RGB autoencoder and back, and how they are written to files."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from jointnet.errors import RangeError, ShapeError, UnknownNameError


@runtime_checkable
class Modality(Protocol):
    """One kind of map. Implement it in a file of your own and call register(): nothing else needs to know.

    For the commands, name that file's module as an entry point of a package of your own (group ENTRY_POINTS).

    Attributes:
        name: as users write it, a Python identifier ("depth").
        channels: of the map itself (depth 1, normals 3).
        limits: lowest and highest value.
        meaning: the convention in one sentence; it is written beside every file.
    """

    name: str
    channels: int
    limits: tuple[float, float]
    meaning: str

    def encode(self, maps: Tensor) -> Tensor:
        """Maps (B, channels, H, W), in the range ``meaning`` states -> (B, 3, H, W) in [-1, 1]."""
        ...

    def decode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), about [-1, 1] -> maps (B, channels, H, W)."""
        ...

    def merge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Several samples of one map (N, channels, H, W) -> the map (channels, H, W) and a pixel's uncertainty (1, H, W)."""
        ...

    def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps (B, channels, H, W) -> (B, channels, *size), in the same range."""
        ...

    def files(self, map_: Tensor) -> dict[str, WritableMap]:
        """What to write for one map (channels, H, W): suffixes such as "depth.npy" -> what knows how to write itself."""
        ...


class WritableMap(Protocol):
    """Something that can be written to a path whose suffix it was listed under."""

    def write(self, path: Path) -> None: ...


_PARTS = ("name", "channels", "limits", "meaning", "encode", "decode", "merge", "resize", "files")
_REGISTRY: dict[str, Modality] = {}
ENTRY_POINTS = "jointnet.modalities"
"""Entry points of installed packages in this group are modules that register modalities: so the commands find them too."""


def register(modality: Modality) -> Modality:
    """Make a modality known by its name. Raises: UnknownNameError if the name is taken or no identifier, or parts are missing."""
    if not isinstance(modality, Modality):
        missing = [name for name in _PARTS if not hasattr(modality, name)]
        raise UnknownNameError(f"got a modality without {', '.join(missing)}; expected all of {', '.join(_PARTS)}")
    if not modality.name.isidentifier():
        raise UnknownNameError(f"got modality name {modality.name!r}; expected letters, digits and underscores")
    if modality.name in _REGISTRY:
        raise UnknownNameError(f"a modality named {modality.name!r} is registered already; choose another name")
    _REGISTRY[modality.name] = modality
    return modality


def get_modality(name: str) -> Modality:
    """The registered modality of that name, of this process or of an installed package (ENTRY_POINTS). Raises: UnknownNameError."""
    if name not in _REGISTRY:
        _load_installed()
    if name not in _REGISTRY:
        raise UnknownNameError(
            f"got modality {name!r}; expected one of {', '.join(sorted(_REGISTRY))}, or register your own with jointnet.register_modality"
        )
    return _REGISTRY[name]


def within_limits(name: str, maps: Tensor) -> Tensor:
    """Maps of a modality, of any shape, clipped to its range: decoders overshoot it. Raises: UnknownNameError."""
    return maps.clamp(*get_modality(name).limits)


def registered_modalities() -> tuple[str, ...]:
    """Names of all modalities, of this process and of installed packages (ENTRY_POINTS)."""
    _load_installed()
    return tuple(_REGISTRY)


def _load_installed() -> None:
    """Import what installed packages register; again is no work, since Python imports a module once."""
    for found in entry_points(group=ENTRY_POINTS):
        found.load()


@dataclass(frozen=True)
class MapCheck:
    """What encode() requires of its input."""

    name: str
    channels: int
    low: float
    high: float

    def __call__(self, maps: Tensor) -> None:
        """Raises: ShapeError, RangeError. NaN counts as out of range."""
        if maps.ndim != 4 or maps.shape[1] != self.channels:
            raise ShapeError(f"got {self.name} of shape {tuple(maps.shape)}; expected (B, {self.channels}, H, W)")
        slack = 1e-4 * (self.high - self.low)
        low, high = float(maps.min()), float(maps.max())
        if not (low >= self.low - slack and high <= self.high + slack):
            raise RangeError(
                f"got {self.name} values from {low:g} to {high:g}; expected [{self.low:g}, {self.high:g}]: scale the map first"
            )
