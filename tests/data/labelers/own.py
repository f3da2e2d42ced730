"""Labelers as users write them."""

from __future__ import annotations

import torch
from torch import Tensor

UNUSABLE = 7


def red(rgb: Tensor) -> Tensor:
    """Depth that is how red a pixel is."""
    return rgb[:, :1]


def half_size(rgb: Tensor) -> Tensor:
    return rgb[:, :1, ::2, ::2]


def two_channels(rgb: Tensor) -> Tensor:
    return rgb[:, :2]


def in_metres(rgb: Tensor) -> Tensor:
    return 5 + 10 * rgb[:, :1]


def up(rgb: Tensor) -> Tensor:
    """Normals that all look up."""
    return torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand_as(rgb).contiguous()


def not_finite(rgb: Tensor) -> Tensor:
    return rgb[:, :1] / 0


class Green:
    """A labeler of its own, with weights."""

    def __init__(self, modality: str, weights: str | None = None) -> None:
        self.modality, self.weights, self.device = modality, weights, torch.device("cpu")

    def to(self, device: torch.device | str) -> Green:
        self.device = torch.device(device)
        return self

    def __call__(self, rgb: Tensor) -> Tensor:
        return rgb[:, 1:2]

    def fingerprint(self) -> str:
        return f"green {self.weights}"


GREEN = Green("depth", "an instance")
