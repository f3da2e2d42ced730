"""Performing a task on a picture of any size: to the model's size, through the sampler, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor

from jointnet.errors import RangeError, ShapeError, UnknownNameError
from jointnet.modalities.modality import resize_smooth
from jointnet.pipelines.conventions import Conventions
from jointnet.pipelines.low_res import SmallMaps
from jointnet.pipelines.output import JointNetPipelineOutput, package
from jointnet.pipelines.run import Sampling, StepEnd, solve
from jointnet.pipelines.safety import censored
from jointnet.pipelines.task import Task
from jointnet.pipelines.text.prompts import Prompt
from jointnet.sampling.steps import Generators
from jointnet.sampling.tiling import Tiling

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline

WHOLE_IMAGE_LIMIT = 16
"""Canvases larger than this many windows have no whole-image tile unless a Tiling asks for one: it would not fit into memory."""


PROMPT_OPTIONS = {field.name for field in fields(Prompt)} - {"prompt"}
"""What a task takes besides the prompt that says something of the text."""


class TaskOptions(TypedDict, total=False):
    """What every task takes besides its maps.

    Attributes:
        processing_size: the network works on the picture brought to this long side, in pixels; by default the model's own size.
        tiled: work at the picture's full size, in tiles of the model's size; a Tiling changes how.
        wraps: left and right edge are neighbours, in tiles.
        stride: distance of neighbouring tiles in pixels, by default half a tile.
        guidance_scale: by default the model's own (``config.default_guidance``), and 1 (off) if the prompt is empty.
        conventions: PAPER, or RELEASE to do as the authors' code does.
        low_res, noise_level: for bases that upscale, as in JointNetPipeline's call.
        num_resamples: RePaint's time travel, for models without masked input (DDIM and DDPM).
        output_type: "pil", "np" or "pt".
        all others: as in StableDiffusionPipeline.
    """

    processing_size: int
    tiled: bool | Tiling
    wraps: bool
    stride: int
    negative_prompt: str | list[str] | None
    num_inference_steps: int
    timesteps: list[int]
    sigmas: list[float]
    guidance_scale: float | None
    guidance_rescale: float
    eta: float
    generator: Generators
    num_resamples: int
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    negative_pooled_prompt_embeds: Tensor
    clip_skip: int
    cross_attention_kwargs: dict[str, Any] | None
    conventions: Conventions
    low_res: SmallMaps
    noise_level: int
    callback_on_step_end: StepEnd
    callback_on_step_end_tensor_inputs: Sequence[str]
    output_type: str
    return_dict: bool


def perform_once(pipeline: JointNetPipeline, task: Task, prompt: str | list[str], options: TaskOptions) -> dict[str, Tensor]:
    """A task's maps at the size the network works at, (B, c, h, w)."""
    return {name: value[:, 0] for name, value in perform(pipeline, task, prompt, options).items()}


def perform(pipeline: JointNetPipeline, task: Task, prompt: str | list[str], options: TaskOptions, repeats: int = 1) -> dict[str, Tensor]:
    """``repeats`` samples of a task's maps at the size the network works at, (B, repeats, c, h, w)."""
    _check_task(pipeline, task, options)
    if task.strength == 0:
        return {name: value[:, None] for name, value in task.maps.items()}
    embeds = options.get("prompt_embeds")
    prompts = [prompt] * (task.batch or 1) if isinstance(prompt, str) else list(prompt)
    told = {name: options[name] for name in PROMPT_OPTIONS if name in options}  # pyright: ignore[reportTypedDictNotRequiredAccess]
    said = Prompt(**{"prompt": prompts if embeds is None else None, **told})
    scale = options.get("guidance_scale")
    if scale is None:
        scale = pipeline.config.default_guidance if said.says_something else 1.0
    rows = len(prompts) if embeds is None else len(embeds)
    if task.batch not in (None, 1, rows):
        raise ShapeError(f"got {task.batch} pictures and {rows} prompts; pass one prompt, or one for each picture")
    lora_scale = (options.get("cross_attention_kwargs") or {}).get("scale")
    conditioning = pipeline.condition_on(said, num_images_per_prompt=repeats, guidance_scale=scale, lora_scale=lora_scale)
    tiling, size = plan(pipeline, task, options)
    chosen = {f.name: options[f.name] for f in fields(Sampling) if f.name in options}  # pyright: ignore[reportTypedDictNotRequiredAccess]
    sampling = Sampling(**{**chosen, "guidance_scale": scale, "tiling": tiling})
    if isinstance(sampling.generator, list):
        sampling = replace(sampling, generator=[g for g in sampling.generator for _ in range(repeats)])
    work = task.resized(size)
    codec = pipeline.codec_for(tiling, sampling.conventions)
    maps = codec.decode_all(solve(pipeline, work, codec, conditioning, sampling), pipeline.modalities)
    return {name: value.unflatten(0, (rows, repeats)) for name, value in maps.items()}


def _check_task(pipeline: JointNetPipeline, task: Task, options: TaskOptions) -> None:
    """Raises: TypeError for an option that no task has, as Python does; UnknownNameError, ShapeError, RangeError."""
    strange = set(options) - set(TaskOptions.__annotations__)
    if strange:
        raise TypeError(f"got {', '.join(sorted(strange))}; tasks take {', '.join(TaskOptions.__annotations__)}")
    form = options.get("output_type", "pil")
    if form == "latent":
        raise RangeError("got output_type 'latent'; tasks return maps, with the known pixels in them: expected pil, np or pt")
    pipeline.check_output(form, options.get("callback_on_step_end"), options.get("callback_on_step_end_tensor_inputs", ()))
    names = ", ".join(pipeline.modalities)
    unknown = set(task.maps) - set(pipeline.modalities)
    if unknown:
        raise UnknownNameError(f"got {', '.join(sorted(unknown))} for a model of {names}; leave it out")
    missing = set(pipeline.modalities) - set(task.maps)
    if task.strength < 1 and missing:
        raise UnknownNameError(f"got no {', '.join(sorted(missing))} to start from; a strength below 1 needs a map of each of {names}")
    if not task.asks_something_of(pipeline.modalities):
        raise ShapeError("got masks without a hole: nothing is asked; expected white (1) where something is to be made anew")


def plan(pipeline: JointNetPipeline, task: Task, options: TaskOptions) -> tuple[Tiling | None, tuple[int, int]]:
    """The tiles a task is worked on in (None: at once), and the size it is worked on at."""
    tiling = tiling_of(pipeline, task, options)
    return tiling, working_size(pipeline, task.size, options.get("processing_size"), tiled=tiling is not None)


def tiling_of(pipeline: JointNetPipeline, task: Task, options: TaskOptions) -> Tiling | None:
    """The tiles a task is worked on in, without the whole image where that is large; None: at once."""
    wraps = options.get("wraps", False)
    tiled = options.get("tiled", wraps or "stride" in options)
    if isinstance(tiled, Tiling):
        return replace(tiled, wraps=tiled.wraps or wraps)
    if not tiled:
        if wraps or "stride" in options:
            raise RangeError("got tiled=False with wraps or a stride, which are for tiles; leave out one or the other")
        return None
    height, width = working_size(pipeline, task.size, options.get("processing_size"), tiled=True)
    is_large = height * width > WHOLE_IMAGE_LIMIT * pipeline.default_size**2
    return tiles_of(pipeline, options, wraps=wraps, **({"whole_share": 0.0} if is_large else {}))


def tiles_of(pipeline: JointNetPipeline, options: TaskOptions, **changes: Any) -> Tiling:
    """Tiles of the model's size at the stride that is asked for. Raises: RangeError."""
    stride, factor, window = options.get("stride"), pipeline.codec.factor, pipeline.default_size
    if stride is not None:
        if stride % factor or not 0 < stride <= window:
            raise RangeError(f"got a stride of {stride} px; expected a multiple of {factor} up to a tile's {window} px")
        changes["stride"] = stride // factor
    return pipeline.tiling(**changes)


def finish(
    pipeline: JointNetPipeline,
    task: Task,
    made: Mapping[str, Tensor],
    options: TaskOptions,
    uncertainty: Mapping[str, Tensor] | None = None,
) -> JointNetPipelineOutput | tuple[Any, ...]:
    """Bring made maps back to the task's size, put the known pixels in, and package them."""
    whole = {name: resize_smooth(value, task.size) for name, value in (uncertainty or {}).items()}
    maps, flagged = censored(pipeline, task.composited(made))
    output = package(maps, options.get("output_type", "pil"), whole, flagged)
    pipeline.maybe_free_model_hooks()
    return output if options.get("return_dict", True) else output.to_tuple()


def working_size(pipeline: JointNetPipeline, size: tuple[int, int], processing_size: int | None, *, tiled: bool) -> tuple[int, int]:
    """The multiples of ``size_multiple`` nearest to the size (tiled), or to it brought to the processing size along its long side."""
    multiple = pipeline.size_multiple
    if processing_size is not None and (processing_size < multiple or processing_size % multiple):
        raise ShapeError(f"got a processing size of {processing_size}; expected a multiple of {multiple}, such as {pipeline.default_size}")
    share = 1 if tiled and processing_size is None else (processing_size or pipeline.default_size) / max(size)
    height, width = (max(multiple, round(side * share / multiple) * multiple) for side in size)
    return height, width
