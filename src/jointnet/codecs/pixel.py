"""For bases without an autoencoder (DeepFloyd-IF): the state is the maps as three channels in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from jointnet.codecs.codec import ReadMaps
from jointnet.modalities.modality import Modality, get_modality


class PixelCodec:
    """A Codec that changes no pixel."""

    factor = 1
    channels = 3

    def __init__(self, read: ReadMaps = Modality.decode) -> None:
        self.read = read

    def encode(self, modality: str, maps: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """Maps (B, c, H, W) -> (B, 3, H, W) in [-1, 1]. Raises: ShapeError, RangeError."""
        return get_modality(modality).encode(maps)

    def decode(self, modality: str, latents: Tensor) -> Tensor:
        """(B, 3, H, W) -> maps (B, c, H, W), float32."""
        return self.read(get_modality(modality), latents.float())

    def fingerprint(self) -> str:
        """The same for all: nothing is learned."""
        return type(self).__name__
