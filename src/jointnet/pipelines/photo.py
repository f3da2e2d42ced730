"""A photo as what is known of a panorama."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jointnet.geometry.projection import Projection
from jointnet.geometry.warp import place_disparity, place_photo
from jointnet.modalities.modality import within_limits
from jointnet.pipelines.perform import PROMPT_OPTIONS, TaskOptions, perform_once
from jointnet.pipelines.task import Task, given

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline

_OF_THE_CANVAS = {"tiled", "wraps", "stride", "processing_size", "low_res", "guidance_scale", *PROMPT_OPTIONS}
"""Options that say something of the panorama, not of the photo."""


@dataclass(frozen=True)
class Photo:
    """A perspective photo in the middle of a canvas.

    Attributes:
        rgb: (B, 3, h, w) in [0, 1], and ``disparity01`` (B, 1, h, w) if it is known; fov_deg: the photo's angle across its width.
        projection, span_deg: the canvas's, and its angle across its width.
    """

    rgb: Tensor
    fov_deg: float
    projection: Projection
    span_deg: float
    disparity01: Tensor | None = None

    def with_depth(self, pipeline: JointNetPipeline, options: TaskOptions) -> Photo:
        """The photo and its depth, predicted at the model's size without a prompt; the photo alone if the model has no depth or upscales.

        With a list of generators, each has a depth of its own.
        """
        if "depth" not in pipeline.modalities or pipeline.joint_unet.config.low_res_channels:
            return self
        alone: TaskOptions = {**options}
        for name in _OF_THE_CANVAS:
            alone.pop(name, None)
        generator = alone.get("generator")
        rgb = self.rgb.expand(len(generator), -1, -1, -1) if isinstance(generator, list) and len(self.rgb) == 1 else self.rgb
        task = given({"rgb": rgb})
        made = task.composited(perform_once(pipeline, task, "", alone))
        return replace(self, rgb=rgb, disparity01=within_limits("depth", made["depth"]))

    def known_in(self, task: Task) -> Task:
        """The same task with the photo's pixels known, and their depth unless the task refines it or the photo covers all."""
        lens = (self.fov_deg, self.projection, self.span_deg, task.size)
        canvas, known = place_photo(self.rgb, *lens)
        if "rgb" in task.maps:
            made = task.maps["rgb"]
            canvas = torch.where(known.to(made.device) > 0.5, canvas.to(made.device), made)
        maps, asked = {**task.maps, "rgb": canvas}, {**task.asked, "rgb": 1 - known}
        if self.disparity01 is not None and "depth" not in task.maps and not bool((known > 0.5).all()):
            maps["depth"] = place_disparity(self.disparity01, *lens).to(canvas.device)
            asked["depth"] = 1 - known
        return replace(task, maps=maps, asked=asked)
