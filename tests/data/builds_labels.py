"""Labelers for the tests of builds."""

from __future__ import annotations

import torch
from torch import Tensor


def towards_camera(rgb: Tensor) -> Tensor:
    """Normals that point to the camera."""
    return torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(len(rgb), 3, *rgb.shape[-2:])


def flat_at_first(rgb: Tensor) -> Tensor:
    """Depth, constant where the picture has no blue."""
    return rgb[:, :1] * (rgb[:, 2:].mean((1, 2, 3), keepdim=True) > 0.01)


def broken(rgb: Tensor) -> Tensor:
    """A function with a mistake."""
    return rgb[:, :1] @ torch.ones(3, 5000)


def too_large(rgb: Tensor) -> Tensor:
    """More memory than there is."""
    return rgb[:, :1] + torch.empty(10**15)


class Unmade:
    """A class that cannot be made."""

    def __init__(self, modality: str, weights: str | None) -> None:
        raise KeyError(f"{modality}\nand {weights}")


FAILS = {
    "broken": "the labeler of depth fails at 3 pictures of 40 x ",
    "too_large": "free memory, or choose another device or smaller pictures, then start the command again",
    "Unmade": "the labeler of depth fails: KeyError: ",
}
"""Labelers that fail, and words of what is printed."""
