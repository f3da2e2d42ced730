"""The only denoising loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Denoise a state of initial noise.

    Shapes: x (B, M, C, H, W), already scaled to the scheduler's first sigma -> (B, M, C, H, W).
    One step: the denoiser (with whatever wraps it) predicts, then the scheduler steps all modalities at once.
    """
    for index, t in enumerate(timesteps):
        if should_stop():
            break
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        prediction = denoiser(scaled, t.expand(x.shape[:2]), conditioning)
        x = step(scheduler, prediction, t, x, generator=generator, eta=eta)
        if on_step is not None:
            x, conditioning = on_step(index, t, x, conditioning)
    return x
