"""From a task to its maps: the one way that every request goes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.diffusion.schedule import ScheduledProcess
from jointnet.errors import NonFiniteError, RangeError, ShapeError, UnknownNameError
from jointnet.modalities.modality import resize_smooth
from jointnet.models.joint_unet import JointUNet
from jointnet.sampling.guidance import Guided
from jointnet.sampling.loop import Blend, CleanKnown, TimeTravel, draw_like, sample
from jointnet.sampling.schedulers import seeded, set_timesteps, shortened
from jointnet.sampling.shortcuts import Shortcuts
from jointnet.sampling.tiling import Tiled, Tiling
from jointnet.tasks.low_res import read_low_res
from jointnet.tasks.model import JointModel
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.output import Result, censor
from jointnet.tasks.task import Task
from jointnet.text.prompts import Prompt
from jointnet.types import Conditioning, Denoiser, Known, Step, size_ids


@dataclass(frozen=True)
class StepTools:
    """What a hook before each step may use: the denoiser of a window, with its guidance; codec; the run's scheduler."""

    denoiser: Denoiser
    codec: Codec
    scheduler: Any


@dataclass
class RunGuide:
    """The guidance scale of one run; a callback may change it from step to step."""

    scale: float


@dataclass(frozen=True)
class JointDenoiser:
    """The joint network as a denoiser; ``factor`` is the pixels that one of the state's stands for.

    ``shortcuts``: what each call may leave out; None: nothing.
    """

    network: JointUNet
    factor: int
    cross_attention_kwargs: dict[str, Any] | None = None
    shortcuts: Shortcuts | None = None

    def __call__(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        added = conditioning.text.added
        if self.network.reads_sizes:  # of what it is shown: a tile has its own size
            size = (x.shape[-2] * self.factor, x.shape[-1] * self.factor)
            added = {**added, "time_ids": size_ids(size).to(x).expand(len(x), -1)}
        return self.network(
            x.to(self.network.dtype),
            step.t,
            conditioning.text.embeds,
            known=conditioning.known,
            low_res=conditioning.low_res,
            added_cond_kwargs=added,
            cross_attention_kwargs=self.cross_attention_kwargs,
            shortcut=None if self.shortcuts is None else self.shortcuts.of(x, step, conditioning),
            return_dict=False,
        )[0]


def sample_maps(
    model: JointModel,
    task: Task,
    prompt: str | list[str] | None,
    options: SamplingOptions,
    *,
    num_samples: int = 1,
    tiling: Tiling | None = None,
) -> dict[str, Tensor]:
    """``num_samples`` samples of a task's maps at the size the network works at, (B, num_samples, c, h, w).

    ``tiling`` overrides the tiles that the options ask for.
    Raises: UnknownNameError, ShapeError, RangeError.
    """
    # 1. Check the task
    check_task(model, task, options)
    words = list(prompt) if isinstance(prompt, list) else [prompt or ""] * (task.batch or 1)
    text = prompt_of(words if options.prompt_embeds is None or any(words) else None, options)
    rows = count_rows(task, prompt, options)
    if rows == 0 or task.batch not in (None, 1, rows):
        raise ShapeError(f"got {task.batch or 0} pictures and {rows} prompts; pass one prompt, or one for each picture")
    if task.strength == 0:
        return {name: value.expand(rows, -1, -1, -1)[:, None] for name, value in task.maps.items()}

    # 2. Encode the prompts, one for each picture
    scale = options.guidance_scale
    if scale is None:
        scale = 1.0 if text.is_empty else model.default_guidance
    conditioning = model.condition(text, scale, num_samples, (options.cross_attention_kwargs or {}).get("scale"))

    # 3. Bring the maps to the size that the network works at, sample, decode
    tiling = model.tiling(options, task.size) if tiling is None else tiling
    size = model.working_size(task.size, options.processing_size, tiled=tiling is not None)
    if isinstance(options.generator, list):
        if len(options.generator) not in (rows, rows * num_samples):
            raise ShapeError(f"got {len(options.generator)} generators for {rows} pictures; pass one each, or a single one")
        repeats = rows * num_samples // len(options.generator)  # of one for each picture; else there is one for each sample
        options = replace(options, generator=[g for g in options.generator for _ in range(repeats)])
    codec = model.codec(tiling, options.conventions.decode)
    maps = model.decode(denoise(model, task.resized(size), codec, conditioning, options, scale, tiling), codec)
    return {name: value.unflatten(0, (rows, num_samples)) for name, value in maps.items()}


def sample_once(
    model: JointModel, task: Task, prompt: str | list[str] | None, options: SamplingOptions, tiling: Tiling | None = None
) -> dict[str, Tensor]:
    """One sample of a task's maps at the size the network works at, (B, c, h, w). Raises: as ``sample_maps``."""
    return {name: value[:, 0] for name, value in sample_maps(model, task, prompt, options, tiling=tiling).items()}


def count_rows(task: Task, prompt: str | list[str] | None, options: SamplingOptions) -> int:
    """The number of pictures that a run samples: one for each prompt, or of the task's."""
    if options.prompt_embeds is not None:
        return len(options.prompt_embeds)
    return len(prompt) if isinstance(prompt, list) else task.batch or 1


def prompt_of(prompt: str | list[str] | None, options: SamplingOptions) -> Prompt:
    """The prompt with the texts among the options. Raises: ShapeError."""
    return Prompt(
        prompt=prompt,
        negative_prompt=options.negative_prompt,
        prompt_embeds=options.prompt_embeds,
        negative_prompt_embeds=options.negative_prompt_embeds,
        pooled_prompt_embeds=options.pooled_prompt_embeds,
        negative_pooled_prompt_embeds=options.negative_pooled_prompt_embeds,
        clip_skip=options.clip_skip,
    )


def result_of(model: JointModel, task: Task, sampled: Mapping[str, Tensor], uncertainty: Mapping[str, Tensor] | None = None) -> Result:
    """Sampled maps of any size at the task's, with its known pixels in them, seen by the safety checker if there is one.

    Raises: NonFiniteError.
    """
    maps, flags = {name: value.contiguous() for name, value in task.composite(sampled).items()}, None
    for name, value in maps.items():
        if not bool(value.isfinite().all()):
            raise NonFiniteError(
                f"got {name} with {int((~value.isfinite()).sum())} values that are NaN or infinite from this run; "
                "load the model in bfloat16 or float32, or lower the guidance scale"
            )
    if model.safety_checker is not None and model.feature_extractor is not None:
        maps, flags = censor(maps, model.safety_checker, model.feature_extractor, model.device)
    return Result(maps, {name: resize_smooth(value, task.size) for name, value in (uncertainty or {}).items()}, flags)


def check_task(model: JointModel, task: Task, options: SamplingOptions) -> None:
    """Raises: UnknownNameError, ShapeError, RangeError."""
    if options.output_type == "latent":
        raise RangeError("got output_type 'latent'; tasks return maps, with the known pixels in them: expected pil, np or pt")
    names = ", ".join(model.modalities)
    unknown = set(task.maps) - set(model.modalities)
    if unknown:
        raise UnknownNameError(f"got {', '.join(sorted(unknown))} for a model of {names}; leave it out")
    missing = set(model.modalities) - set(task.maps)
    if task.strength < 1 and missing:
        raise UnknownNameError(f"got no {', '.join(sorted(missing))} to start from; a strength below 1 needs a map of each of {names}")
    if not task.asks_any_of(model.modalities):
        raise ShapeError("got masks without a hole: nothing is asked; expected white (1) where something is to be made anew")


@torch.no_grad()
def denoise(
    model: JointModel,
    task: Task,
    codec: Codec,
    conditioning: Conditioning,
    options: SamplingOptions,
    guidance_scale: float,
    tiling: Tiling | None = None,
) -> Tensor:
    """Sample a task whose size the model takes; as many rows as prompts -> state (B, M, C, h, w).

    The scheduler is copied for the run: runs at once do not touch each other.
    Raises: RangeError, ShapeError.
    """
    # 1. The run's noise levels
    batch, scheduler, speed = len(conditioning.text.embeds), copy.deepcopy(model.scheduler), options.chosen_speed
    if speed is not None and model.default_steps is not None:
        raise RangeError(f"got a speed for a model that was distilled to {model.default_steps} steps, and has its own; leave it out")
    if speed is not None:
        scheduler = speed.scheduler_for(scheduler, has_latents=model.vae is not None)
    canvas = (task.size[0] // codec.factor, task.size[1] // codec.factor)
    steps = set_timesteps(scheduler, options.steps_of(model.default_steps), model.device, options.timesteps, options.sigmas, canvas)
    if task.strength < 1:
        steps = shortened(scheduler, steps, task.strength)
    process, guide = ScheduledProcess(scheduler), RunGuide(guidance_scale)
    model.watch.begin_run(len(steps), guide)

    # 2. The initial state, and what of it is known
    noise = initial_state_noise(model, batch, canvas, options)
    known = encode_known(model, task, codec, batch, options) if task.maps else None
    if known is None or task.strength == 1:
        x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    else:
        x = process.add_noise(known.latents, noise, steps[:1].expand(noise.shape[:2]))
    if known is not None and not task.has_known_pixels:
        known = None  # maps were only the start
    if known is None and options.num_resamples > 1:
        raise RangeError(
            f"got {options.num_resamples} resamples of each step where nothing is known; they are for known maps: leave it out"
        )

    # 3. The conditioning: smaller maps for upscaling bases, known maps for networks that read them
    if model.network.config.low_res_channels:
        conditioning = replace(conditioning, low_res=read_low_res(model, task, codec, batch, options))
    elif options.low_res is not None:
        raise ShapeError("got low_res for a base that does not upscale; leave it out")
    guided = of_a_window(model, conditioning, codec, options, guide)
    denoiser = guided
    if tiling is not None:
        hold = 1 if speed is None else speed.period
        denoiser = Tiled(guided, tiling, options.generator, options.conventions.count_whole_steps, hold)
    before_step = None if options.before_step is None else options.before_step(StepTools(guided, codec, scheduler))
    if model.network.takes_known:
        conditioning = replace(conditioning, known=known)

    # 4. Denoise
    report = model.watch.report_step(guide, options)
    with seeded(scheduler, options.generator, noise.shape[1]), model.watch.progress_bar(total=len(steps)) as bar:

        def on_step(call: int, t: Tensor, x: Tensor, conditioning: Conditioning) -> tuple[Tensor, Conditioning]:
            bar.update()
            return (x, conditioning) if report is None else report(call, t, x, conditioning)

        return sample(
            denoiser,
            x,
            conditioning,
            scheduler=scheduler,
            timesteps=steps,
            generator=options.generator,
            eta=options.eta,
            blend=None if known is None else Blend(known, scheduler, process, options.conventions.known_noise(noise, options.generator)),
            travel=None if known is None else TimeTravel(scheduler, options.num_resamples, options.generator),
            before_step=before_step,
            on_step=on_step,
            should_stop=lambda: model.watch.interrupt,
        )


def of_a_window(model: JointModel, conditioning: Conditioning, codec: Codec, options: SamplingOptions, guide: RunGuide) -> Denoiser:
    """The network, known modalities shown clean if it was trained so, with guidance."""
    speed = options.chosen_speed
    shortcuts = Shortcuts(speed, model.modalities) if speed is not None and speed.takes_over else None
    denoiser: Denoiser = JointDenoiser(model.network, codec.factor, options.cross_attention_kwargs, shortcuts)
    if model.network.config.has_independent_timesteps:
        denoiser = CleanKnown(denoiser)
    if conditioning.negative is not None:
        denoiser = Guided(denoiser, lambda: guide.scale, options.guidance_rescale, None if speed is None else speed.is_guided)
    return denoiser


def initial_state_noise(model: JointModel, batch: int, canvas: tuple[int, int], options: SamplingOptions) -> Tensor:
    """Standard noise (B, M, C, *canvas): ``options.latents``, or drawn. Raises: ShapeError."""
    shape = (batch, len(model.modalities), model.network.in_channels, *canvas)
    if isinstance(options.generator, list) and len(options.generator) != batch:
        raise ShapeError(f"got {len(options.generator)} generators for {batch} images; pass one each, or a single one")
    if options.latents is None:
        return draw_like(torch.empty(shape, device=model.device, dtype=model.network.dtype), options.generator)
    flat = (shape[0], shape[1] * shape[2], *shape[3:])
    if tuple(options.latents.shape) != flat:
        raise ShapeError(f"got latents of shape {tuple(options.latents.shape)}; expected (B, M * C, h, w) = {flat}")
    return options.latents.to(model.device, model.network.dtype).unflatten(1, shape[1:3])


def encode_known(model: JointModel, task: Task, codec: Codec, batch: int, options: SamplingOptions) -> Known:
    """A task's maps and masks as latents; each row serves as many prompts as there are for it.

    Modalities without a map are asked everywhere.
    """
    canvas = (task.size[0] // codec.factor, task.size[1] // codec.factor)
    latents, asked = [], []
    for name in model.modalities:
        if name in task.maps:
            rows = codec.encode(name, task.maps[name])
            mask = options.conventions.shrink_mask(task.asked[name], canvas)
        else:
            rows = torch.zeros(1, model.network.in_channels, *canvas)
            mask = torch.ones(1, 1, *canvas, dtype=torch.bool)
        latents.append(_spread(rows.to(model.device, model.network.dtype), batch))
        asked.append(_spread(mask.to(model.device), batch))
    return Known(torch.stack(latents, 1), torch.stack(asked, 1))


def _spread(rows: Tensor, batch: int) -> Tensor:
    """Rows (R, ...) -> (batch, ...), each batch / R times."""
    return rows.repeat_interleave(batch // len(rows), 0)
