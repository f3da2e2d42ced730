"""Maps <-> the state: every modality goes through the base's own RGB autoencoder (Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from jointnet.errors import ShapeError
from jointnet.modalities.modality import get_modality


class LatentCodec:
    """Encodes and decodes with an AutoencoderKL; scaling and shift factors come from its config.

    The posterior's mean is the default, so that a map has one code; a generator asks for a draw from the posterior instead.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        self.vae = vae

    @property
    def factor(self) -> int:
        """Pixels a latent pixel stands for, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """C of the state."""
        return self.vae.config.latent_channels

    def encode(self, modality: str, maps: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Maps (B, c, H, W) of one modality -> scaled latents (B, C, H / factor, W / factor).

        Raises: ShapeError if H or W is not a multiple of the factor; RangeError.
        """
        if any(side % self.factor for side in maps.shape[-2:]):
            raise ShapeError(f"got a {modality} map of {tuple(maps.shape[-2:])}; expected multiples of {self.factor}")
        images = get_modality(modality).encode(maps).to(self.vae.device, self.vae.dtype)
        images = images.contiguous(memory_format=torch.channels_last)  # faster on a CPU
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return (latents - self._shift) * self.vae.config.scaling_factor

    def decode(self, modality: str, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> maps (B, c, h * factor, w * factor), float32."""
        unscaled = latents / self.vae.config.scaling_factor + self._shift
        return get_modality(modality).decode(self.vae.decode(unscaled.to(self.vae.dtype)).sample.float())

    def encode_all(self, maps: Mapping[str, Tensor], modalities: Sequence[str]) -> Tensor:
        """One map a modality, each (B, c, H, W) -> state (B, M, C, h, w)."""
        return torch.stack([self.encode(name, maps[name]) for name in modalities], 1)

    def decode_all(self, x: Tensor, modalities: Sequence[str]) -> dict[str, Tensor]:
        """State (B, M, C, h, w) -> one map a modality."""
        return {name: self.decode(name, x[:, i]) for i, name in enumerate(modalities)}

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0
