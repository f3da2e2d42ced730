"""The smaller maps that an upscaling base (DeepFloyd-IF stage II) starts from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.diffusion.schedule import DiscreteProcess
from jointnet.errors import RangeError, ShapeError
from jointnet.modalities.modality import get_modality, within_limits
from jointnet.modalities.read import MapInput, as_maps
from jointnet.models.upscaling import FACTOR, enlarge
from jointnet.sampling.loop import draw_like
from jointnet.tasks.model import JointModel
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.output import JointNetPipelineOutput
from jointnet.tasks.task import Task
from jointnet.types import LowRes


def read_low_res(model: JointModel, task: Task, codec: Codec, batch: int, options: SamplingOptions) -> LowRes:
    """Smaller maps of every modality, enlarged to the task's size and noised.

    A modality that is wholly known, or only refined, brings its own smaller map.
    Raises: ShapeError if one is missing or of another shape than the picture's; RangeError for a noise level that is no timestep.
    """
    alpha_bar = (model.image_noising_scheduler or model.scheduler).alphas_cumprod
    if not 0 <= options.noise_level < len(alpha_bar):
        raise RangeError(f"got a noise level of {options.noise_level}; expected a timestep from 0 to {len(alpha_bar) - 1}")
    maps = _by_modality(options.low_res)
    rows = []
    for name in model.modalities:
        small = codec.encode(name, _passed(name, maps[name], task.size) if name in maps else _own(task, name))
        if batch % len(small):
            raise ShapeError(f"got {len(small)} smaller {name} maps for {batch} pictures; pass one, or one for each")
        _check_shape(name, small, task.size, model.size_multiple)
        small = small[:, None].to(model.device, model.network.dtype)
        rows.append(enlarge(small, task.size).repeat_interleave(batch // len(small), 0))
    enlarged = torch.cat(rows, 1)  # (B, M, 3, H, W)
    level = torch.full((batch,), options.noise_level, device=model.device)
    noise = draw_like(enlarged, options.generator)
    return LowRes(DiscreteProcess(alpha_bar).add_noise(enlarged, noise, level).to(enlarged.dtype), level)


def _check_shape(name: str, small: Tensor, size: tuple[int, int], multiple: int) -> None:
    """A smaller map has the picture's shape, but for rounding to multiples. Raises: ShapeError."""
    (height, width), (small_height, small_width) = size, small.shape[-2:]
    if abs(small_height * width / small_width - height) > multiple:
        raise ShapeError(f"got a smaller {name} of {small_height}x{small_width} px for {height}x{width}; expected one of the same shape")


def _by_modality(maps: JointNetPipelineOutput | Mapping[str, MapInput] | None) -> Mapping[str, MapInput]:
    if isinstance(maps, JointNetPipelineOutput):
        return {"rgb": maps.images, **{name: value.clip(*get_modality(name).limits) for name, value in maps.dense.items()}}
    return maps or {}


def _passed(name: str, value: MapInput, size: tuple[int, int]) -> Tensor:
    """A map at the size the base enlarges from, or smaller: a task of the first stage returns it at its picture's size."""
    maps = within_limits(name, as_maps(name, value))
    small = (size[0] // FACTOR, size[1] // FACTOR)
    return get_modality(name).resize(maps, small) if maps.shape[-1] > small[1] else maps


def _own(task: Task, name: str) -> Tensor:
    if task.is_wholly_known(name) or (name in task.maps and task.strength < 1):
        height, width = task.size
        return get_modality(name).resize(task.maps[name], (height // FACTOR, width // FACTOR))
    raise ShapeError(f"this base upscales and got no smaller {name}; pass low_res, such as its first stage's output")
