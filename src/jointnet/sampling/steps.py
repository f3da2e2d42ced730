"""diffusers' schedulers on the 5-D state.

Most of them step (B, M, C, H, W) to the same numbers as (B * M, C, H, W). Where they do not (learned variance splits axis 1, dynamic
thresholding takes one quantile over all but the batch, add_noise wants one timestep a row) M is folded into the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jointnet.errors import RangeError

Generators = torch.Generator | list[torch.Generator] | None


def set_timesteps(
    scheduler: Any,
    num_steps: int,
    device: torch.device | str,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Tensor:
    """Prepare a scheduler for a run; returns its timesteps (a scheduler of second order has more than num_steps).

    Raises: RangeError if the scheduler takes no custom timesteps or sigmas.
    """
    custom = {k: v for k, v in {"timesteps": timesteps, "sigmas": sigmas}.items() if v is not None}
    missing = set(custom) - set(inspect.signature(scheduler.set_timesteps).parameters)
    if missing or len(custom) > 1:
        raise RangeError(f"got custom {' and '.join(custom)}; {type(scheduler).__name__} takes at most one, and not {missing or 'both'}")
    if custom:
        scheduler.set_timesteps(device=device, **custom)
    else:
        scheduler.set_timesteps(num_steps, device=device)
    return scheduler.timesteps


def shortened(scheduler: Any, timesteps: Tensor, strength: float) -> Tensor:
    """The last int(N * strength) of N steps, at least one, for a state noised to the first of them (Meng et al., 2022)."""
    count = scheduler.num_inference_steps
    first = (count - max(int(count * strength), 1)) * getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return timesteps[first:]


def step(scheduler: Any, prediction: Tensor, t: Tensor, x: Tensor, *, generator: Generators = None, eta: float = 0.0) -> Tensor:
    """One scheduler step. Shapes: prediction (B, M, C or 2 C, H, W), t (), x (B, M, C, H, W) -> (B, M, C, H, W)."""
    takes = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {"eta": eta} if "eta" in takes else {}
    folded = needs_folding(scheduler) or isinstance(generator, list)
    if "generator" in takes:
        extra["generator"] = [g for g in generator for _ in range(x.shape[1])] if isinstance(generator, list) else generator
    if not folded:
        return scheduler.step(prediction, t, x, **extra, return_dict=False)[0]
    stepped = scheduler.step(prediction.flatten(0, 1), t, x.flatten(0, 1), **extra, return_dict=False)[0]  # (B * M, C, H, W)
    return stepped.unflatten(0, x.shape[:2])


def add_noise(scheduler: Any, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Noise clean latents to each modality's own timestep. Shapes: x0, noise (B, M, C, H, W), t (B, M) -> (B, M, C, H, W)."""
    return scheduler.add_noise(x0.flatten(0, 1), noise.flatten(0, 1), t.flatten()).unflatten(0, x0.shape[:2])


def needs_folding(scheduler: Any) -> bool:
    """Whether a scheduler treats axis 1 as channels."""
    config = scheduler.config
    return bool(config.get("thresholding")) or config.get("variance_type") in ("learned", "learned_range")
