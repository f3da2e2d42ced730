"""Schedulers by their names on the command line."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from jointnet.errors import MissingPackageError, UnsupportedBaseError

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline

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

_OF_LATENTS = {"clip_sample": False, "set_alpha_to_one": False}
"""What a scheduler needs to know of latents, where the configuration of the one it replaces leaves it open."""

_OF_STABLE_DIFFUSION = {"skip_prk_steps": True}
"""What Stable Diffusion's own configuration sets for PNDM: without it no run can begin in the middle."""


def scheduler_like(pipeline: JointNetPipeline, name: str) -> Any:
    """Return a scheduler by name, with the noise levels and the prediction type of the model's own.

    Raises: UnsupportedBaseError, MissingPackageError.
    """
    import diffusers

    from jointnet.checkpoints.folder import first_line

    own = type(pipeline.scheduler).__name__
    if not hasattr(pipeline.scheduler, "alphas_cumprod"):
        raise UnsupportedBaseError(f"got a model with {own}, whose noise levels {SCHEDULERS[name]} cannot take over; leave --scheduler out")
    kind = getattr(diffusers, SCHEDULERS[name])
    taken = inspect.signature(kind.__init__).parameters
    defaults = {**_OF_STABLE_DIFFUSION, **({} if pipeline.vae is None else _OF_LATENTS)}
    defaults = {key: value for key, value in defaults.items() if key in taken}
    try:
        return kind.from_config({**defaults, **pipeline.scheduler.config})
    except ImportError as error:
        raise MissingPackageError(f"got --scheduler {name}, which needs a package that is missing: {first_line(error)}") from error
