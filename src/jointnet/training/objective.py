"""The objective of a joint network (Eq. 1), and the random part of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jointnet.diffusion.schedule import ForwardProcess, NoiseLevels, independent_levels, shared_levels
from jointnet.models.joint_unet import JointUNet
from jointnet.models.upscaling import shrink_and_enlarge
from jointnet.training.masks import draw_masks
from jointnet.types import Known, LowRes, Text


@dataclass(frozen=True)
class Draws:
    """All that is random in the loss of a batch. Drawn on the CPU, so that a seed means the same on every device.

    Attributes:
        levels: timesteps and clean modalities, each (B, M).
        noise: (B, M, C, H, W).
        asked: (B, M, 1, H, W), True where a pixel is asked, for a network with masked input.
        low_res_t: timesteps (B,) of the smaller maps of an upscaling base.
        low_res_noise: (B, M, C, H, W).
    """

    levels: NoiseLevels
    noise: Tensor
    asked: Tensor | None = None
    low_res_t: Tensor | None = None
    low_res_noise: Tensor | None = None

    def take(self, rows: Tensor | slice) -> Draws:
        """Some rows of the batch."""

        def taken(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        levels = NoiseLevels(self.levels.t[rows], self.levels.is_clean[rows])
        return Draws(levels, self.noise[rows], taken(self.asked), taken(self.low_res_t), taken(self.low_res_noise))


class JointObjective(nn.Module):
    """Network and forward process as one module: DDP and FSDP2 wrap this, and the loss runs through its ``__call__``.

    The network's config is read once, here: behind a wrapper, or compiled, it is not looked at again.

    Args:
        process: the base's.
        low_res_process: that of the smaller maps of an upscaling base; by default the same.
        noise_offset: size of the constant added to the noise, see ``draw_noise``.
    """

    def __init__(
        self,
        network: JointUNet,
        process: ForwardProcess,
        *,
        low_res_process: ForwardProcess | None = None,
        noise_offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.low_res_process = low_res_process or process
        self.noise_offset = noise_offset
        self.modalities = network.modalities
        self.has_masked_input = bool(network.config.has_masked_input)
        self.has_independent_timesteps = bool(network.config.has_independent_timesteps)
        self.upscales = bool(network.config.low_res_channels)

    def draw(self, x0: Tensor, generator: torch.Generator) -> Draws:
        """Draw a step for clean states (B, M, C, H, W), of which only the shape is read.

        With both masks and independent timesteps, wholly known modalities are clean and all others share a level.
        """
        batch, modalities = x0.shape[:2]
        asked = None
        if not self.has_masked_input:
            levels_of = independent_levels if self.has_independent_timesteps else shared_levels
            levels = levels_of(self.process, batch, modalities, generator)
        else:
            levels = shared_levels(self.process, batch, modalities, generator)
            asked = draw_masks(batch, modalities, (x0.shape[-2], x0.shape[-1]), generator)
            if self.has_independent_timesteps:
                levels = levels.with_clean(~asked.flatten(2).any(2))
        noise = draw_noise(x0, self.noise_offset, generator)
        if not self.upscales:
            return Draws(levels, noise, asked)
        low_res_t = self.low_res_process.draw_timesteps(batch, generator)
        return Draws(levels, noise, asked, low_res_t, torch.randn(x0.shape, generator=generator))

    def forward(self, x0: Tensor, text: Text, draws: Draws) -> dict[str, Tensor]:
        """Return "loss" and one entry a modality.

        The squared norms of Eq. 1 are means over channels and pixels. A base with learned variance is trained on its prediction only.
        With masks the network also reads the known latents; the loss covers the whole map (Sec. 4.1).

        Shapes: x0 (B, M, C, H, W).
        """
        device = next(self.network.parameters()).device

        def moved(value: Tensor) -> Tensor:
            return value.to(device)

        x0, noise, t, is_clean = moved(x0), moved(draws.noise), moved(draws.levels.t), moved(draws.levels.is_clean)
        text = text.map(lambda value: moved(value).to(x0.dtype))  # a base's text encoder may be kept in half precision
        x_t = torch.where(is_clean[:, :, None, None, None], x0, self.process.add_noise(x0, noise, t))
        predicted = self.network(
            x_t,
            t,
            text.embeds,
            known=None if draws.asked is None else Known(x0, moved(draws.asked)),
            low_res=self._low_res(x0, draws),
            added_cond_kwargs=text.added,
        ).sample[:, :, : x0.shape[2]]  # (B, M, C, H, W)

        # L = E[ |eps_x - eps_theta(x_t, y_t, c, t)|^2 + |eps_y - eps_phi(y_t, x_t, c, t)|^2 ]  (Eq. 1), of modalities that are not clean
        errors = (predicted.float() - self.process.target(x0, noise, t)).square().mean((2, 3, 4))  # (B, M)
        is_counted = (~is_clean).float()
        means = (errors * is_counted).sum(0) / _mean_counts(is_counted)  # (M,)
        return {"loss": means.sum(), **dict(zip(self.modalities, means.unbind(), strict=True))}

    def _low_res(self, x0: Tensor, draws: Draws) -> LowRes | None:
        if draws.low_res_t is None or draws.low_res_noise is None:
            return None
        t, noise = draws.low_res_t.to(x0.device), draws.low_res_noise.to(x0.device)
        return LowRes(self.low_res_process.add_noise(shrink_and_enlarge(x0), noise, t).to(x0.dtype), t)


def draw_noise(x0: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise like x0 (B, M, C, H, W), plus ``offset`` times one draw a sample, modality and channel (Sec. 3.4)."""
    noise = torch.randn(x0.shape, generator=generator)
    return noise + offset * torch.randn(*x0.shape[:3], 1, 1, generator=generator)


def _mean_counts(is_counted: Tensor) -> Tensor:
    """Samples (M,) that count, of (B, M) ones and zeros; of several processes the mean, at least one sample in all.

    DDP and FSDP2 average over processes. So the average is the loss of the whole batch, however many samples count in each process.
    """
    counts = is_counted.sum(0)
    if not dist.is_available() or not dist.is_initialized():
        return counts.clamp(min=1)
    dist.all_reduce(counts)
    return counts.clamp(min=1) / dist.get_world_size()
