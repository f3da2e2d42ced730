"""Stable Diffusion's safety checker, where a base brings one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from jointnet.modalities.write import to_pil

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline


def censored(pipeline: JointNetPipeline, maps: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[bool] | None]:
    """Maps (B, c, H, W), all zero where the checker flags the image, and its flags; None without a checker."""
    checker, extractor = pipeline.safety_checker, pipeline.feature_extractor
    if checker is None or extractor is None:
        return dict(maps), None
    pictures = maps["rgb"].float().cpu()
    read = extractor([to_pil(picture) for picture in pictures], return_tensors="pt").pixel_values
    images = np.ascontiguousarray(pictures.permute(0, 2, 3, 1).numpy())
    _, flags = checker(images=images, clip_input=read.to(pipeline._execution_device, checker.dtype))
    kept = ~torch.tensor(flags)
    return {name: value * kept.to(value.device)[:, None, None, None] for name, value in maps.items()}, [bool(f) for f in flags]
