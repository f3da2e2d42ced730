"""diffusers' schedulers by short names; this file needs no torch."""

from __future__ import annotations

import inspect
from typing import Any

from jointnet.errors import MissingPackageError, UnsupportedBaseError

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-sde": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Name on the command line -> diffusers' class; in Python any other serves as well."""

_OF_A_NAME: dict[str, dict[str, str]] = {"dpm++-sde": {"algorithm_type": "sde-dpmsolver++"}}
"""Settings that tell a name from others of its class; without any, a class's own."""

_OF_LATENTS = {"clip_sample": False, "set_alpha_to_one": False}
"""What a scheduler needs to know of latents, where the configuration of the one it replaces leaves it open."""

_OF_STABLE_DIFFUSION = {"skip_prk_steps": True}
"""What Stable Diffusion's own configuration sets for PNDM: without it no run can begin in the middle."""


def scheduler_like(own: Any, name: str, *, has_latents: bool = True) -> Any:
    """Return a scheduler by name, with the noise levels and the prediction type of a model's own.

    Raises: UnsupportedBaseError, MissingPackageError.
    """
    import diffusers

    if not hasattr(own, "alphas_cumprod"):
        raise UnsupportedBaseError(
            f"got a model with {type(own).__name__}, whose noise levels {SCHEDULERS[name]} cannot take over; leave the scheduler out"
        )
    kind = getattr(diffusers, SCHEDULERS[name])
    taken = inspect.signature(kind.__init__).parameters
    defaults = {**_OF_STABLE_DIFFUSION, **(_OF_LATENTS if has_latents else {})}
    defaults = {key: value for key, value in defaults.items() if key in taken}
    try:
        return kind.from_config({**defaults, **own.config, **_OF_A_NAME.get(name, {})})
    except ImportError as error:
        needed = str(error).strip().splitlines()[0]
        raise MissingPackageError(f"got the scheduler {name}, which needs a package that is missing: {needed}") from error
