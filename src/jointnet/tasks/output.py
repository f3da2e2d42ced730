"""Results: maps by modality for the program, and in diffusers' manner for callers of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from jointnet.files.result_set import Writable
from jointnet.modalities.modality import files_of_maps, get_modality
from jointnet.modalities.write import to_pil


@dataclass(frozen=True)
class Result:
    """The maps of a run.

    Attributes:
        maps: modality -> (B, c, H, W) float32, in the range it states; decoders may overshoot it a little.
        uncertainty: modality -> (B, 1, H, W), how far the samples of an ensemble disagree, in the unit the modality's merge states.
        is_flagged: the safety checker's finding for each picture; flagged pictures and their maps are zero. None without a checker.
        latents: the state (B, M * C, h, w), where that was asked for instead of maps.
    """

    maps: Mapping[str, Tensor] = field(default_factory=dict)
    uncertainty: Mapping[str, Tensor] = field(default_factory=dict)
    is_flagged: list[bool] | None = None
    latents: Tensor | None = None

    def files(self, row: int = 0) -> dict[str, Writable]:
        """One picture's maps and their uncertainty in all the forms they are written in, by file name."""
        return files_of_maps(
            {name: value[row].cpu() for name, value in self.maps.items()},
            {name: value[row].cpu() for name, value in self.uncertainty.items()},
        )


@dataclass
class JointNetPipelineOutput(BaseOutput):
    """Generated images and their dense maps.

    Attributes:
        images: RGB; "pil": list of B pictures; "np": (B, H, W, 3) in [0, 1]; "pt": (B, 3, H, W); "latent": the state as (B, M * C, h, w).
        dense: name -> maps in the units the modality states; "pil" and "np": float32 (B, H, W) or (B, H, W, c); "pt": (B, c, H, W);
            "latent": empty.
        uncertainty: name -> how far the samples of an ensemble disagree, (B, H, W) or "pt": (B, 1, H, W), in the unit the modality's merge
            states; empty without an ensemble.
        nsfw_content_detected: the safety checker's finding; flagged pictures and their maps are zero. None without a checker.
    """

    images: list[PIL.Image.Image] | np.ndarray | Tensor
    dense: dict[str, Any] = field(default_factory=dict)
    uncertainty: dict[str, Any] = field(default_factory=dict)
    nsfw_content_detected: list[bool] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """(images, dense); of an ensemble also the uncertainty; with a safety checker always four, its finding last."""
        if self.nsfw_content_detected is not None:
            return self.images, self.dense, self.uncertainty, self.nsfw_content_detected
        return (self.images, self.dense, self.uncertainty) if self.uncertainty else (self.images, self.dense)

    @property
    def depth(self) -> Any:
        """The depth maps. Raises: KeyError if the model has no depth."""
        return self.dense["depth"]

    @property
    def normal(self) -> Any:
        """The normal maps. Raises: KeyError if the model has no normals."""
        return self.dense["normal"]


def censor(maps: Mapping[str, Tensor], checker: Any, extractor: Any, device: torch.device) -> tuple[dict[str, Tensor], list[bool]]:
    """Stable Diffusion's safety checker: maps (B, c, H, W), all zero where it flags the image, and its flags."""
    pictures = maps["rgb"].float().cpu()
    read = extractor([to_pil(picture) for picture in pictures], return_tensors="pt").pixel_values
    images = np.ascontiguousarray(pictures.permute(0, 2, 3, 1).numpy())
    _, flags = checker(images=images, clip_input=read.to(device, checker.dtype))
    kept = ~torch.tensor(flags)
    return {name: value * kept.to(value.device)[:, None, None, None] for name, value in maps.items()}, [bool(f) for f in flags]


def meanings(modalities: Sequence[str]) -> Mapping[str, str]:
    """Meaning of each map's numbers, to be written beside the files."""
    return {name: get_modality(name).meaning for name in modalities}
