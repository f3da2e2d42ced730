"""The only denoising loop, and how a known part is held in it without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from jointnet.diffusion.schedule import ScheduledProcess
from jointnet.errors import RangeError
from jointnet.sampling.schedulers import Generators, stands_between_levels, step_scheduler
from jointnet.types import Conditioning, Denoiser, Known, Step

BeforeStep = Callable[[Tensor, Step, Conditioning], Tensor]
"""(state, step, conditioning) -> the state that the denoiser and the scheduler start from, such as after a gradient step on it."""

OnStep = Callable[[int, Tensor, Tensor, Conditioning], tuple[Tensor, Conditioning]]
"""(number of the call, timestep, state after it, conditioning) -> the state and the conditioning to go on with."""

DrawNoise = Callable[[Tensor], Tensor]
"""State -> noise of its shape."""


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
    before_step: BeforeStep | None = None,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Denoise a state that stands at the first timestep's noise level.

    Shapes: x (B, M, C, H, W), scaled as the scheduler wants -> (B, M, C, H, W).
    One step: ``before_step`` may move the state; the denoiser (with all its wrappers) predicts; the scheduler steps all modalities at
    once; ``blend`` puts the known part back at the next timestep's noise level. ``travel`` repeats each step but the last.
    """
    for call, step in enumerate(run_steps(scheduler, timesteps, x)):
        if should_stop():
            break
        t, repeats = timesteps[call], 1 if travel is None or step.t_next is None else travel.repeats
        for repeat in range(repeats):
            if repeat and travel is not None and step.t_next is not None:
                x = travel.back(x, step.t_next, t)
            if before_step is not None:
                x = before_step(x, step, conditioning)
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            prediction = denoiser(scaled, step, conditioning)
            x = step_scheduler(scheduler, prediction, t, x, generator=generator, eta=eta)
            if blend is not None:
                x = blend(x, step.t_next)
        if on_step is not None:
            x, conditioning = on_step(call, t, x, conditioning)
    return x


def run_steps(scheduler: Any, timesteps: Tensor, x: Tensor) -> Iterator[Step]:
    """The steps of a run on a state x (B, M, ...). A solver of second order looks twice at each noise level but the first."""
    order = getattr(scheduler, "order", 1)
    count = (len(timesteps) + order - 1) // order
    for call, t in enumerate(timesteps):
        t_next = timesteps[call + 1] if call + 1 < len(timesteps) else None
        yield Step((call + order - 1) // order, count, t.expand(x.shape[:2]), t_next)


@dataclass(frozen=True)
class Blend:
    """Replaces the known part of a state by the known latents noised to the state's own level, clean at the end.

    Attributes:
        process: the run's forward process, as its scheduler scales states.
        draw_noise: of every step's own: fresh noise, or always the same.
    Source: Lugmayr et al. (2022), Eq. 8; Sec. 4.1.
    """

    known: Known
    scheduler: Any
    process: ScheduledProcess
    draw_noise: DrawNoise

    def __call__(self, x: Tensor, t: Tensor | None) -> Tensor:
        """x (B, M, C, H, W) as it stands before the step at timestep t; None: after the last step."""
        if t is not None and stands_between_levels(self.scheduler):
            return x
        held = self.known.latents.to(x)
        if t is not None:
            held = self.process.add_noise(held, self.draw_noise(x).to(x), t.expand(x.shape[:2]))
        return torch.where(self.known.asked.to(x.device), x, held)


@dataclass(frozen=True)
class TimeTravel:
    """Each step is done ``repeats`` times: between them the state goes back to the step's own noise level.

    Raises: RangeError for a scheduler other than DDIM and DDPM: others carry state from step to step.
    Source: Lugmayr et al. (2022), Sec. 4.2.
    """

    scheduler: Any
    repeats: int = 1
    generator: Generators = None

    def __post_init__(self) -> None:
        name = type(self.scheduler).__name__
        if self.repeats < 1:
            raise RangeError(f"got {self.repeats} repeats of a step; expected at least 1")
        if self.repeats > 1 and name not in ("DDIMScheduler", "DDPMScheduler"):
            raise RangeError(f"got {name} with {self.repeats} repeats of a step; expected DDIMScheduler or DDPMScheduler, or 1 repeat")

    def back(self, x: Tensor, t_low: Tensor, t_high: Tensor) -> Tensor:
        """Noise a state from timestep t_low up to t_high: x_h = sqrt(a_h / a_l) x_l + sqrt(1 - a_h / a_l) eps."""
        alpha_bar = self.scheduler.alphas_cumprod.to(x.device, torch.float32)
        ratio = alpha_bar[t_high] / alpha_bar[t_low]
        return (ratio.sqrt() * x + (1 - ratio).sqrt() * draw_like(x, self.generator)).to(x.dtype)


@dataclass(frozen=True)
class CleanKnown:
    """Shows a network trained with independent timesteps the wholly known modalities as they are: clean, at timestep 0.

    It is the innermost wrapper, and looks at each row's mask: a tile that lies inside the known part is shown clean, as in training.
    Clean latents are neither noised nor scaled; their predictions are not used.
    """

    denoiser: Denoiser

    def __call__(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        known = conditioning.known
        if known is None:
            return self.denoiser(x, step, conditioning)
        clean = ~known.asked.to(x.device).any(4).any(3).any(2)  # (B, M)
        shown = torch.where(clean[:, :, None, None, None], known.latents.to(x), x)
        at_zero = replace(step, t=step.t.masked_fill(clean, 0))
        return self.denoiser(shown, at_zero, conditioning)


def draw_like(x: Tensor, generator: Generators) -> Tensor:
    """Gaussian noise of a state's shape."""
    return randn_tensor(tuple(x.shape), generator=generator, device=x.device, dtype=x.dtype)


def fresh_noise(_initial: Tensor, generator: Generators) -> DrawNoise:
    """Noise drawn anew at each step."""
    return lambda x: draw_like(x, generator)


def initial_noise(initial: Tensor, _generator: Generators) -> DrawNoise:
    """The noise that the run started from, at each step."""
    return lambda _: initial
