"""Image -> its dense maps, with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jointnet.errors import RangeError, ShapeError
from jointnet.modalities.modality import get_modality
from jointnet.modalities.read import MapInput, as_maps
from jointnet.tasks.denoise import count_rows, result_of, sample_maps
from jointnet.tasks.model import JointModel
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.output import Result
from jointnet.tasks.task import Task, all_known

ENSEMBLE_BATCH = 16
"""Samples of an ensemble that are drawn at once, ..."""

ENSEMBLE_PIXELS = 4 * 512 * 512
"""... or as many as have together so many pixels: memory grows with them."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """The image is wholly known, all other modalities are sampled.

    Attributes:
        image: one or several pictures of one size, any size.
        ensemble: samples a picture; they are aligned and merged, and their disagreement becomes the uncertainty. Up to ENSEMBLE_BATCH
            of them are drawn at once, the next with the generator's next draws. A list of generators has one for each picture, or one for
            each sample: a picture's first, then the next one's.
        match_input_resolution: maps of the picture's size; False: of the size the network works at, the picture too.
    Source: Sec. 4.1, 5.2.
    """

    image: MapInput
    prompt: str | list[str] | None = ""
    ensemble: int = 1
    match_input_resolution: bool = True
    options: SamplingOptions = field(default_factory=SamplingOptions)

    def run(self, model: JointModel) -> Result:
        """Raises: ShapeError, RangeError."""
        if self.ensemble < 1:
            raise RangeError(f"got an ensemble of {self.ensemble}; expected at least 1")
        task = all_known({"rgb": as_maps("rgb", self.image)})
        if self.ensemble == 1:
            sampled = sample_maps(model, task, self.prompt, self.options)
            return self._result(model, task, {name: value[:, 0] for name, value in sampled.items()})
        tiling = model.tiling(self.options, task.size)
        height, width = model.working_size(task.size, self.options.processing_size, tiled=tiling is not None)
        at_once = min(ENSEMBLE_BATCH, max(1, ENSEMBLE_PIXELS // (height * width)))  # the same for a batch and its single pictures
        parts: list[dict[str, Tensor]] = []
        rows = count_rows(task, self.prompt, self.options)
        for start in range(0, self.ensemble, at_once):
            some = range(start, min(start + at_once, self.ensemble))
            parts.append(sample_maps(model, task, self.prompt, self._options_of(some, rows), num_samples=len(some)))
            if model.watch.interrupt:
                break
        samples = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}  # (B, ensemble, c, h, w)
        known = samples.pop("rgb")[:, 0]
        merged, uncertainty = merge(samples)
        return self._result(model, task, {"rgb": known, **merged}, uncertainty)

    def _options_of(self, some: range, rows: int) -> SamplingOptions:
        """The options for some members of the ensembles of ``rows`` pictures: with their generators. Raises: ShapeError."""
        generator = self.options.generator
        if not isinstance(generator, list) or len(generator) == rows:
            return self.options
        if len(generator) != rows * self.ensemble:
            raise ShapeError(
                f"got {len(generator)} generators for {rows} pictures and an ensemble of {self.ensemble}; expected 1, {rows} (one for each "
                f"picture) or {rows * self.ensemble} (one for each sample)"
            )
        return replace(self.options, generator=[generator[row * self.ensemble + i] for row in range(rows) for i in some])

    def _result(
        self, model: JointModel, task: Task, sampled: Mapping[str, Tensor], uncertainty: Mapping[str, Tensor] | None = None
    ) -> Result:
        if not self.match_input_resolution:
            height, width = next(iter(sampled.values())).shape[-2:]
            task = task.resized((height, width))
        return result_of(model, task, sampled, uncertainty)


def merge(samples: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Dense maps (B, N, c, H, W) -> merged (B, c, H, W), uncertainty (B, 1, H, W)."""
    merged, uncertainty = {}, {}
    for name, maps in samples.items():
        pairs = [get_modality(name).merge(each) for each in maps]
        merged[name], uncertainty[name] = torch.stack([m for m, _ in pairs]), torch.stack([u for _, u in pairs])
    return merged, uncertainty
