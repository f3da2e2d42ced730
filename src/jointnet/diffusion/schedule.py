"""The one forward process: noisy states, training targets and noise levels, for the loss and for the sampler.

Discrete (epsilon, v, sample) and flow matching, each in closed form for training; ``ScheduledProcess`` is the sampler's form of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp
from typing import Any, Protocol

import torch
from torch import Tensor

from jointnet.errors import ShapeError, UnsupportedBaseError


class ForwardProcess(Protocol):
    """How noise enters a clean state. Timesteps ``t`` are (B, M), or (B,) where all modalities of a sample share one."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor, /) -> Tensor:
        """Return x_t in float32. Shapes: x0, noise (B, M, C, H, W) -> (B, M, C, H, W)."""
        ...

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, /) -> Tensor:
        """Return what the network should predict at x_t. Shapes as those of add_noise."""
        ...

    def draw_timesteps(self, count: int, generator: torch.Generator, /) -> Tensor:
        """Draw training timesteps (count,) on the generator's device."""
        ...


TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda x0, noise, alpha_bar: noise,  # noqa: ARG005 - all have the same arguments
    "v_prediction": lambda x0, noise, alpha_bar: alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0,
    "sample": lambda x0, noise, alpha_bar: x0,  # noqa: ARG005 - as above
}
"""diffusers' name of a prediction type -> (x0, noise, alpha_bar) -> the target. Source: Salimans & Ho (2022), Sec. 4 and Appendix D."""


@dataclass(frozen=True)
class DiscreteProcess:
    """Variance preserving: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, for the integers t in [0, T).

    ``alpha_bar`` (T,); ``prediction_type``: a key of TARGETS.
    Source: Ho et al. (2020), Eq. 4.
    """

    alpha_bar: Tensor
    prediction_type: str = "epsilon"

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self._alpha_bar_at(t, x0)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return TARGETS[self.prediction_type](x0, noise, self._alpha_bar_at(t, x0))

    def clean(self, predicted: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the clean state that a prediction at x_t means: ``target`` the other way round. Shapes as those of add_noise."""
        a = self._alpha_bar_at(t, x)
        if self.prediction_type == "sample":
            return predicted
        if self.prediction_type == "v_prediction":
            return a.sqrt() * x - (1 - a).sqrt() * predicted
        return (x - (1 - a).sqrt() * predicted) / a.sqrt()

    def move(self, x0: Tensor, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Return x_t moved to another timestep, if its clean state is x0 (Song et al., 2021, Eq. 12 without noise). Shapes as before."""
        a, a_next = self._alpha_bar_at(t, x), self._alpha_bar_at(t_next, x)
        return a_next.sqrt() * x0 + (1 - a_next).sqrt() * (x - a.sqrt() * x0) / (1 - a).sqrt()

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform integers."""
        return torch.randint(len(self.alpha_bar), (count,), generator=generator)

    def _alpha_bar_at(self, t: Tensor, like: Tensor) -> Tensor:
        alpha_bar = self.alpha_bar.to(like.device, torch.float32)
        return _over_maps(alpha_bar[t.to(like.device)], like)


@dataclass(frozen=True)
class FlowProcess:
    """Flow matching: x_t = (1 - sigma) x_0 + sigma eps with sigma = t / num_timesteps in [0, 1]; the target is eps - x_0.

    ``shift`` moves the drawn levels towards noise: sigma' = shift sigma / (1 + (shift - 1) sigma).
    Source: Esser et al. (2024), Sec. 3 (rectified flow) and Eq. 23 (shift).
    """

    num_timesteps: int = 1000
    shift: float = 1.0

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        sigma = _over_maps(t.to(x0.device, torch.float32) / self.num_timesteps, x0)
        return (1 - sigma) * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the same at every level
        return noise - x0

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform sigma in (0, 1], shifted; as timesteps, which need not be whole."""
        sigma = 1 - torch.rand(count, generator=generator)
        return self.num_timesteps * self.shift * sigma / (1 + (self.shift - 1) * sigma)


@dataclass(frozen=True)
class ScheduledProcess:
    """The sampler's form: noise at the levels of a diffusers scheduler, after its ``set_timesteps``.

    Equals the closed forms for schedulers whose state is x_t; those that step x_t / sqrt(alpha_bar_t) (Euler, Heun, LMS) get that.
    """

    scheduler: Any

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noise each modality to its own timestep. Shapes: x0, noise (B, M, C, H, W), t (B, M) -> (B, M, C, H, W), of x0's type.

        Computed in float32: in bfloat16 the last levels, where alpha_bar is nearly 1, would have no noise at all.
        """
        rows, noise_rows = x0.flatten(0, 1).float(), noise.flatten(0, 1).float()  # (B * M, C, H, W)
        if hasattr(self.scheduler, "add_noise"):
            x_t = self.scheduler.add_noise(rows, noise_rows, t.flatten())
        else:  # the name in flow matching
            x_t = self.scheduler.scale_noise(rows, t.flatten(), noise_rows)
        return x_t.unflatten(0, x0.shape[:2]).to(x0.dtype)


def forward_process(scheduler: Any, size: tuple[int, int] | None = None) -> DiscreteProcess | FlowProcess:
    """Read a base's forward process from its diffusers scheduler.

    ``size``: height and width of the latents, for flow matching whose shift depends on them.
    Raises: UnsupportedBaseError for a scheduler of another process (EDM) or prediction; ShapeError if the size is missing.
    """
    config = scheduler.config
    predicted = config.get("prediction_type")
    uses_flow = config.get("use_flow_sigmas", False)
    if uses_flow and predicted == "flow_prediction":  # solvers that take several processes: UniPC, DPM-Solver, DEIS
        return FlowProcess(config["num_train_timesteps"], _flow_shift(config, config["flow_shift"], size))
    if hasattr(scheduler, "scale_noise") and "shift" in config and not config.get("invert_sigmas", False):
        return FlowProcess(config["num_train_timesteps"], _flow_shift(config, config["shift"], size))
    if hasattr(scheduler, "alphas_cumprod") and predicted in TARGETS and not uses_flow:
        return DiscreteProcess(scheduler.alphas_cumprod, predicted)
    raise UnsupportedBaseError(
        f"got a base with {type(scheduler).__name__} ({predicted}); expected a scheduler with betas that predicts {', '.join(TARGETS)}, "
        "or one of flow matching"
    )


def _flow_shift(config: Mapping[str, Any], shift: float, size: tuple[int, int] | None) -> float:
    if not config.get("use_dynamic_shifting", False):
        return shift
    if size is None:
        raise ShapeError("got no size for a scheduler with dynamic shifting; pass the height and width of the latents")
    mu = flow_shift_mu(config, *size)
    return mu if config.get("time_shift_type", "exponential") == "linear" else exp(mu)


def flow_shift_mu(scheduler_config: Mapping[str, Any], height: int, width: int) -> float:
    """Return ``mu`` of ``set_timesteps(..., mu=mu)`` for a scheduler with ``use_dynamic_shifting``; height and width of the latents.

    Linear in the number of 2 x 2 patches. Source: ``calculate_shift`` of diffusers' Flux and Stable Diffusion 3 pipelines.
    """
    fewest, most = scheduler_config.get("base_image_seq_len", 256), scheduler_config.get("max_image_seq_len", 4096)
    low, high = scheduler_config.get("base_shift", 0.5), scheduler_config.get("max_shift", 1.15)
    slope = (high - low) / (most - fewest)
    return (height // 2) * (width // 2) * slope + (low - slope * fewest)


@dataclass(frozen=True)
class NoiseLevels:
    """Timesteps ``t`` (B, M), and ``is_clean`` (B, M): modalities without noise, at timestep 0, which the loss leaves out."""

    t: Tensor
    is_clean: Tensor

    def with_clean(self, is_clean: Tensor) -> NoiseLevels:
        """The same levels with other clean modalities (B, M)."""
        return NoiseLevels(self.t.masked_fill(is_clean, 0), is_clean)


def shared_levels(process: ForwardProcess, batch: int, modalities: int, generator: torch.Generator) -> NoiseLevels:
    """Draw one timestep a sample, for all of its modalities, as in Eq. 1."""
    t = process.draw_timesteps(batch, generator)[:, None].expand(-1, modalities)
    return NoiseLevels(t, torch.zeros_like(t, dtype=torch.bool))


def independent_levels(process: ForwardProcess, batch: int, modalities: int, generator: torch.Generator) -> NoiseLevels:
    """Draw a quarter of the samples as in Eq. 1, a quarter with a timestep for each modality, half with some modalities clean.

    Source: the kinds are those of Bao et al. (2023, UniDiffuser): joint, in between, conditional.
    """
    t = process.draw_timesteps(batch * modalities, generator).view(batch, modalities)
    kind = torch.rand(batch, 1, generator=generator)
    t = torch.where(kind < 0.25, t[:, :1], t)
    order = torch.rand(batch, modalities, generator=generator).argsort(1).argsort(1)
    count = torch.randint(1, max(modalities, 2), (batch, 1), generator=generator)
    is_clean = (kind >= 0.5) & (order < count) & (modalities > 1)
    return NoiseLevels(t, torch.zeros_like(is_clean)).with_clean(is_clean)


def _over_maps(values: Tensor, like: Tensor) -> Tensor:
    """(B,) or (B, M) -> (B or B, M, 1, 1, 1), to be multiplied with (B, M, C, H, W)."""
    return values.view(*values.shape, *[1] * (like.ndim - values.ndim))
