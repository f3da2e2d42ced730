"""How a run samples, whatever its task: one frozen value for calls, tasks, command line and result.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from jointnet.errors import RangeError
from jointnet.sampling.speed import SPEED_NAMES, Speed, get_speed

if TYPE_CHECKING:  # the command line reads the fields of this file, and needs no torch for its help
    from torch import Tensor

    from jointnet.modalities.read import MapInput
    from jointnet.sampling.schedulers import Generators
    from jointnet.sampling.tiling import Tiling
    from jointnet.tasks.conventions import Conventions
    from jointnet.tasks.output import JointNetPipelineOutput

    SmallMaps = JointNetPipelineOutput | Mapping[str, MapInput]
    StepEnd = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
DEFAULT_STEPS = 50
DEFAULT_NOISE_LEVEL = 250
"""The timestep that diffusers noises DeepFloyd-IF's enlarged picture to."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """How a field is spelled on the command line.

    Attributes:
        name: with its dashes; panel: the group it is listed under.
        low, high: range of a number; metavar: what its value is called in the help.
        default: the default in words, where it is none of the option's values.
    """

    name: str
    help: str
    panel: str
    low: float | None = None
    high: float | None = None
    metavar: str | None = None
    default: str | None = None


def _flag(name: str, help_: str, panel: str = "Sampling", **more: Any) -> dict[str, Flag]:
    return {"flag": Flag(name=name, help=help_, panel=panel, **more)}


def _paper() -> Conventions:
    from jointnet.tasks.conventions import PAPER

    return PAPER


_LARGEST_SIDE_PX = 65536


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """All that can be chosen of a run besides its maps and its prompt. Names as in StableDiffusionPipeline where it has them.

    Attributes:
        num_inference_steps, timesteps, sigmas, eta, generator: the solver's; without a number of steps, the speed's, or else the model's
            own (``config.default_steps``).
        speed: exact, a preset's name, or a Speed: which solver, and what of each step is computed.
        guidance_scale: None: the model's own (``config.default_guidance``), and in a task with an empty prompt 1; 1 or less is off.
        guidance_rescale: in [0, 1] (Lin et al., 2023).
        latents: initial noise (B, M * C, h, w), unscaled.
        num_resamples: how often each step is repeated while something is known (RePaint's time travel; DDIM and DDPM only).
        processing_size: long side in pixels at which the network works on a picture; None: the model's own size.
        tiled: work at full size, in tiles of the model's size; a Tiling changes how; None: where wraps or a stride ask for it.
        wraps: left and right edge are neighbours, in tiles.
        stride: distance of neighbouring tiles in pixels; None: half a tile.
        negative_prompt, prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds, clip_skip,
            cross_attention_kwargs: as in diffusers.
        conventions: PAPER, or RELEASE to do as the authors' code does.
        low_res, noise_level: for upscaling bases (DeepFloyd-IF stage II): the smaller maps by modality or the first stage's output, and
            the timestep they are noised to.
        before_step: ``denoise.StepTools`` of the run -> a hook (state, step, conditioning) -> the state that the step starts from.
        callback_on_step_end, callback_on_step_end_tensor_inputs: as in diffusers: called as (pipeline, step, timestep, tensors), it may
            return changed tensors.
        output_type: "pil", "np", "pt", or for generation "latent".
    Raises: RangeError, UnknownNameError.
    """

    num_inference_steps: int | None = field(
        default=None,
        metadata=_flag("--steps", "denoising steps", low=1, high=1000, default=f"{DEFAULT_STEPS}, or the model's or the speed's own"),
    )
    speed: str | Speed = field(
        default="exact",
        metadata=_flag(
            "--speed", f"how much of each step is computed: {', '.join(SPEED_NAMES)} (the last two are not measured yet)", metavar="NAME"
        ),
    )
    timesteps: list[int] | None = None
    sigmas: list[float] | None = None
    guidance_scale: float | None = field(
        default=None,
        metadata=_flag(
            "--guidance", "classifier-free guidance; 1 is off", low=0, high=100, default="the model's own, and 1 without a prompt"
        ),
    )
    guidance_rescale: float = field(default=0.0, metadata=_flag("--guidance-rescale", "Lin et al.'s rescale", low=0, high=1))
    eta: float = 0.0
    generator: Generators = None
    latents: Tensor | None = None
    num_resamples: int = field(
        default=1,
        metadata=_flag(
            "--resample",
            "repeat each step N times while something is known (RePaint), for models without masked input",
            "Known parts",
            low=1,
            high=100,
            metavar="N",
        ),
    )
    processing_size: int | None = field(
        default=None,
        metadata=_flag(
            "--processing-size",
            "long side at which the network works",
            "Canvas",
            low=1,
            high=_LARGEST_SIDE_PX,
            metavar="PX",
            default="the model's size",
        ),
    )
    tiled: bool | Tiling | None = field(
        default=None, metadata=_flag("--tiled", "work at full size, in tiles of the model's size", "Canvas")
    )
    wraps: bool = field(default=False, metadata=_flag("--wrap", "left and right edge are neighbours: work at full size in tiles", "Canvas"))
    stride: int | None = field(
        default=None,
        metadata=_flag(
            "--stride",
            "distance of neighbouring tiles in pixels",
            "Tiles",
            low=1,
            high=_LARGEST_SIDE_PX,
            metavar="PX",
            default="half a tile",
        ),
    )
    negative_prompt: str | list[str] | None = field(
        default=None, metadata=_flag("--negative", "prompt to steer away from", "Prompt", metavar="PROMPT")
    )
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    clip_skip: int | None = None
    cross_attention_kwargs: dict[str, Any] | None = None
    conventions: Conventions = field(default_factory=_paper)
    low_res: SmallMaps | None = None
    noise_level: int = DEFAULT_NOISE_LEVEL
    before_step: Callable[[Any], Any] | None = None
    callback_on_step_end: StepEnd | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    output_type: str = "pil"

    def __post_init__(self) -> None:
        _ = self.chosen_speed
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise RangeError(f"got {self.num_inference_steps} steps; expected at least 1")
        generators = self.generator if isinstance(self.generator, list | tuple) else [self.generator]
        if not all(g is None or hasattr(g, "initial_seed") for g in generators):
            raise RangeError(f"got generator {self.generator!r}; expected torch.Generator().manual_seed(5), or a list of such")
        if self.output_type not in OUTPUT_TYPES:
            raise RangeError(f"got output_type {self.output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}")

    @property
    def chosen_speed(self) -> Speed | None:
        """None where every step computes everything. Raises: UnknownNameError."""
        if self.speed == "exact":
            return None
        return get_speed(self.speed) if isinstance(self.speed, str) else self.speed

    def steps_of(self, own: int | None) -> int:
        """The number of steps that was asked for, or the speed's, or a model's own."""
        if self.num_inference_steps is not None:
            return self.num_inference_steps
        return (own or DEFAULT_STEPS) if self.chosen_speed is None else self.chosen_speed.steps

    @classmethod
    def of(cls, **options: Any) -> SamplingOptions:
        """Options by name; None means the default. Raises: TypeError for a name that is none, as Python does; RangeError."""
        unknown = sorted(set(options) - OPTION_NAMES)
        if unknown:
            raise TypeError(f"got {', '.join(unknown)}; sampling takes {', '.join(f.name for f in fields(cls))}")
        return cls(**{name: value for name, value in options.items() if value is not None})

    def as_facts(self) -> dict[str, Any]:
        """The options that a JSON file can hold and that were chosen, by name."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)} | {"num_inference_steps": self.steps_of(None)}
        facts = {name: value for name, value in plain.items() if isinstance(value, str | int | float)}
        return {**facts, "conventions": self.conventions.name}


OPTION_NAMES = frozenset(f.name for f in fields(SamplingOptions))
