"""Which part of a picture is trained on, at which size: its middle square, a random one, or about all of it (aspect buckets)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jointnet.modalities.modality import get_modality, within_limits
from jointnet.types import size_ids

_MAX_RATIO = 2.0


@dataclass(frozen=True)
class Frame:
    """A rectangle of a picture, in its pixels, and the size it is brought to; all (height, width) or (top, left)."""

    corner: tuple[int, int]
    extent: tuple[int, int]
    size: tuple[int, int]

    def cut(self, modality: str, map_: Tensor) -> Tensor:
        """Cut the rectangle from a map (c, H, W) and resize it as the modality does; within its range."""
        (top, left), (height, width) = self.corner, self.extent
        part = map_[None, :, top : top + height, left : left + width]
        return get_modality(modality).resize(within_limits(modality, part), self.size)[0]

    def size_ids(self, original: tuple[int, int]) -> Tensor:
        """SDXL's ``time_ids`` (6,): the picture's own size, and where the rectangle begins once the picture is resized."""
        scale = self.size[0] / self.extent[0]
        corner = (round(self.corner[0] * scale), round(self.corner[1] * scale))
        return size_ids(self.size, original, corner)[0]


def largest_frame(original: Sequence[int], size: tuple[int, int], generator: torch.Generator | None = None) -> Frame:
    """Return the largest rectangle of a size's aspect ratio: the middle one, or a random one with a generator."""
    height, width = original
    scale = min(height / size[0], width / size[1])
    extent = (min(height, max(1, round(size[0] * scale))), min(width, max(1, round(size[1] * scale))))
    room = (height - extent[0], width - extent[1])
    if generator is None:
        return Frame((room[0] // 2, room[1] // 2), extent, size)
    top, left = (int(torch.randint(0, space + 1, (), generator=generator)) for space in room)
    return Frame((top, left), extent, size)


def bucket_sizes(size: int, multiple: int) -> list[tuple[int, int]]:
    """Return sizes (height, width) of about ``size`` x ``size`` pixels, with sides that are multiples, up to 1 : 2 and 2 : 1."""
    sides = range(multiple, 2 * size + 1, multiple)
    found = {(size, size)}
    for height in sides:
        width = max(multiple, size * size // height // multiple * multiple)
        if 1 / _MAX_RATIO <= width / height <= _MAX_RATIO and height * width >= 0.8 * size * size:
            found |= {(height, width), (width, height)}
    return sorted(found)


def choose_buckets(originals: np.ndarray, sizes: Sequence[tuple[int, int]], batch_size: int) -> list[np.ndarray]:
    """Return the rows of each size, those of pictures whose aspect ratio is nearest to it; empty where none are.

    A size with fewer rows than a batch gives them to the next nearest: they would come more often than others.
    Shapes: originals (N, 2), heights and widths.
    """
    ratios = np.log(originals[:, 0] / originals[:, 1])
    centres = np.log([height / width for height, width in sizes])
    distance = np.abs(ratios[:, None] - centres)  # (N, sizes)
    is_open = np.ones(len(sizes), bool)
    while True:
        chosen = np.where(is_open, distance, np.inf).argmin(1)
        counts = np.bincount(chosen, minlength=len(sizes))
        small = np.flatnonzero(is_open & (counts < batch_size) & (counts > 0))
        is_open &= counts > 0
        if not len(small) or is_open.sum() < 2:
            return [np.flatnonzero(chosen == number) for number in range(len(sizes))]
        is_open[small[counts[small].argmin()]] = False
