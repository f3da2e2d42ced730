"""What the pipeline returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
from diffusers.utils import BaseOutput
from torch import Tensor

from jointnet.modalities import get_modality
from jointnet.modalities.write import channels_last, to_pil

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class JointNetPipelineOutput(BaseOutput):
    """Generated images and their dense maps.

    Attributes:
        images: RGB; "pil": list of B pictures; "np": (B, H, W, 3) in [0, 1]; "pt": (B, 3, H, W); "latent": the state as (B, M * C, h, w).
        dense: name -> maps in the units the modality states; "pil" and "np": float32 (B, H, W) or (B, H, W, c); "pt": (B, c, H, W);
            "latent": empty.
        uncertainty: name -> how far the samples of an ensemble disagree, (B, H, W) or "pt": (B, 1, H, W), in the unit the modality's merge
            states; empty without an ensemble.
        nsfw_content_detected: what the safety checker found; flagged pictures and their maps are zero. None without a checker.
    """

    images: list[PIL.Image.Image] | np.ndarray | Tensor
    dense: dict[str, Any] = field(default_factory=dict)
    uncertainty: dict[str, Any] = field(default_factory=dict)
    nsfw_content_detected: list[bool] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """(images, dense), then the uncertainty if there is one, then what the safety checker found if there is one."""
        uncertainty = (self.uncertainty,) if self.uncertainty else ()
        flagged = () if self.nsfw_content_detected is None else (self.nsfw_content_detected,)
        return self.images, self.dense, *uncertainty, *flagged

    @property
    def depth(self) -> Any:
        """The depth maps. Raises: KeyError if the model has no depth."""
        return self.dense["depth"]

    @property
    def normal(self) -> Any:
        """The normal maps. Raises: KeyError if the model has no normals."""
        return self.dense["normal"]


def package(
    maps: Mapping[str, Tensor],
    output_type: str,
    uncertainty: Mapping[str, Tensor] | None = None,
    flagged: list[bool] | None = None,
) -> JointNetPipelineOutput:
    """Maps (B, c, H, W) by modality -> the output in the asked form."""
    images: Any = maps["rgb"]
    dense: dict[str, Any] = {name: value for name, value in maps.items() if name != "rgb"}
    doubts: dict[str, Any] = dict(uncertainty or {})
    if output_type != "pt":
        images = [to_pil(m) for m in images] if output_type == "pil" else _arrays({"rgb": images})["rgb"]
        dense, doubts = _arrays(dense), _arrays(doubts)
    return JointNetPipelineOutput(images=images, dense=dense, uncertainty=doubts, nsfw_content_detected=flagged)


def _arrays(maps: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: np.stack([channels_last(m) for m in value]) for name, value in maps.items()}


def meanings(modalities: tuple[str, ...]) -> dict[str, str]:
    """What each map's numbers mean, to be written beside the files."""
    return {name: get_modality(name).meaning for name in modalities}
