"""The random part of a training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jointnet.diffusion.schedule import ForwardProcess, NoiseLevels, independent_levels, shared_levels
from jointnet.training.masks import draw_masks


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


def concat_draws(draws: Sequence[Draws]) -> Draws:
    """Draws of several batches as one; all of them have the same parts."""

    def joined(values: Sequence[Tensor | None]) -> Tensor | None:
        tensors = [value for value in values if value is not None]
        return torch.cat(tensors) if tensors else None

    return Draws(
        NoiseLevels(torch.cat([d.levels.t for d in draws]), torch.cat([d.levels.is_clean for d in draws])),
        torch.cat([d.noise for d in draws]),
        joined([d.asked for d in draws]),
        joined([d.low_res_t for d in draws]),
        joined([d.low_res_noise for d in draws]),
    )


@dataclass(frozen=True, kw_only=True)
class DrawRule:
    """How the random part of a step is drawn. It holds no network: the workers of a loader draw by it.

    Attributes:
        process: the base's.
        low_res_process: that of the smaller maps of an upscaling base; None for other bases.
        noise_offset: size of the constant added to the noise, see ``draw_noise``.
        has_masked_input, has_independent_timesteps: as the network's config.
    """

    process: ForwardProcess
    low_res_process: ForwardProcess | None = None
    noise_offset: float = 0.0
    has_masked_input: bool = False
    has_independent_timesteps: bool = False

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Draws:
        """Draw a step for clean states of a shape (B, M, C, H, W).

        With both masks and independent timesteps, wholly known modalities are clean and all others share a level.
        """
        batch, modalities, _, *size = shape
        asked = None
        if not self.has_masked_input:
            levels_of = independent_levels if self.has_independent_timesteps else shared_levels
            levels = levels_of(self.process, batch, modalities, generator)
        else:
            levels = shared_levels(self.process, batch, modalities, generator)
            asked = draw_masks(batch, modalities, (size[0], size[1]), generator)
            if self.has_independent_timesteps:
                levels = levels.with_clean(~asked.flatten(2).any(2))
        noise = draw_noise(shape, self.noise_offset, generator)
        if self.low_res_process is None:
            return Draws(levels, noise, asked)
        low_res_t = self.low_res_process.draw_timesteps(batch, generator)
        return Draws(levels, noise, asked, low_res_t, torch.randn(*shape, generator=generator))


def draw_noise(shape: Sequence[int], offset: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise (B, M, C, H, W), plus ``offset`` times one draw a sample, modality and channel (Sec. 3.4)."""
    noise = torch.randn(*shape, generator=generator)
    return noise + offset * torch.randn(*shape[:3], 1, 1, generator=generator)
