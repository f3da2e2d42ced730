"""Holes of an image and its dense maps, made anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jointnet.modalities.read import MapInput, as_maps, as_masks
from jointnet.tasks.denoise import result_of, sample_once
from jointnet.tasks.model import JointModel
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.output import Result
from jointnet.tasks.task import holes


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Known pixels come back exactly as they were.

    Attributes:
        dense: modality -> maps of the image's size.
        mask: white (1, True) where a pixel is to be sampled: one for all modalities, or {"rgb": ..., "depth": ...}; a modality without
            one is known.
        strength: 1 fills the holes from noise, less keeps more of their content.
    Source: Sec. 4.1, A.2.
    """

    image: MapInput
    dense: Mapping[str, MapInput]
    mask: MapInput | Mapping[str, MapInput]
    prompt: str | list[str] | None = ""
    strength: float = 1.0
    options: SamplingOptions = field(default_factory=SamplingOptions)

    def run(self, model: JointModel) -> Result:
        """Raises: ShapeError, RangeError, UnknownNameError."""
        maps = {"rgb": as_maps("rgb", self.image), **{name: as_maps(name, value) for name, value in self.dense.items()}}
        if isinstance(self.mask, Mapping):
            masks = {name: as_masks(value) for name, value in self.mask.items()}
        else:
            masks = dict.fromkeys(maps, as_masks(self.mask))
        task = holes(maps, masks, self.strength)
        return result_of(model, task, sample_once(model, task, self.prompt, self.options))
