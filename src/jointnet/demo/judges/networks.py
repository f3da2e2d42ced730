"""The judges' networks: small convolutional nets that read a demo picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jointnet.demo.world.scene import COLOURS, FLOORS, SETTINGS, SHAPES, SIZES


def _block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.SiLU(),
        nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.SiLU(),
    )


class _Encoder(nn.Module):
    """(B, 3, H, W) -> features at 1/2, 1/4, 1/8 and 1/16 of the size."""

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_block(a, b, 2) for a, b in zip((3, *channels), channels, strict=False))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


@dataclass(frozen=True)
class Reading:
    """A reading of the attribute judge; K colours, each at most once.

    present (B, K) logits; shape (B, K, 4) and size (B, K, 2) logits; column (B, K), -1 left to 1 right; nearness (B, K), 1 / z in 1/m;
    floor (B, 6) and setting (B, 8) logits; normal (B, 3, H / 4, W / 4), camera frame, which only training asks for.
    """

    present: Tensor
    shape: Tensor
    size: Tensor
    column: Tensor
    nearness: Tensor
    floor: Tensor
    setting: Tensor
    normal: Tensor


class AttributeJudge(nn.Module):
    """Reads, for every colour, whether a solid has it, its shape, size and place; and the floor and the setting.

    Each colour has an attention map over features at a quarter of the size, so that it reads the place where its solid stands: a small one
    far away is ten pixels wide. On the way it reads the surfaces' normals, by which a box differs from a cylinder.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder((32, 64, 96, 160))
        self.mix = _block(160 + 96, 128, 1)
        self.refine = _block(128 + 64 + 2, 64, 1)
        self.normal = nn.Conv2d(64, 3, 1)
        self.faces = _block(64 + 3, 64, 1)
        self.attend = nn.Conv2d(64, len(COLOURS), 1)
        self.describe = nn.Conv2d(64, 128, 1)
        self.colour = nn.Parameter(torch.zeros(len(COLOURS), 128))
        self.solid = nn.Sequential(nn.Linear(128 + 2, 128), nn.SiLU(), nn.Linear(128, 1 + len(SHAPES) + len(SIZES) + 2))
        self.scene = nn.Linear(2 * 128, len(FLOORS) + len(SETTINGS))

    def forward(self, images: Tensor) -> Reading:
        """(B, 3, H, W) in [0, 1] -> Reading."""
        _, quarter, eighth, sixteenth = self.encoder(images * 2 - 1)
        context = self.mix(torch.cat([_enlarged(sixteenth), eighth], 1))  # (B, 128, H / 8, W / 8)
        h = self.refine(torch.cat([_enlarged(context), quarter, _coordinates(quarter)], 1))  # (B, 64, H / 4, W / 4)
        normal = self.normal(h)
        h = self.faces(torch.cat([h, normal], 1))
        weight = self.attend(h).flatten(2).softmax(-1)  # (B, K, P)
        read = torch.einsum("bkp,bdp->bkd", weight, self.describe(h).flatten(2)) + self.colour
        place = torch.einsum("bkp,bdp->bkd", weight, _coordinates(h).flatten(2))
        solid = self.solid(torch.cat([read, place], -1))
        present, shape, size, offset = solid.split([1, len(SHAPES), len(SIZES), 2], -1)
        pooled = torch.cat([context.mean((2, 3)), context.amax((2, 3))], -1)
        floor, setting = self.scene(pooled).split([len(FLOORS), len(SETTINGS)], -1)
        return Reading(present[..., 0], shape, size, place[..., 0] + offset[..., 0], offset[..., 1], floor, setting, normal)


def _enlarged(features: Tensor) -> Tensor:
    """Twice the size, pixels repeated."""
    return nn.functional.interpolate(features, scale_factor=2.0, mode="nearest")


def _coordinates(like: Tensor) -> Tensor:
    """(B, 2, H, W): column and row, -1 to 1."""
    batch, _, height, width = like.shape
    rows = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)
    columns = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y]).expand(batch, -1, -1, -1)


class DepthRegressor(nn.Module):
    """Reads disparity off a picture: an encoder and a decoder with skips."""

    def __init__(self) -> None:
        super().__init__()
        channels = (24, 48, 96, 128)
        self.encoder = _Encoder(channels)
        self.context = _block(128, 128, 1)
        self.up = nn.ModuleList(_block(below + skip, skip, 1) for below, skip in ((128, 96), (96, 48), (48, 24)))
        self.out = nn.Conv2d(24 + 3, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], sides multiples of 16 -> disparity01 (B, 1, H, W)."""
        images = images * 2 - 1
        *skips, h = self.encoder(images)
        h = self.context(h)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            h = block(torch.cat([_enlarged(h), skip], 1))
        h = nn.functional.interpolate(h, scale_factor=2.0, mode="bilinear")
        return self.last(nn.functional.silu(self.out(torch.cat([h, images], 1)))).sigmoid()
