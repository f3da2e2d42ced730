"""Sharper images and dense maps: noised part of the way and denoised again (SDEdit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from jointnet.errors import RangeError
from jointnet.modalities.modality import within_limits
from jointnet.modalities.read import MapInput, as_maps
from jointnet.sampling.tiling import Tiling
from jointnet.tasks.conventions import PAPER, Conventions
from jointnet.tasks.denoise import result_of, sample_once
from jointnet.tasks.model import JointModel
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.output import Result
from jointnet.tasks.task import noised


@dataclass(frozen=True, kw_only=True)
class Refine:
    """Whatever is larger than the model's size is refined in tiles, unless ``tiled=False`` or a processing size is chosen.

    Attributes:
        only: the modalities to refine, such as ["depth"], the others being known; None: all of them.
        strength: how far the maps are noised before they are denoised again, in [0, 1].
        scale: enlarge by this factor first: the image bicubically, dense maps by repeating pixels.
    Source: Sec. 5.2, A.4. Note: no whole-image tile, as in the paper.
    """

    image: MapInput
    dense: Mapping[str, MapInput]
    prompt: str | list[str] | None = ""
    only: str | Sequence[str] | None = None
    strength: float = 0.4
    scale: int = 1
    options: SamplingOptions = field(default_factory=SamplingOptions)

    def run(self, model: JointModel) -> Result:
        """Raises: ShapeError, RangeError, UnknownNameError."""
        options = self.options
        if self.scale < 1:
            raise RangeError(f"got a scale of {self.scale}; expected a whole number from 1")
        maps = {"rgb": as_maps("rgb", self.image), **{name: as_maps(name, value) for name, value in self.dense.items()}}
        refined = tuple(maps) if self.only is None else (self.only,) if isinstance(self.only, str) else self.only
        task = noised(maps, refined, self.strength)
        if self.scale > 1:
            task = noised(enlarged(task.maps, self.scale, options.conventions), refined, self.strength)
        tiled = options.tiled
        if tiled is None:
            is_large = max(task.size) > model.default_size and options.processing_size is None
            tiled = is_large or options.wraps or options.stride is not None
        tiling = refinement_tiles(model, options, wraps=options.wraps) if tiled is True else None
        return result_of(model, task, sample_once(model, task, self.prompt, options, tiling))


def refinement_tiles(model: JointModel, options: SamplingOptions, *, wraps: bool) -> Tiling:
    """Tiles without the whole image (A.4)."""
    changes: dict[str, Any] = {"wraps": wraps, "whole_share": 0.0}
    tiling = replace(options.tiled, **changes) if isinstance(options.tiled, Tiling) else model.tiles(options, **changes)
    return options.conventions.refinement_tiles(tiling)


def enlarged(maps: Mapping[str, Tensor], scale: int, conventions: Conventions = PAPER) -> dict[str, Tensor]:
    """Maps of one size at so many times it: pictures bicubically, dense maps by repeating pixels (Sec. 5.2)."""
    height, width = (side * scale for side in next(iter(maps.values())).shape[-2:])

    def larger(name: str, value: Tensor) -> Tensor:
        if name == "rgb":
            return conventions.enlarge_picture(within_limits("rgb", value), (height, width))
        return interpolate(value, size=(height, width))

    return {name: larger(name, value) for name, value in maps.items()}
