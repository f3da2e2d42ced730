"""The loss of the joint network (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jointnet.errors import UnsupportedBaseError
from jointnet.models.joint_unet import JointUNet
from jointnet.models.upscaling import draw_low_res
from jointnet.types import Known, PredictionType, Text


@dataclass(frozen=True)
class NoiseLevels:
    """Timesteps ``t`` (B, M), and which modalities are ``clean`` (B, M): shown without noise at timestep 0, and not in the loss."""

    t: Tensor
    clean: Tensor

    def with_clean(self, clean: Tensor) -> NoiseLevels:
        """The same levels, but for the modalities that are clean (B, M)."""
        return NoiseLevels(self.t.masked_fill(clean, 0), clean)


@dataclass(frozen=True)
class NoiseSchedule:
    """A base's forward process: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps; alpha_bar (T,).

    ``low_res_alpha_bar`` is that of the smaller maps which an upscaling base reads.
    """

    alpha_bar: Tensor
    prediction_type: PredictionType
    low_res_alpha_bar: Tensor | None = None

    @classmethod
    def of(cls, scheduler: Any, low_res_scheduler: Any = None) -> NoiseSchedule:
        """Read it off diffusers schedulers: the base's, and the one it noises smaller maps with (by default the same).

        Raises: UnsupportedBaseError for a scheduler without alpha_bar (EDM, flow matching), or another prediction.
        """
        predicted = scheduler.config.get("prediction_type")
        kinds = [kind.value for kind in PredictionType]
        if not hasattr(scheduler, "alphas_cumprod") or predicted not in kinds:
            name = type(scheduler).__name__
            raise UnsupportedBaseError(
                f"got a base with {name} ({predicted}); expected a scheduler with betas that predicts {', '.join(kinds)}"
            )
        kind = PredictionType(predicted)
        return cls(scheduler.alphas_cumprod, kind, (low_res_scheduler or scheduler).alphas_cumprod)

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        """Uniform timesteps (B,)."""
        return torch.randint(len(self.alpha_bar), (batch,), generator=generator)

    def shared_levels(self, batch: int, modalities: int, generator: torch.Generator) -> NoiseLevels:
        """All modalities of a sample at one timestep, as in Eq. 1."""
        t = self.draw_timesteps(batch, generator)[:, None].expand(-1, modalities)
        return NoiseLevels(t, torch.zeros_like(t, dtype=torch.bool))

    def independent_levels(self, batch: int, modalities: int, generator: torch.Generator) -> NoiseLevels:
        """A quarter of the samples as in Eq. 1, a quarter with a timestep for each modality, half with some modalities clean.

        Source: the kinds are those of Bao et al. (2023, UniDiffuser): joint, in between, conditional.
        """
        t = self.draw_timesteps(batch * modalities, generator).view(batch, modalities)
        kind = torch.rand(batch, 1, generator=generator)
        t = torch.where(kind < 0.25, t[:, :1], t)
        order = torch.rand(batch, modalities, generator=generator).argsort(1).argsort(1)
        count = torch.randint(1, max(modalities, 2), (batch, 1), generator=generator)
        clean = (kind >= 0.5) & (order < count) & (modalities > 1)
        return NoiseLevels(t, torch.zeros_like(clean)).with_clean(clean)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, what the network should predict there). Shapes: x0, noise (B, M, C, H, W), t (B, M)."""
        a = self.alpha_bar[t][:, :, None, None, None]
        return a.sqrt() * x0 + (1 - a).sqrt() * noise, self.prediction_type.target(x0, noise, a)


def draw_noise(x0: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise like x0 (B, M, C, H, W), plus ``offset`` times one draw a sample, modality and channel (Sec. 3.4)."""
    noise = torch.randn(x0.shape, generator=generator)
    return noise + offset * torch.randn(*x0.shape[:3], 1, 1, generator=generator)


def joint_loss(
    joint_unet: JointUNet,
    x0: Tensor,
    text: Text,
    schedule: NoiseSchedule,
    *,
    noise_offset: float,
    generator: torch.Generator,
    levels: NoiseLevels | None = None,
    mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """L = E[ |eps_x - eps_theta(x_t, y_t, c, t)|^2 + |eps_y - eps_phi(y_t, x_t, c, t)|^2 ]  (Eq. 1)

    The squared norms are means over channels and pixels, their sum runs over the modalities; all share t unless ``levels`` says
    otherwise. A base with learned variance is trained on its prediction alone. With a ``mask`` (B, M, 1, H, W; 1 asked) the network also
    reads the known latents; the loss covers the whole map (Sec. 4.1).

    Shapes: x0 (B, M, C, H, W). Returns "loss" and one entry a modality.
    """
    if levels is None:
        levels = schedule.shared_levels(len(x0), x0.shape[1], generator)
    noise = draw_noise(x0, noise_offset, generator)
    x_t, target = schedule.add_noise(x0, noise, levels.t)
    x_t = torch.where(levels.clean[:, :, None, None, None], x0, x_t)
    known = None if mask is None else Known(x0, mask)
    low_res = None
    if joint_unet.config.low_res_channels:
        low_res = draw_low_res(x0, schedule.alpha_bar if schedule.low_res_alpha_bar is None else schedule.low_res_alpha_bar, generator)

    def there(value: Tensor) -> Tensor:
        return value.to(joint_unet.device)  # draws are made on the CPU, so that a seed means the same on every device

    text = text.mapped(lambda value: there(value).to(x0.dtype))  # a base's text encoder may be kept in half precision
    told = {
        "known": None if known is None else known.mapped(there),
        "low_res": None if low_res is None else low_res.mapped(there),
        "added_cond_kwargs": text.added,
    }
    predicted = joint_unet(there(x_t), there(levels.t), text.embeds, **told).sample[:, :, : x0.shape[2]]
    errors = (predicted.float() - there(target)).square().mean((2, 3, 4))  # (B, M)
    counted = there(~levels.clean).float()
    means = (errors * counted).sum(0) / counted.sum(0).clamp(min=1)  # (M,)
    return {"loss": means.sum(), **dict(zip(joint_unet.modalities, means.unbind(), strict=True))}
