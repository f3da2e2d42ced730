"""The loss of the joint network (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jointnet.models.joint_unet import JointUNet
from jointnet.types import PredictionType, Text


@dataclass(frozen=True)
class NoiseSchedule:
    """A base's forward process: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps; alpha_bar (T,)."""

    alpha_bar: Tensor
    prediction_type: PredictionType

    @classmethod
    def of(cls, scheduler: Any) -> NoiseSchedule:
        """Read it off a diffusers scheduler."""
        return cls(scheduler.alphas_cumprod, PredictionType(scheduler.config.prediction_type))

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        """Uniform timesteps (B,)."""
        return torch.randint(len(self.alpha_bar), (batch,), generator=generator)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, what the network should predict there). Shapes: x0, noise (B, M, C, H, W), t (B, M)."""
        a = self.alpha_bar[t][:, :, None, None, None]
        return a.sqrt() * x0 + (1 - a).sqrt() * noise, self.prediction_type.target(x0, noise, a)


def draw_noise(x0: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise like x0 (B, M, C, H, W), plus ``offset`` times one draw a sample, modality and channel (Sec. 3.4)."""
    noise = torch.randn(x0.shape, generator=generator)
    return noise + offset * torch.randn(*x0.shape[:3], 1, 1, generator=generator)


def joint_loss(
    joint_unet: JointUNet, x0: Tensor, text: Text, schedule: NoiseSchedule, *, noise_offset: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """L = E[ |eps_x - eps_theta(x_t, y_t, c, t)|^2 + |eps_y - eps_phi(y_t, x_t, c, t)|^2 ]  (Eq. 1)

    The squared norms are means over channels and pixels, their sum runs over the modalities; all share t. A base with learned variance
    is trained on its prediction alone.

    Shapes: x0 (B, M, C, H, W). Returns "loss" and one entry a modality.
    """
    t = schedule.draw_timesteps(len(x0), generator)[:, None].expand(-1, x0.shape[1])  # (B, M)
    noise = draw_noise(x0, noise_offset, generator)
    x_t, target = schedule.add_noise(x0, noise, t)
    predicted = joint_unet(x_t, t, text.embeds, added_cond_kwargs=text.added).sample[:, :, : x0.shape[2]]
    errors = (predicted.float() - target).square().mean((0, 2, 3, 4))  # (M,)
    return {"loss": errors.sum(), **dict(zip(joint_unet.modalities, errors.unbind(), strict=True))}
