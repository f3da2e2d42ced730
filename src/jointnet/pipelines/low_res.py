"""The smaller maps that an upscaling base (DeepFloyd-IF stage II) starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jointnet.errors import RangeError, ShapeError
from jointnet.modalities.codec import Codec
from jointnet.modalities.modality import get_modality, within_limits
from jointnet.modalities.read import MapInput, as_maps
from jointnet.models.upscaling import FACTOR, enlarge, noise_low_res
from jointnet.pipelines.output import JointNetPipelineOutput
from jointnet.pipelines.task import Task
from jointnet.sampling.known import draw_like
from jointnet.sampling.steps import Generators
from jointnet.types import LowRes

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline

SmallMaps = JointNetPipelineOutput | Mapping[str, MapInput]
"""Maps of one picture by modality, "rgb" among them, or what the first stage returned."""


def read_low_res(
    pipeline: JointNetPipeline,
    task: Task,
    codec: Codec,
    batch: int,
    given: SmallMaps | None,
    noise_level: int,
    generator: Generators,
) -> LowRes | None:
    """Smaller maps of every modality, enlarged to the task's size and noised; None for bases that do not upscale.

    A modality that is wholly known, or only refined, gives its own smaller map.
    Raises: ShapeError if one is missing, of another shape than the picture's, or of no use; RangeError for a noise level that is no
        timestep.
    """
    if not pipeline.joint_unet.config.low_res_channels:
        if given is not None:
            raise ShapeError("got low_res for a base that does not upscale; leave it out")
        return None
    alpha_bar = (pipeline.image_noising_scheduler or pipeline.scheduler).alphas_cumprod
    if not 0 <= noise_level < len(alpha_bar):
        raise RangeError(f"got a noise level of {noise_level}; expected a timestep from 0 to {len(alpha_bar) - 1}")
    maps = _by_modality(given)
    device, dtype = pipeline._execution_device, pipeline.joint_unet.dtype
    rows = []
    for name in pipeline.modalities:
        small = codec.encode(name, _given(name, maps[name], task.size) if name in maps else _own(task, name))
        if batch % len(small):
            raise ShapeError(f"got {len(small)} smaller {name} maps for {batch} pictures; pass one, or one for each")
        _check_shape(name, small, task.size, pipeline.size_multiple)
        rows.append(enlarge(small[:, None].to(device, dtype), task.size).repeat_interleave(batch // len(small), 0))
    enlarged = torch.cat(rows, 1)  # (B, M, 3, H, W)
    level = torch.full((batch,), noise_level, device=device)
    return noise_low_res(enlarged, level, draw_like(enlarged, generator), alpha_bar)


def _check_shape(name: str, small: Tensor, size: tuple[int, int], multiple: int) -> None:
    """Whether a smaller map has the picture's shape, but for rounding to multiples. Raises: ShapeError."""
    (height, width), (small_height, small_width) = size, small.shape[-2:]
    if abs(small_height * width / small_width - height) > multiple:
        raise ShapeError(f"got a smaller {name} of {small_height}x{small_width} px for {height}x{width}; expected one of the same shape")


def _by_modality(given: SmallMaps | None) -> Mapping[str, MapInput]:
    if isinstance(given, JointNetPipelineOutput):
        return {"rgb": given.images, **{name: made.clip(*get_modality(name).limits) for name, made in given.dense.items()}}
    return given or {}


def _given(name: str, given: MapInput, size: tuple[int, int]) -> Tensor:
    """A map at the size the base enlarges from, or smaller: what a task of the first stage returns has its picture's size."""
    maps = within_limits(name, as_maps(name, given))
    small = (size[0] // FACTOR, size[1] // FACTOR)
    return get_modality(name).resize(maps, small) if maps.shape[-1] > small[1] else maps


def _own(task: Task, name: str) -> Tensor:
    if task.is_wholly_known(name) or (name in task.maps and task.strength < 1):
        height, width = task.size
        return get_modality(name).resize(task.maps[name], (height // FACTOR, width // FACTOR))
    raise ShapeError(f"this base upscales and got no smaller {name}; pass low_res, such as what its first stage returned")
