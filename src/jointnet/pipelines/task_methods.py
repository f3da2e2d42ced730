"""The pipeline's tasks besides plain generation: thin methods, each of which says what is known and what is asked (Sec. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from jointnet.errors import RangeError, ShapeError, UnknownNameError
from jointnet.geometry.projection import get_projection
from jointnet.geometry.warp import place_photo
from jointnet.modalities import get_modality
from jointnet.modalities.read import MapInput, as_maps, as_masks
from jointnet.modalities.resize import resize_smooth
from jointnet.pipelines import task as tasks
from jointnet.pipelines.output import JointNetPipelineOutput, package
from jointnet.pipelines.run import Sampling, StepEnd, solve
from jointnet.pipelines.task import Task
from jointnet.sampling.steps import Generators
from jointnet.sampling.tiling import Tiling

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline

DEFAULT_GUIDANCE = 7.5


class TaskOptions(TypedDict, total=False):
    """What every task takes besides its maps.

    Attributes:
        processing_size: the network works on the picture brought to this long side, in pixels; by default the model's own size.
        tiled: work at the picture's full size, in tiles of the model's size; a Tiling changes how.
        guidance_scale: by default 7.5, and 1 (off) if the prompt is empty.
        num_resamples: RePaint's time travel, for models without masked input (DDIM and DDPM).
        output_type: "pil", "np" or "pt".
        all others: as in StableDiffusionPipeline.
    """

    processing_size: int
    tiled: bool | Tiling
    negative_prompt: str | list[str]
    num_inference_steps: int
    timesteps: list[int]
    sigmas: list[float]
    guidance_scale: float
    guidance_rescale: float
    eta: float
    generator: Generators
    num_resamples: int
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    clip_skip: int
    cross_attention_kwargs: dict[str, Any]
    callback_on_step_end: StepEnd
    callback_on_step_end_tensor_inputs: Sequence[str]
    output_type: str
    return_dict: bool


class TaskMethods:
    """Mixed into JointNetPipeline."""

    @torch.no_grad()
    def predict(
        self, image: MapInput, prompt: str | list[str] = "", *, ensemble: int = 1, **options: Unpack[TaskOptions]
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Image -> its dense maps.

        Args:
            image: one or several pictures of one size, any size.
            ensemble: samples a picture; they are aligned and merged, and their disagreement becomes the uncertainty.
        Raises: ShapeError, RangeError.
        Source: Sec. 4.1, 5.2.
        """
        if ensemble < 1:
            raise RangeError(f"got an ensemble of {ensemble}; expected at least 1")
        pipeline = cast("JointNetPipeline", self)
        task = tasks.given({"rgb": as_maps("rgb", image)})
        made = perform(pipeline, task, prompt, options, repeats=ensemble)
        if ensemble == 1:
            return finish(pipeline, task, made, options)
        merged, uncertainty = _merged(made, ensemble)
        return finish(pipeline, task, merged, options, {name: v for name, v in uncertainty.items() if name != "rgb"})

    @torch.no_grad()
    def condition(
        self, prompt: str | list[str] = "", *, dense: Mapping[str, MapInput], **options: Unpack[TaskOptions]
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Dense maps -> images of them.

        Args:
            dense: modality -> maps in the range it states, any size: {"depth": disparity}.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 4.1, 5.2.
        """
        pipeline = cast("JointNetPipeline", self)
        task = tasks.given({name: as_maps(name, maps) for name, maps in dense.items()})
        return finish(pipeline, task, perform(pipeline, task, prompt, options), options)

    @torch.no_grad()
    def edit(
        self,
        image: MapInput,
        dense: Mapping[str, MapInput],
        mask: MapInput | Mapping[str, MapInput],
        prompt: str | list[str] = "",
        *,
        strength: float = 1.0,
        **options: Unpack[TaskOptions],
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Make holes of an image and its dense maps anew; known pixels come back exactly as they were.

        Args:
            dense: modality -> maps of the image's size.
            mask: white (1) where something is asked: one for all modalities, or {"rgb": ..., "depth": ...}; one without a mask is known.
            strength: 1 fills the holes from noise, less keeps more of what is in them.
        Raises: ShapeError, RangeError.
        Source: Sec. 4.1, A.2.
        """
        pipeline = cast("JointNetPipeline", self)
        maps = {"rgb": as_maps("rgb", image), **{name: as_maps(name, value) for name, value in dense.items()}}
        masks = {n: as_masks(m) for n, m in mask.items()} if isinstance(mask, Mapping) else dict.fromkeys(maps, as_masks(mask))
        task = tasks.edit(maps, masks, strength)
        return finish(pipeline, task, perform(pipeline, task, prompt, options), options)

    @torch.no_grad()
    def refine(
        self,
        image: MapInput,
        dense: Mapping[str, MapInput],
        prompt: str | list[str] = "",
        *,
        only: Sequence[str] | None = None,
        strength: float = 0.4,
        scale: int = 1,
        **options: Unpack[TaskOptions],
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Sharpen an image and its dense maps, in tiles unless ``tiled=False`` (SDEdit).

        Args:
            only: the modalities to refine, such as ["depth"], the others being known; by default all of them.
            strength: how far the maps are noised before they are denoised again, in [0, 1].
            scale: enlarge by this factor first: the image bicubically, dense maps by repeating pixels.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 5.2, A.4. Note: no whole-image tile, as in the paper.
        """
        pipeline = cast("JointNetPipeline", self)
        if scale < 1:
            raise RangeError(f"got a scale of {scale}; expected a whole number from 1")
        maps = {"rgb": as_maps("rgb", image), **{name: as_maps(name, value) for name, value in dense.items()}}
        task = tasks.refine(enlarged(maps, scale), tuple(maps) if only is None else only, strength)
        tiled = options.get("tiled", True)
        if tiled is True:
            options["tiled"] = pipeline.tiling(whole_share=0.0)
        return finish(pipeline, task, perform(pipeline, task, prompt, options), options)

    @torch.no_grad()
    def panorama(
        self,
        prompt: str | list[str] = "",
        *,
        height: int | None = None,
        width: int | None = None,
        span_deg: float = 180.0,
        projection: str = "cylindrical",
        image: MapInput | None = None,
        image_fov_deg: float = 60.0,
        scale: int = 1,
        **options: Unpack[TaskOptions],
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """A wide picture and its dense maps, denoised in tiles and as a whole; with a photo, the rest is painted around it.

        Args:
            height, width: pixels; by default the model's size, 4 times as wide.
            span_deg: angle across the width; 360 wraps.
            projection: "cylindrical" or "equirectangular".
            image: a perspective photo, laid into the middle; ``image_fov_deg`` is the angle across its width.
            scale: refine at this many times the size in a second run.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 4.2, 5.3.
        """
        pipeline = cast("JointNetPipeline", self)
        size = (height or pipeline.default_size, width or 4 * pipeline.default_size)
        pipeline.check_size(*size)
        lens = get_projection(projection, span_deg)
        wraps = lens.wraps
        options.setdefault("tiled", pipeline.tiling(wraps=wraps))

        def with_photo(task: Task) -> Task:
            if image is None:
                return task
            canvas, known = place_photo(as_maps("rgb", image), image_fov_deg, lens, span_deg, task.size)
            return tasks.edit({**task.maps, "rgb": canvas}, {**task.asked, "rgb": 1 - known})

        task = with_photo(tasks.generate(size))
        made = task.composited(perform(pipeline, task, prompt, options))
        if scale > 1:
            task = tasks.refine(enlarged(made, scale), tuple(made))
            fine: TaskOptions = {**options, "tiled": pipeline.tiling(wraps=wraps, whole_share=0.0)}
            made = perform(pipeline, task, prompt, fine)
            task = with_photo(tasks.generate(task.size))
        return finish(pipeline, task, made, options)


def perform(pipeline: JointNetPipeline, task: Task, prompt: str | list[str], options: TaskOptions, repeats: int = 1) -> dict[str, Tensor]:
    """A task's maps at the size the network works at, each row ``repeats`` times."""
    tiling = options.get("tiled", False)
    tiling = pipeline.tiling() if tiling is True else tiling or None
    pipeline.check_output(options.get("output_type", "pil"), options.get("callback_on_step_end_tensor_inputs", ()))
    missing = set(task.maps) - set(pipeline.modalities)
    if missing:
        raise UnknownNameError(f"got {', '.join(sorted(missing))} for a model of {', '.join(pipeline.modalities)}; leave them out")
    if task.strength == 0:
        return dict(task.maps)
    prompts = [prompt] * (task.batch or 1) if isinstance(prompt, str) else prompt
    scale = options.get("guidance_scale", DEFAULT_GUIDANCE if any(prompts) or "prompt_embeds" in options else 1.0)
    given_embeds = options.get("prompt_embeds")
    conditioning = pipeline.condition_on(
        None if given_embeds is not None else prompts,
        options.get("negative_prompt"),
        num_images_per_prompt=repeats,
        guidance_scale=scale,
        prompt_embeds=given_embeds,
        negative_prompt_embeds=options.get("negative_prompt_embeds"),
        clip_skip=options.get("clip_skip"),
    )
    chosen = {f.name: options[f.name] for f in fields(Sampling) if f.name in options}  # pyright: ignore[reportTypedDictNotRequiredAccess]
    sampling = Sampling(**{**chosen, "guidance_scale": scale, "tiling": tiling})
    if repeats > 1 and isinstance(sampling.generator, list):
        sampling = replace(sampling, generator=[g for g in sampling.generator for _ in range(repeats)])
    if task.batch not in (None, 1, len(prompts)):
        raise ShapeError(f"got {task.batch} pictures and {len(prompts)} prompts; pass one prompt, or one for each picture")
    work = task.resized(working_size(pipeline, task.size, options.get("processing_size"), tiled=tiling is not None))
    work = work.repeated(repeats) if (task.batch or 1) > 1 else work
    codec = pipeline.codec_for(tiling)
    return codec.decode_all(solve(pipeline, work, codec, conditioning, sampling), pipeline.modalities)


def finish(
    pipeline: JointNetPipeline,
    task: Task,
    made: Mapping[str, Tensor],
    options: TaskOptions,
    uncertainty: Mapping[str, Tensor] | None = None,
) -> JointNetPipelineOutput | tuple[Any, ...]:
    """Bring made maps back to the task's size, put the known pixels in, and package them."""
    whole = {name: resize_smooth(value, task.size) for name, value in (uncertainty or {}).items()}
    output = package(task.composited(made), options.get("output_type", "pil"), whole)
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


def _merged(made: Mapping[str, Tensor], samples: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Maps (B * samples, c, H, W) -> merged (B, c, H, W), uncertainty (B, 1, H, W)."""
    merged, uncertainty = {}, {}
    for name, maps in made.items():
        pairs = [get_modality(name).merge(each) for each in maps.unflatten(0, (-1, samples))]
        merged[name], uncertainty[name] = torch.stack([m for m, _ in pairs]), torch.stack([u for _, u in pairs])
    return merged, uncertainty


def enlarged(maps: Mapping[str, Tensor], scale: int) -> dict[str, Tensor]:
    """Pictures bicubically, dense maps by repeating pixels (Sec. 5.2)."""
    height, width = (side * scale for side in next(iter(maps.values())).shape[-2:])
    return {
        name: get_modality(name).resize(value, (height, width)) if name == "rgb" else interpolate(value, size=(height, width))
        for name, value in maps.items()
    }
