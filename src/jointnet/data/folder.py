"""A folder of pictures with their dense maps and captions as a training data set.

NAME.png (or .jpg, .jpeg, .webp) is the picture, NAME.txt its captions, one a line, and NAME.MODALITY.npy or NAME.MODALITY.png
the map of each other modality: .npy in the range the modality states, (H, W) or (H, W, c); .png as the package writes it
(depth: value / 65535, or 255 in an 8-bit file; normal: (n + 1) / 2 over 8 bits).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from jointnet.errors import EightBitWarning, JointNetError
from jointnet.modalities.modality import within_limits
from jointnet.modalities.read import read_map, read_picture
from jointnet.types import size_ids

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class DataFolderError(JointNetError):
    """A data folder is missing, empty or incomplete."""


@dataclass(frozen=True)
class FolderSource:
    """A MapSource over a folder; every map is cut to its middle square and resized to ``size`` px (pictures antialiased, maps nearest)."""

    folder: Path
    size: int

    def names(self) -> list[Path]:
        """The pictures, sorted. Raises: DataFolderError if there are none."""
        if not self.folder.is_dir():
            raise DataFolderError(f"got data folder {str(self.folder)!r}, which is no folder; expected pictures with maps and captions")
        pictures = [p for p in self.folder.iterdir() if p.suffix.lower() in _PICTURES and "." not in p.stem]
        if not pictures:
            raise DataFolderError(f"got no picture in {str(self.folder)!r}; expected NAME.png with NAME.txt and NAME.depth.npy")
        return sorted(pictures)

    def __len__(self) -> int:
        return len(self.names())

    def captions(self) -> list[list[str]]:
        """As many lists as the longest caption file has lines; shorter ones repeat theirs."""
        texts = []
        for picture in self.names():
            path = picture.with_suffix(".txt")
            if not path.is_file():
                raise DataFolderError(f"got no caption for {picture.name}; expected {path.name} beside it, empty if there is none")
            texts.append([line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()] or [""])
        return [[lines[draw % len(lines)] for lines in texts] for draw in range(max(len(lines) for lines in texts))]

    def maps(self, modality: str) -> Iterator[Tensor]:
        """All maps of a modality, (c, size, size) each. Raises: DataFolderError, ShapeError."""
        for picture in self.names():
            map_ = read_picture(picture)[0] if modality == "rgb" else self._read_map(picture, modality)
            yield _square(within_limits(modality, map_), self.size, antialias=modality == "rgb")

    def size_ids(self) -> Tensor:
        """Each picture's own size, and where its middle square begins once it is resized (N, 6)."""
        return torch.cat([_square_ids(read_picture(picture).shape[-2:], self.size) for picture in self.names()])

    def _read_map(self, picture: Path, modality: str) -> Tensor:
        arrays, images = (picture.with_name(f"{picture.stem}.{modality}{suffix}") for suffix in (".npy", ".png"))
        path = next((p for p in (arrays, images) if p.is_file()), None)
        if path is None:
            raise DataFolderError(f"got no {modality} for {picture.name}; expected {arrays.name} or {images.name} beside it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EightBitWarning)  # said above, once for the whole folder
            return read_map(path, modality)[0]


def _square_ids(original: Sequence[int], size: int) -> Tensor:
    height, width = original
    scale = size / min(height, width)
    crop = (round((height - min(original)) / 2 * scale), round((width - min(original)) / 2 * scale))
    return size_ids((size, size), (height, width), crop)


def _square(map_: Tensor, size: int, *, antialias: bool) -> Tensor:
    height, width = map_.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = map_[None, :, top : top + side, left : left + side]
    if side == size:
        return square[0]
    if antialias:
        return interpolate(square, size=(size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
    return interpolate(square, size=(size, size), mode="nearest")[0]
