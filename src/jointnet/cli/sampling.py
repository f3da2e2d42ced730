"""What the sampling commands share: their options, the model they open, what they write about a run."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointnet.cli.arguments import SEED, add_device_argument, chosen_device, number, whole_number
from jointnet.errors import MissingPackageError, UnknownWordsWarning, UnsupportedBaseError

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.pipelines.joint_net import JointNetPipeline


_OF_LATENTS = {"clip_sample": False, "set_alpha_to_one": False}
"""What a scheduler needs to know of latents, where the one it takes the place of does not say."""

_UNSAID = {"skip_prk_steps": True}
"""What Stable Diffusion's own configuration says to PNDM: without it no run can begin in the middle."""

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Name on the command line -> diffusers' class; in Python any other serves as well."""


def add_sampling_arguments(parser: argparse.ArgumentParser, *, model: str = "demo") -> None:
    """Options every sampling command takes."""
    parser.add_argument("--model", default=model, metavar="DIR", help=f"model folder, or the name of a bundled model (default: {model})")
    base = "--model is a checkpoint of the authors' release (folder or zip) on this base (folder or hub id)"
    parser.add_argument("--base", metavar="BASE", help=base)
    parser.add_argument("--seed", type=SEED, default=0, help="the same seed gives the same files (default: 0)")
    parser.add_argument("--steps", type=whole_number(1, 1000), default=50, help="denoising steps (default: 50)")
    parser.add_argument("--guidance", type=number(0, 100), help="1 is off (default: the model's own, and 1 without a prompt)")
    parser.add_argument("--guidance-rescale", type=number(0, 1), default=0.0, help="Lin et al.'s rescale (default: 0)")
    scheduler = "one of diffusers' (default: the model's own; with --preset release ddim)"
    parser.add_argument("--scheduler", choices=tuple(SCHEDULERS), help=scheduler)
    preset = "conventions where the paper and the authors' code differ: docs/conventions.md (default: paper)"
    parser.add_argument("--preset", choices=("paper", "release"), default="paper", help=preset)
    low_res = "what the first stage wrote (its output folder), for bases that upscale"
    parser.add_argument("--low-res", type=Path, metavar="DIR", help=low_res)
    add_device_argument(parser)
    parser.add_argument("--negative", default="", metavar="PROMPT", help="what to steer away from")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """How a picture of any size is brought to the network."""
    parser.add_argument(
        "--processing-size", type=whole_number(1, 65536), metavar="PX", help="long side at which the network works (default: the model's)"
    )
    parser.add_argument("--tiled", action="store_true", help="work at full size, in tiles of the model's size")
    parser.add_argument("--wrap", action="store_true", help="left and right edge are neighbours (with --tiled)")
    add_stride_argument(parser)
    add_resample_argument(parser)


def add_resample_argument(parser: argparse.ArgumentParser) -> None:
    """Time travel."""
    resample = "repeat each step N times while something is known (RePaint), for models without masked input"
    parser.add_argument("--resample", type=whole_number(1, 100), default=1, metavar="N", help=resample)


def add_stride_argument(parser: argparse.ArgumentParser) -> None:
    """How far apart tiles lie."""
    stride = "distance of neighbouring tiles in pixels (default: half a tile)"
    parser.add_argument("--stride", type=whole_number(1, 65536), metavar="PX", help=stride)


def open_model(options: argparse.Namespace, prompt: str) -> JointNetPipeline:
    """The model of a command, quiet unless a person looks on; warns of words that a small model never saw. Raises: JointNetError."""
    from jointnet.cli.output import prepare_folder
    from jointnet.loading import load, vocabulary
    from jointnet.pipelines.joint_net import JointNetPipeline

    prepare_folder(options.output)
    device = chosen_device(options.device)
    if options.base is not None:
        pipeline = JointNetPipeline.from_release(options.model, options.base)
    else:
        pipeline = load(options.model)
        warn_of_unknown_words(f"{prompt} {options.negative}", vocabulary(options.model))
    name = options.scheduler or ("ddim" if options.preset == "release" else None)
    if name is not None:
        pipeline.scheduler = scheduler_like(pipeline, name)
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipeline.to(device)


def scheduler_like(pipeline: JointNetPipeline, name: str) -> Any:
    """A scheduler by its name on the command line, with the noise levels and the prediction type of the model's own.

    Raises: UnsupportedBaseError, MissingPackageError.
    """
    import diffusers

    from jointnet.checkpoints.folder import first_line

    own = type(pipeline.scheduler).__name__
    if not hasattr(pipeline.scheduler, "alphas_cumprod"):
        raise UnsupportedBaseError(f"got a model with {own}, whose noise levels {SCHEDULERS[name]} cannot take over; leave --scheduler out")
    kind = getattr(diffusers, SCHEDULERS[name])
    takes = inspect.signature(kind.__init__).parameters
    unsaid = {**_UNSAID, **({} if pipeline.vae is None else _OF_LATENTS)}
    unsaid = {key: value for key, value in unsaid.items() if key in takes}
    try:
        return kind.from_config({**unsaid, **pipeline.scheduler.config})
    except ImportError as error:
        raise MissingPackageError(f"got --scheduler {name}, which needs a package that is missing: {first_line(error)}") from error


def guidance_of(pipeline: JointNetPipeline, options: argparse.Namespace, prompt: str) -> float:
    """What was asked; by default the model's own scale with a prompt or a negative one, off without."""
    if options.guidance is not None:
        return options.guidance
    return pipeline.config.default_guidance if prompt or options.negative else 1.0


def first_of(output: Any) -> dict[str, Tensor]:
    """The maps of an output's first picture, (c, H, W) each, where files are written from."""
    return {name: maps[0].cpu() for name, maps in {"rgb": output.images, **output.dense}.items()}


def task_options(pipeline: JointNetPipeline, options: argparse.Namespace, prompt: str, seed: int) -> dict[str, Any]:
    """What the pipeline's task methods take from the command line."""
    import torch

    from jointnet.pipelines.conventions import PRESETS

    chosen: dict[str, Any] = {
        "num_inference_steps": options.steps,
        "guidance_scale": guidance_of(pipeline, options, prompt),
        "guidance_rescale": options.guidance_rescale,
        "negative_prompt": options.negative or None,
        "conventions": PRESETS[options.preset],
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pt",
    }
    if options.low_res is not None:
        chosen["low_res"] = read_low_res(options.low_res, pipeline.modalities)
    if getattr(options, "stride", None) is not None:
        chosen["stride"] = options.stride
    if hasattr(options, "resample"):
        chosen["num_resamples"] = options.resample
    if hasattr(options, "tiled"):
        if options.processing_size is not None:
            chosen["processing_size"] = options.processing_size
        if options.tiled or options.wrap:
            chosen |= {"tiled": True, "wraps": options.wrap}
    return chosen


def read_low_res(folder: Path, modalities: Sequence[str]) -> dict[str, Any]:
    """The maps of an output folder, (c, h, w) each. Raises: InputFileError."""
    from jointnet.modalities.read import read_map, read_picture

    return {name: read_picture(folder / "image.png") if name == "rgb" else read_map(folder / f"{name}.npy", name) for name in modalities}


_SAID = (
    "run",
    "output",
    "command",
    "prompt",
    "negative",
    "seed",
    "model",
    "base",
    "steps",
    "guidance",
    "guidance_rescale",
    "preset",
    "scheduler",
)
"""What of a command's options result.json says at its top, or what changes nothing in the result."""


def describe_run(pipeline: JointNetPipeline, options: argparse.Namespace, prompt: str, seed: int, **more: Any) -> dict[str, Any]:
    """What result.json says besides the time and the files."""
    from importlib.metadata import version

    from jointnet.pipelines.output import meanings

    given = {name: value for name, value in vars(options).items() if name not in _SAID and value is not None}
    other = {name: value if isinstance(value, str | int | float) else str(value) for name, value in given.items()}
    return {
        "command": options.command,
        "prompt": prompt,
        "negative_prompt": options.negative,
        "seed": seed,
        "model": str(options.model),
        "base": options.base,
        "scheduler": type(pipeline.scheduler).__name__,
        "steps": options.steps,
        "guidance": guidance_of(pipeline, options, prompt),
        "guidance_rescale": options.guidance_rescale,
        "preset": options.preset,
        "meaning": meanings(pipeline.modalities),
        "depth_near_m": pipeline.config.depth_near_m,
        "options": other,
        **more,
        "versions": {name: version(name) for name in ("jointnet", "torch", "diffusers", "transformers")},
    }


def warn_of_unknown_words(prompt: str, vocabulary: dict[str, list[str]] | None) -> None:
    """Name the words a small model never saw, and what it knows."""
    if vocabulary is None:
        return
    known = {word for phrases in vocabulary.values() for phrase in phrases for word in phrase.lower().split()}
    unknown = list(dict.fromkeys(w for w in re.findall(r"[^\W_]+", prompt.lower()) if w not in known))
    if unknown:
        lists = "; ".join(f"{kind}: {', '.join(phrases)}" for kind, phrases in vocabulary.items())
        warnings.warn(f"this model never saw the words {', '.join(unknown)}; it knows {lists}", UnknownWordsWarning, stacklevel=2)
