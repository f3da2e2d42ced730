"""Maps <-> the state: every modality goes through the base's own RGB autoencoder (Sec. 3.2), or as it is where the base has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jointnet.modalities.modality import Modality
from jointnet.windows import Windows


@dataclass(frozen=True, kw_only=True)
class CodecTiles:
    """Encode and decode in square windows that fade into each other, for canvases larger than the autoencoder was made for.

    Attributes:
        window: side in latent pixels; stride is 3/4, the fade 1/4 of it.
        wraps: whether left and right edges are neighbours; then no seam is left between them.
    """

    window: int
    wraps: bool = False

    def on(self, canvas: Sequence[int], scale: int) -> Windows:
        """The windows on a canvas given in latent pixels, all lengths times ``scale``."""
        quarter = max(self.window // 4, 1)
        return Windows(
            canvas=(canvas[0] * scale, canvas[1] * scale),
            window=self.window * scale,
            stride=(self.window - quarter) * scale,
            decay=quarter * scale,
            wraps=self.wraps,
        )


ReadMaps = Callable[[Modality, Tensor], Tensor]
"""(modality, decoded pictures (B, 3, H, W), float32) -> maps (B, c, H, W)."""


class Codec(Protocol):
    """Between maps and the state.

    Attributes:
        factor: pixels that one of the state's stands for, along each side.
        channels: C of the state.
    """

    factor: int
    channels: int

    def encode(self, modality: str, maps: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Maps (B, c, H, W) of one modality -> (B, C, H / factor, W / factor). Raises: ShapeError, RangeError."""
        ...

    def decode(self, modality: str, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> maps (B, c, h * factor, w * factor), float32."""
        ...

    def fingerprint(self) -> str:
        """Changes with whatever encode() depends on."""
        ...
