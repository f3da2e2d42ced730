"""From a task to a denoised state: the one way every method of the pipeline goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jointnet.errors import RangeError, ShapeError
from jointnet.modalities.codec import Codec
from jointnet.modalities.resize import resize_mask, resize_mask_nearest
from jointnet.models.joint_unet import JointUNet
from jointnet.models.upscaling import DEFAULT_NOISE_LEVEL
from jointnet.pipelines.conventions import PAPER, Conventions
from jointnet.pipelines.low_res import SmallMaps, read_low_res
from jointnet.pipelines.task import Task
from jointnet.sampling.guidance import Guided
from jointnet.sampling.known import Blend, CleanKnown, TimeTravel, draw_like
from jointnet.sampling.loop import sample
from jointnet.sampling.steps import Generators, add_noise, seeded, set_timesteps, shortened
from jointnet.sampling.tiling import Tiled, Tiling
from jointnet.types import Conditioning, Denoiser, Known, Text, size_ids

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline

StepEnd = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a run samples, whatever its task.

    Attributes:
        num_inference_steps, timesteps, sigmas, eta, generator, guidance_scale, guidance_rescale, cross_attention_kwargs,
            callback_on_step_end, callback_on_step_end_tensor_inputs: as in StableDiffusionPipeline.
        latents: initial noise (B, M * C, h, w), unscaled.
        num_resamples: how often each step is repeated while something is known (RePaint's time travel; DDIM and DDPM only).
        tiling: denoise in tiles of the model's size.
        conventions: PAPER, or RELEASE to do as the authors' code does.
        low_res, noise_level: for upscaling bases: the smaller maps, and the timestep they are noised to.
    """

    num_inference_steps: int = 50
    timesteps: list[int] | None = None
    sigmas: list[float] | None = None
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    eta: float = 0.0
    generator: Generators = None
    latents: Tensor | None = None
    num_resamples: int = 1
    tiling: Tiling | None = None
    conventions: Conventions = PAPER
    low_res: SmallMaps | None = None
    noise_level: int = DEFAULT_NOISE_LEVEL
    cross_attention_kwargs: dict[str, Any] | None = None
    callback_on_step_end: StepEnd | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise RangeError(f"got {self.num_inference_steps} steps; expected at least 1")


@dataclass
class Network:
    """The joint network as a denoiser; ``factor`` is the pixels that one of the state's stands for."""

    joint_unet: JointUNet
    factor: int
    cross_attention_kwargs: dict[str, Any] | None = None

    def __call__(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        added = conditioning.text.added
        if self.joint_unet.reads_sizes:  # what it is given is the picture: a tile is told its own size
            size = (x.shape[-2] * self.factor, x.shape[-1] * self.factor)
            added = {**added, "time_ids": size_ids(size).to(x).expand(len(x), -1)}
        return self.joint_unet(
            x.to(self.joint_unet.dtype),
            t,
            conditioning.text.embeds,
            known=conditioning.known,
            low_res=conditioning.low_res,
            added_cond_kwargs=added,
            cross_attention_kwargs=self.cross_attention_kwargs,
            return_dict=False,
        )[0]


@torch.no_grad()
def solve(pipeline: JointNetPipeline, task: Task, codec: Codec, conditioning: Conditioning, sampling: Sampling) -> Tensor:
    """Sample a task whose size the model takes; as many rows as prompts -> state (B, M, C, h, w)."""
    batch, scheduler = len(conditioning.text.embeds), pipeline.scheduler
    steps = set_timesteps(scheduler, sampling.num_inference_steps, pipeline._execution_device, sampling.timesteps, sampling.sigmas)
    if task.strength < 1:
        steps = shortened(scheduler, steps, task.strength)
    pipeline._num_timesteps, pipeline._guidance_scale, pipeline._interrupt = len(steps), sampling.guidance_scale, False

    noise = initial_noise(pipeline, batch, task.size, sampling)
    known = encode_known(pipeline, task, codec, batch, sampling.conventions) if task.maps else None
    if known is None or task.strength == 1:
        x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    else:
        x = add_noise(scheduler, known.latents, noise, steps[:1].expand(noise.shape[:2]))
    if known is not None and not task.knows:
        known = None  # maps were only the start
    if known is None and sampling.num_resamples > 1:
        raise RangeError(
            f"got {sampling.num_resamples} resamples of each step where nothing is known; they are for known maps: leave it out"
        )

    low_res = read_low_res(pipeline, task, codec, batch, sampling.low_res, sampling.noise_level, sampling.generator)
    conditioning = replace(conditioning, low_res=low_res)
    kept_noise = None if sampling.conventions.has_fresh_noise else noise
    wrapped = wrap(pipeline, conditioning, steps, sampling)
    if pipeline.joint_unet.takes_known:
        conditioning = replace(conditioning, known=known)
    with seeded(scheduler, sampling.generator, noise.shape[1]), pipeline.progress_bar(total=len(steps)) as bar:  # pyright: ignore[reportCallIssue] - diffusers decorates it without types
        return sample(
            wrapped,
            x,
            conditioning,
            scheduler=scheduler,
            timesteps=steps,
            generator=sampling.generator,
            eta=sampling.eta,
            blend=None if known is None else Blend(known, scheduler, sampling.generator, kept_noise),
            travel=None if known is None else TimeTravel(scheduler, sampling.num_resamples, sampling.generator),
            on_step=StepReport(pipeline, bar, sampling),
            should_stop=lambda: pipeline.interrupt,
        )


def wrap(pipeline: JointNetPipeline, conditioning: Conditioning, steps: Tensor, sampling: Sampling) -> Denoiser:
    """The network, known modalities shown clean if it was trained so, with guidance, in tiles."""
    denoiser: Denoiser = Network(pipeline.joint_unet, pipeline.codec.factor, sampling.cross_attention_kwargs)
    if pipeline.joint_unet.config.has_independent_timesteps:
        denoiser = CleanKnown(denoiser)
    if conditioning.negative is not None:
        denoiser = Guided(denoiser, lambda: pipeline.guidance_scale, sampling.guidance_rescale)
    if sampling.tiling is not None:
        denoiser = Tiled(denoiser, sampling.tiling, steps, sampling.generator, sampling.conventions.num_extra_whole_steps)
    return denoiser


def initial_noise(pipeline: JointNetPipeline, batch: int, size: tuple[int, int], sampling: Sampling) -> Tensor:
    """Standard noise (B, M, C, h, w), the given or a drawn one. Raises: ShapeError."""
    factor, device, dtype = pipeline.codec.factor, pipeline._execution_device, pipeline.joint_unet.dtype
    shape = (batch, len(pipeline.modalities), pipeline.joint_unet.in_channels, size[0] // factor, size[1] // factor)
    if isinstance(sampling.generator, list) and len(sampling.generator) != batch:
        raise ShapeError(f"got {len(sampling.generator)} generators for {batch} images; pass one each, or a single one")
    if sampling.latents is None:
        return draw_like(torch.empty(shape, device=device, dtype=dtype), sampling.generator)
    flat = (shape[0], shape[1] * shape[2], *shape[3:])
    if tuple(sampling.latents.shape) != flat:
        raise ShapeError(f"got latents of shape {tuple(sampling.latents.shape)}; expected (B, M * C, h, w) = {flat}")
    return sampling.latents.to(device, dtype).unflatten(1, shape[1:3])


def encode_known(pipeline: JointNetPipeline, task: Task, codec: Codec, batch: int, conventions: Conventions) -> Known:
    """A task's maps and masks as latents.

    Modalities without a map are asked everywhere. Each row serves as many prompts as there are for it.
    """
    latent_size = (task.size[0] // codec.factor, task.size[1] // codec.factor)
    device, dtype = pipeline._execution_device, pipeline.joint_unet.dtype
    shrink = resize_mask_nearest if conventions.has_nearest_masks else resize_mask
    latents, masks = [], []
    for name in pipeline.modalities:
        if name in task.maps:
            rows = codec.encode(name, task.maps[name])
            mask = shrink(task.asked[name], latent_size)
        else:
            rows = torch.zeros(1, pipeline.joint_unet.in_channels, *latent_size)
            mask = torch.ones(1, 1, *latent_size)
        latents.append(_spread(rows.to(device, dtype), batch))
        masks.append(_spread(mask.to(device, dtype), batch))
    return Known(torch.stack(latents, 1), torch.stack(masks, 1))


def _spread(rows: Tensor, batch: int) -> Tensor:
    """Rows (R, ...) -> (batch, ...), each batch / R times."""
    return rows.repeat_interleave(batch // len(rows), 0)


class StepReport:
    """Moves the progress bar and runs the user's callback after each step.

    A callback may change the tensors it is given, and the pipeline's ``_guidance_scale``, as diffusers' own callbacks do.
    """

    def __init__(self, pipeline: JointNetPipeline, bar: Any, sampling: Sampling) -> None:
        self.pipeline, self.bar = pipeline, bar
        self.callback = sampling.callback_on_step_end
        self.inputs = tensors_shown(self.callback, sampling.callback_on_step_end_tensor_inputs)

    def __call__(self, index: int, t: Tensor, x: Tensor, conditioning: Conditioning) -> tuple[Tensor, Conditioning]:
        self.bar.update()
        if self.callback is None:
            return x, conditioning
        text, negative = conditioning.text, conditioning.negative
        tensors: dict[str, Any] = {"latents": x.flatten(1, 2), **_shown("", text), **_shown("negative_", negative), **self._added(x, text)}
        given = {name: tensors[name] for name in self.inputs}
        made = self.callback(self.pipeline, index, t, given) or {}
        tensors.update({"pooled_prompt_embeds": made["add_text_embeds"], **made} if "add_text_embeds" in made else made)
        changed = replace(
            conditioning, text=_changed("", text, tensors), negative=None if negative is None else _changed("negative_", negative, tensors)
        )
        return tensors["latents"].unflatten(1, x.shape[1:3]), changed

    def _added(self, x: Tensor, text: Text) -> dict[str, Tensor | None]:
        """What SDXL is told besides, by the names that diffusers' callbacks for it use; its sizes are shown, not taken back."""
        if not self.pipeline.joint_unet.reads_sizes:
            return {"add_text_embeds": None, "add_time_ids": None}
        height, width = (side * self.pipeline.codec.factor for side in x.shape[-2:])
        return {"add_text_embeds": text.added["text_embeds"], "add_time_ids": size_ids((height, width)).to(x).expand(len(x), -1)}


def tensors_shown(callback: StepEnd | None, asked: Sequence[str]) -> Sequence[str]:
    """The tensors a callback is given: those it names itself, as diffusers' own do, or those that were asked for."""
    return getattr(callback, "tensor_inputs", asked)


def _shown(prefix: str, text: Text | None) -> dict[str, Tensor | None]:
    """A text as a callback gets it, by diffusers' names."""
    embeds, pooled = (None, None) if text is None else (text.embeds, text.added.get("text_embeds"))
    return {f"{prefix}prompt_embeds": embeds, f"{prefix}pooled_prompt_embeds": pooled}


def _changed(prefix: str, text: Text, tensors: dict[str, Any]) -> Text:
    """The text as a callback left it."""
    pooled: Tensor = tensors[f"{prefix}pooled_prompt_embeds"]
    return Text(tensors[f"{prefix}prompt_embeds"], dict.fromkeys(text.added, pooled))
