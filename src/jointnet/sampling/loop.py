"""The only denoising loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jointnet.sampling.known import Blend, TimeTravel
from jointnet.sampling.steps import Generators, step
from jointnet.types import Conditioning, Denoiser

OnStep = Callable[[int, Tensor, Tensor, Conditioning], tuple[Tensor, Conditioning]]
"""(step index, timestep, state after the step, conditioning) -> the state and the conditioning to go on with."""


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    x: Tensor,
    conditioning: Conditioning,
    *,
    scheduler: Any,
    timesteps: Tensor,
    generator: Generators = None,
    eta: float = 0.0,
    blend: Blend | None = None,
    travel: TimeTravel | None = None,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Denoise a state that stands at the first timestep's noise level.

    Shapes: x (B, M, C, H, W), scaled as the scheduler wants -> (B, M, C, H, W).
    One step: the denoiser (with whatever wraps it) predicts, the scheduler steps all modalities at once, and the known part is put
    back at the next timestep's noise level (``blend``); ``travel`` repeats each step but the last.
    """
    for index, t in enumerate(timesteps):
        if should_stop():
            break
        t_next = timesteps[index + 1] if index + 1 < len(timesteps) else None
        repeats = 1 if travel is None or t_next is None else travel.repeats
        for repeat in range(repeats):
            if repeat and travel is not None and t_next is not None:
                x = travel.back(x, t_next, t)
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            prediction = denoiser(scaled, t.expand(x.shape[:2]), conditioning)
            x = step(scheduler, prediction, t, x, generator=generator, eta=eta)
            if blend is not None:
                x = blend(x, t_next)
        if on_step is not None:
            x, conditioning = on_step(index, t, x, conditioning)
    return x
