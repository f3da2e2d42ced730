"""Holding what is known while the rest is sampled: two ways that need no training for masks, both values beside the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from jointnet.errors import RangeError
from jointnet.sampling.steps import Generators, add_noise, stands_between_levels
from jointnet.types import Conditioning, Denoiser, Known


@dataclass(frozen=True)
class Blend:
    """Replaces the known part of a state by the known latents noised to the state's own level, clean at the end.

    ``noise`` (B, M, C, H, W) is used at every step if it is given (the release does so with the initial noise); otherwise each step
    draws its own from the generator.
    Source: Lugmayr et al. (2022), Eq. 8; Sec. 4.1.
    """

    known: Known
    scheduler: Any
    generator: Generators = None
    noise: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor | None) -> Tensor:
        """x (B, M, C, H, W) as it stands before the step at timestep t; None: after the last step."""
        if t is not None and stands_between_levels(self.scheduler):
            return x
        held = self.known.latents.to(x)
        if t is not None:
            noise = draw_like(x, self.generator) if self.noise is None else self.noise
            held = add_noise(self.scheduler, held, noise.to(x), t.expand(x.shape[:2]))
        return torch.where(self.known.mask.to(x.device) < 0.5, held, x)


@dataclass(frozen=True)
class CleanKnown:
    """Shows a network trained with independent timesteps the wholly known modalities as they are: clean, at timestep 0.

    It is the innermost wrapper, and looks at each row's mask: a tile that lies inside what is known is shown clean, as in training. Clean
    latents are neither noised nor scaled; what is predicted for them is not used.
    """

    denoiser: Denoiser

    def __call__(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        known = conditioning.known
        if known is None:
            return self.denoiser(x, t, conditioning)
        clean = known.is_whole.to(x.device)  # (B, M)
        shown = torch.where(clean[:, :, None, None, None], known.latents.to(x), x)
        return self.denoiser(shown, t.masked_fill(clean, 0), conditioning)


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


def draw_like(x: Tensor, generator: Generators) -> Tensor:
    """Gaussian noise of a state's shape."""
    return randn_tensor(tuple(x.shape), generator=generator, device=x.device, dtype=x.dtype)
