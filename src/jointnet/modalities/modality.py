"""A kind of map: how its maps become three channels for the RGB autoencoder and back, and how they are written; and the list of kinds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import PurePath

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from jointnet.errors import RangeError, ShapeError, UnknownNameError
from jointnet.files.result_facts import RESULT_FILE
from jointnet.files.result_set import Writable
from jointnet.modalities.ensemble import merge_values
from jointnet.modalities.write import ColourPreview, FloatArray, Png8, Png16

ENTRY_POINTS = "jointnet.modalities"
"""Entry points of installed packages in this group are modules that register modalities, so that the commands find them too."""

_OVERSHOOT = 1e-4
"""Share of a modality's range that maps may lie beyond it when they are encoded."""


def unchanged(maps: Tensor) -> Tensor:
    """Return the maps."""
    return maps


def resize_smooth(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Linear with antialiasing (area means where it shrinks), which never overshoots. Shapes: (B, c, H, W) -> (B, c, *size)."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return interpolate(maps, size=size, mode="bilinear", antialias=True, align_corners=False)


def resize_picture(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic, clipped. Shapes: (B, c, H, W) in [0, 1] -> (B, c, *size)."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return interpolate(maps, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def accept_all(_maps: Tensor) -> None:
    """Refuse nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Modality:
    """One kind of map. Build one and pass it to register(): no other code needs to know of it.

    Where a function is not enough, inherit from this class and override its methods, or the fields that are functions by methods.

    Attributes:
        name: as users write it, a Python identifier ("depth").
        channels: of the map itself, 1 or 3 (depth 1, normals 3).
        meaning: the convention in one sentence; it is written beside every file.
        limits: lowest and highest value.
        settle: repair of decoded maps (B, channels, H, W), such as a clip to the range; by default they stay as they are.
        resize: maps (B, channels, H, W) and a size -> (B, channels, *size) in the same range, as they are where
            they have the size already.
        merge: samples of one map (N, channels, H, W) -> the map (channels, H, W), uncertainty (1, H, W).
        own_files: one map (channels, H, W) -> its files by their names, instead of those that files() returns by default. The names are
            the same for every map, and no other modality's.
        no_value: what stands in every channel of a pixel without a value, such as a transparent one; None if there are no such pixels.
        check: maps (B, channels, H, W) that a user passes -> a RangeError if they cannot be meant, such as normals that point away.
    """

    name: str
    channels: int
    meaning: str
    limits: tuple[float, float] = (0.0, 1.0)
    settle: Callable[[Tensor], Tensor] = unchanged
    resize: Callable[[Tensor, tuple[int, int]], Tensor] = resize_smooth
    merge: Callable[[Tensor], tuple[Tensor, Tensor]] = merge_values
    own_files: Callable[[Tensor], dict[str, Writable]] | None = None
    no_value: float | None = None
    check: Callable[[Tensor], None] = accept_all

    def __post_init__(self) -> None:
        """Raises: ShapeError for other channels than 1 or 3; RangeError for limits that are no range."""
        if self.channels not in (1, 3):
            raise ShapeError(f"got modality {self.name!r} of {self.channels} channels; expected 1 or 3")
        low, high = self.limits
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise RangeError(f"got modality {self.name!r} with limits {self.limits}; expected two finite numbers, the lower one first")
        for field in fields(self):  # a field's value would hide the method by which a subclass overrides it
            if field.name in _FUNCTIONS and getattr(type(self), field.name) is not field.default:
                vars(self).pop(field.name)

    def encode(self, maps: Tensor) -> Tensor:
        """Map the range to that of the RGB autoencoder; one channel is repeated.

        Shapes: (B, channels, H, W) in ``limits`` -> (B, 3, H, W) in [-1, 1].
        Raises: ShapeError; RangeError, NaN included.
        Source: Sec. 3.2.
        """
        self._check(maps)
        middle, half = self._middle_and_half
        return ((maps - middle) / half).expand(-1, 3, -1, -1)

    def decode(self, images: Tensor) -> Tensor:
        """Map the autoencoder's range back to the modality's, as the mean over the channels if it has one, and settle.

        Shapes: (B, 3, H, W) in about [-1, 1] -> (B, channels, H, W), clipped only where ``settle`` does.
        Note: the release reads channel 0 of maps of one channel.
        """
        middle, half = self._middle_and_half
        maps = images if self.channels == 3 else images.mean(1, keepdim=True)  # (B, channels, H, W)
        return self.settle(maps * half + middle)

    def files(self, map_: Tensor) -> dict[str, Writable]:
        """Return what to write for one map (channels, H, W), by the files' names; ``own_files`` if there are such.

        By default NAME.png in shares of the range (16 bit for one channel, else 8), NAME.npy in float32 and, for one channel,
        NAME_preview.png in colours.
        """
        if self.own_files is not None:
            return self.own_files(map_)
        low, high = self.limits
        share01 = (map_ - low) / (high - low)
        if self.channels == 3:
            return {f"{self.name}.png": Png8(share01), f"{self.name}.npy": FloatArray(map_)}
        return {f"{self.name}.png": Png16(share01), f"{self.name}.npy": FloatArray(map_), f"{self.name}_preview.png": ColourPreview(map_)}

    @property
    def _middle_and_half(self) -> tuple[float, float]:
        """The middle of ``limits``, and half the distance between them."""
        low, high = self.limits
        return (low + high) / 2, (high - low) / 2

    def _check(self, maps: Tensor) -> None:
        if maps.ndim != 4 or maps.shape[1] != self.channels:
            raise ShapeError(f"got {self.name} of shape {tuple(maps.shape)}; expected (B, {self.channels}, H, W)")
        low, high = self.limits
        slack = _OVERSHOOT * (high - low)
        lowest, highest = float(maps.min()), float(maps.max())
        if not (lowest >= low - slack and highest <= high + slack):  # also where one is NaN
            raise RangeError(f"got {self.name} values from {lowest:g} to {highest:g}; expected [{low:g}, {high:g}]: scale the map first")


_TAKEN = ("image.png", "scene.glb", RESULT_FILE)
"""Names of files that every result or panorama has besides its maps: the picture is the first."""
_FUNCTIONS = ("settle", "resize", "merge", "check")
"""Fields that a subclass may override by a method."""
_REGISTRY: dict[str, Modality] = {}


def files_of_maps(maps: Mapping[str, Tensor], uncertainty: Mapping[str, Tensor] | None = None) -> dict[str, Writable]:
    """Return the files of one result by their names.

    Args:
        maps: by modality, (c, H, W) each.
        uncertainty: by modality, (1, H, W) each: NAME_uncertainty.npy and .png, a preview.
    Raises: UnknownNameError.
    """
    files: dict[str, Writable] = {}
    for name, map_ in maps.items():
        _add(files, get_modality(name).files(map_), name)
    for name, map_ in (uncertainty or {}).items():
        _add(files, {f"{name}_uncertainty.npy": FloatArray(map_), f"{name}_uncertainty.png": ColourPreview(map_)}, name)
    return files


def file_names(modalities: Iterable[str], *, has_uncertainty: bool = False) -> list[str]:
    """Return the names of the files of a result. Raises: UnknownNameError, also if two modalities write a file of one name."""
    empty = {name: _empty_map(get_modality(name)) for name in modalities}
    return list(files_of_maps(empty, {name: map_[:1] for name, map_ in empty.items() if name != "rgb"} if has_uncertainty else None))


def _add(files: dict[str, Writable], more: Mapping[str, Writable], modality: str) -> None:
    """Raises: UnknownNameError for a name that is none or taken, upper and lower case being the same, as some file systems have it."""
    taken = {name.lower() for name in files}
    for name in more:
        _check_file_name(name, modality)
        if name.lower() in taken:
            raise UnknownNameError(f"got a file {name!r} of modality {modality!r}, which another one writes too; name it otherwise")
    files.update(more)


def _check_file_name(name: str, modality: str) -> None:
    """Raises: UnknownNameError."""
    is_plain = isinstance(name, str) and name.isprintable() and name == PurePath(name).name and "\\" not in name
    if not is_plain or name.startswith(".") or not PurePath(name).suffix:
        raise UnknownNameError(f"got a file {name!r} of modality {modality!r}; expected a name with a suffix, such as warm.npy, no path")
    if name.lower() in _TAKEN and (modality, name) != ("rgb", _TAKEN[0]):
        raise UnknownNameError(f"got a file {name!r} of modality {modality!r}; that is the name of another file of every result")


def _empty_map(modality: Modality) -> Tensor:
    """(channels, H, W) with the lowest value, by which a modality shows what its files are called."""
    return torch.full((modality.channels, 64, 64), modality.limits[0])


def register(modality: Modality) -> Modality:
    """Make a modality known by its name.

    Raises: UnknownNameError if the name is taken or no identifier, if it is no Modality, or if its files, which it is asked for of an
        empty map, have names that are none.
    """
    if not isinstance(modality, Modality):
        kind = modality.__name__ if isinstance(modality, type) else type(modality).__name__
        raise UnknownNameError(
            f"got {kind}, which is no Modality; pass jointnet.Modality(name=..., channels=..., meaning=...), "
            "or an instance of a class that inherits from it"
        )
    if not modality.name.isidentifier():
        raise UnknownNameError(f"got modality name {modality.name!r}; expected letters, digits and underscores")
    if modality.name in _REGISTRY:
        raise UnknownNameError(f"a modality named {modality.name!r} is registered already; choose another name")
    for name in modality.files(_empty_map(modality)):
        _check_file_name(name, modality.name)
    _REGISTRY[modality.name] = modality
    return modality


def get_modality(name: str) -> Modality:
    """Return the registered modality of that name, of this process or of an installed package (ENTRY_POINTS). Raises: UnknownNameError."""
    if name not in _REGISTRY:
        _load_installed()
    if name not in _REGISTRY:
        raise UnknownNameError(
            f"got modality {name!r}; expected one of {', '.join(sorted(_REGISTRY))}, or register your own with "
            "jointnet.register_modality, in a file that commands are told of by --plugin FILE"
        )
    return _REGISTRY[name]


def registered_modalities() -> tuple[str, ...]:
    """Return the names of all modalities, of this process and of installed packages (ENTRY_POINTS)."""
    _load_installed()
    return tuple(_REGISTRY)


def within_limits(name: str, maps: Tensor) -> Tensor:
    """Clip maps of a modality, of any shape, to its range: decoders overshoot it. Raises: UnknownNameError."""
    return maps.clamp(*get_modality(name).limits)


@cache
def _load_installed() -> None:
    """Import the modules that installed packages name as entry points, once a process."""
    for found in entry_points(group=ENTRY_POINTS):
        found.load()
