"""diffusers' schedulers on the 5-D state.

Most of them step (B, M, C, H, W) to the same numbers as (B * M, C, H, W). Where they do not (learned variance splits axis 1, dynamic
thresholding takes one quantile over all but the batch) M is folded into the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jointnet.diffusion.schedule import flow_shift_mu
from jointnet.errors import RangeError

Generators = torch.Generator | list[torch.Generator] | None


def seeded_generator(seed: int) -> torch.Generator:
    """Return a generator on the CPU whose draws depend on all bits of a seed in [0, 2**63).

    torch's generator keeps the lower 32 bits only, so that larger seeds are mixed into 32; smaller ones are taken as they are.
    """
    return torch.Generator().manual_seed(seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0]))


def set_timesteps(
    scheduler: Any,
    num_steps: int,
    device: torch.device | str,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    canvas: tuple[int, int] | None = None,
) -> Tensor:
    """Prepare a scheduler for a run; returns its timesteps (a scheduler of second order has more than num_steps).

    ``canvas`` is the state's height and width, for flow matching schedulers whose shift depends on it.
    Raises: RangeError if the scheduler takes no custom timesteps or sigmas, or not so many steps.
    """
    custom = {k: v for k, v in {"timesteps": timesteps, "sigmas": sigmas}.items() if v is not None}
    name = type(scheduler).__name__
    missing = set(custom) - set(inspect.signature(scheduler.set_timesteps).parameters)
    if missing or len(custom) > 1:
        raise RangeError(f"got custom {' and '.join(custom)}; {name} takes at most one, and not {missing or 'both'}")
    shift = {"mu": flow_shift_mu(scheduler.config, *canvas)} if canvas and _setting(scheduler, "use_dynamic_shifting") else {}
    try:
        if custom:
            scheduler.set_timesteps(device=device, **custom, **shift)
        else:
            scheduler.set_timesteps(num_steps, device=device, **shift)
    except (ValueError, AssertionError) as error:
        raise RangeError(f"{name} refused {custom or f'{num_steps} steps'}: {error}") from error
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is not None and float(scheduler.timesteps.max()) >= len(levels):  # with an offset, as many steps as it was trained on
        raise RangeError(f"got {num_steps} steps; {name} reaches {len(levels) - 1} timesteps: expected fewer steps")
    _begin_at(scheduler, 0)
    return scheduler.timesteps


def shortened(scheduler: Any, timesteps: Tensor, strength: float) -> Tensor:
    """The last int(N * strength) of N steps, at least one, for a state noised to the first of them (Meng et al., 2022).

    Raises: RangeError for PNDM with Runge-Kutta steps, which cannot begin in the middle.
    """
    if type(scheduler).__name__ == "PNDMScheduler":
        if not scheduler.config.skip_prk_steps:
            raise RangeError("got PNDMScheduler with Runge-Kutta steps and a strength below 1; set skip_prk_steps=True or take DDIM")
        single = torch.cat([timesteps[:1], timesteps[2:]])  # its first step but one is done twice
        part = single[_first(len(single), strength) :]
        return torch.cat([part[:1], part[1:2], part[1:]])
    order = getattr(scheduler, "order", 1)  # of second order: one timestep for the first step, two for each other
    position = _first((len(timesteps) + order - 1) // order, strength) * order
    _begin_at(scheduler, position)
    return timesteps[position:]


def _first(num_steps: int, strength: float) -> int:
    return num_steps - max(int(num_steps * strength), 1)


def _begin_at(scheduler: Any, position: int) -> None:
    """Tell a scheduler its first step, so that it counts instead of searching its timesteps, which may repeat."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(position)


def step_scheduler(scheduler: Any, prediction: Tensor, t: Tensor, x: Tensor, *, generator: Generators = None, eta: float = 0.0) -> Tensor:
    """One scheduler step. Shapes: prediction (B, M, C or 2 C, H, W), t (), x (B, M, C, H, W) -> (B, M, C, H, W).

    A learned variance (the second C channels) is dropped for schedulers that have no use for it.
    """
    if not learns_variance(scheduler):
        prediction = prediction[:, :, : x.shape[2]]
    takes = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {"eta": eta} if "eta" in takes else {}
    if "order" in takes:  # LMS: never more than there are derivatives, also when it began in the middle
        extra["order"] = min(4, len(scheduler.derivatives) + 1)
    folded = needs_folding(scheduler) or isinstance(generator, list)
    if "generator" in takes:
        extra["generator"] = [g for g in generator for _ in range(x.shape[1])] if isinstance(generator, list) else generator
    if not folded:
        return scheduler.step(prediction, t, x, **extra, return_dict=False)[0]
    stepped = scheduler.step(prediction.flatten(0, 1), t, x.flatten(0, 1), **extra, return_dict=False)[0]  # (B * M, C, H, W)
    return stepped.unflatten(0, x.shape[:2])


def stands_between_levels(scheduler: Any) -> bool:
    """True in the middle of a step whose noise level is none of the scheduler's (KDPM2's, DPMSolverSDE's middle sigmas)."""
    has_middle = getattr(scheduler, "sigmas_interpol", None) is not None or hasattr(scheduler, "mid_point_sigma")
    return has_middle and not scheduler.state_in_first_order


@contextmanager
def seeded(scheduler: Any, generator: Generators, num_modalities: int) -> Iterator[None]:
    """Let schedulers that draw their noise from a tree of their own (DPMSolverSDE) take its seed from the generator.

    With a generator for each sample, each row of the folded state gets its own seed.
    """
    if getattr(scheduler, "noise_sampler_seed", 0) is not None or generator is None:
        yield
        return
    if isinstance(generator, list):
        scheduler.noise_sampler_seed = [_draw_seed(g) for g in generator for _ in range(num_modalities)]
    else:
        scheduler.noise_sampler_seed = _draw_seed(generator)
    try:
        yield
    finally:
        scheduler.noise_sampler_seed = None


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))


def needs_folding(scheduler: Any) -> bool:
    """True for a scheduler that treats axis 1 as channels."""
    return bool(_setting(scheduler, "thresholding")) or learns_variance(scheduler)


def learns_variance(scheduler: Any) -> bool:
    """True for a scheduler that takes twice the state's channels: prediction and variance."""
    return _setting(scheduler, "variance_type") in ("learned", "learned_range")


def with_fixed_variance(scheduler: Any) -> Any:
    """The scheduler, or one like it that takes no learned variance: for a network of which only the predictions were trained further."""
    if not learns_variance(scheduler):
        return scheduler
    kind = type(scheduler)
    return kind.from_config(scheduler.config, variance_type=inspect.signature(kind.__init__).parameters["variance_type"].default)


def _setting(scheduler: Any, name: str) -> Any:
    """A setting the scheduler has itself: its config also keeps those of the scheduler it was made from."""
    return scheduler.config.get(name) if name in inspect.signature(type(scheduler).__init__).parameters else None
