"""What a labeler is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from jointnet.errors import ShapeError


@runtime_checkable
class Labeler(Protocol):
    """A frozen network, or any callable, that estimates the maps of one modality from pictures (Sec. 3.3)."""

    @property
    def modality(self) -> str:
        """The modality of its maps."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs; pictures may come from anywhere."""
        ...

    def to(self, device: torch.device | str) -> Labeler:
        """Return the labeler on another device."""
        ...

    def __call__(self, rgb: Tensor) -> Tensor:
        """Estimate maps. Each picture's map depends on this picture only.

        Shapes: (B, 3, H, W) in [0, 1] -> (B, c, H, W) in the range of the modality, on the picture's device.
        """
        ...

    def fingerprint(self) -> str:
        """Return a text that changes with the weights and with all that changes the maps."""
        ...


def check_pictures(rgb: Tensor) -> None:
    """Raises: ShapeError unless they are (B, 3, H, W)."""
    if rgb.ndim != 4 or rgb.shape[1] != 3:
        raise ShapeError(f"got pictures of shape {tuple(rgb.shape)}; expected (B, 3, H, W) in [0, 1]")
