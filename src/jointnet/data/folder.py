"""A folder of pictures with their dense maps and captions as a training data set.

NAME.png (or .jpg, .jpeg, .webp) is the picture, NAME.txt its captions, one a line, and NAME.MODALITY.npy or NAME.MODALITY.png
the map of each other modality: .npy in the range the modality states, (H, W) or (H, W, c); .png as the package writes it
(depth: value / 65535, or 255 in an 8-bit file; normal: (n + 1) / 2 over 8 bits). Depth may be in another unit (``depth_unit``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jointnet.errors import DataFolderError, JointNetWarning
from jointnet.files.fingerprints import of_files
from jointnet.modalities.depth_units import DISPARITY, DepthUnit, get_depth_unit
from jointnet.modalities.modality import get_modality, registered_modalities, within_limits
from jointnet.modalities.read import read_map, read_picture
from jointnet.types import size_ids

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class FolderSource:
    """A MapSource over a folder; every map has its picture's size, is cut to its middle square and resized to ``size`` px.

    Attributes:
        depth_unit: what the numbers of the depth maps mean, or its name in DEPTH_UNITS; with its ``near_m`` all share one near distance.
    """

    folder: Path
    size: int
    depth_unit: str | DepthUnit = DISPARITY

    def names(self) -> list[Path]:
        """Return the pictures, sorted; NAME.MODALITY.png is a map, of whatever modality. Raises: DataFolderError if there are none."""
        if not self.folder.is_dir():
            raise DataFolderError(f"got data folder {str(self.folder)!r}, which is no folder; expected pictures with maps and captions")
        pictures = [p for p in self.folder.iterdir() if p.suffix.lower() in _PICTURES and not _is_map(p)]
        if not pictures:
            raise DataFolderError(f"got no picture in {str(self.folder)!r}; expected NAME.png with NAME.txt and NAME.depth.npy")
        return sorted(pictures)

    def __len__(self) -> int:
        return len(self.names())

    def captions(self) -> list[list[str]]:
        """Return as many lists as the longest caption file has lines; shorter ones repeat theirs. Raises: DataFolderError."""
        texts = []
        for picture in self.names():
            path = picture.with_suffix(".txt")
            if not path.is_file():
                raise DataFolderError(f"got no caption for {picture.name}; expected {path.name} beside it, empty if there is none")
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except ValueError as error:
                raise DataFolderError(f"got captions in {path.name} that are not UTF-8 ({error}); save the file as UTF-8") from error
            texts.append([line.strip() for line in lines if line.strip()] or [""])
        return [[lines[draw % len(lines)] for lines in texts] for draw in range(max(len(lines) for lines in texts))]

    def fingerprint(self, modality: str) -> str:
        """Return a text that changes with the files of a modality and the size. Raises: DataFolderError if a map is missing."""
        unit = get_depth_unit(self.depth_unit)
        converted = f" in {unit.name}, near {unit.near_m} m" if modality == "depth" and unit.metres is not None else ""
        return f"{of_files(self._file(picture, modality) for picture in self.names())} at {self.size} px{converted}"

    def maps(self, modality: str) -> Iterator[Tensor]:
        """Yield all maps of a modality, (c, size, size) each; a warning comes once a kind. Raises: DataFolderError, ShapeError."""
        seen: set[type[Warning]] = set()
        for picture in self.names():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                map_ = self._read(picture, modality)
            for warning in caught:
                if issubclass(warning.category, JointNetWarning) and warning.category not in seen:
                    seen.add(warning.category)
                    warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            yield get_modality(modality).resize(_middle(within_limits(modality, map_)), (self.size, self.size))[0]

    def size_ids(self) -> Tensor:
        """Return each picture's own size, and where its middle square begins once it is resized (N, 6)."""
        return torch.cat([_square_ids(read_picture(picture).shape[-2:], self.size) for picture in self.names()])

    def _read(self, picture: Path, modality: str) -> Tensor:
        path = self._file(picture, modality)
        if modality == "rgb":
            return read_picture(path)
        map_, size = read_map(path, modality, self.depth_unit), read_picture(picture).shape[-2:]
        if map_.shape[-2:] != size:
            got, expected = (f"{width} x {height}" for height, width in (map_.shape[-2:], size))
            raise DataFolderError(f"got {path.name} of {got} for {picture.name} of {expected}; expected maps of the picture's size")
        return map_

    def _file(self, picture: Path, modality: str) -> Path:
        if modality == "rgb":
            return picture
        arrays, images = (picture.with_name(f"{picture.stem}.{modality}{suffix}") for suffix in (".npy", ".png"))
        path = next((p for p in (arrays, images) if p.is_file()), None)
        if path is None:
            raise DataFolderError(f"got no {modality} for {picture.name}; expected {arrays.name} or {images.name} beside it")
        return path


def _is_map(path: Path) -> bool:
    return path.suffixes[-2:-1] in [[f".{name}"] for name in registered_modalities()]


def _square_ids(original: Sequence[int], size: int) -> Tensor:
    height, width = original
    scale = size / min(height, width)
    crop = (round((height - min(original)) / 2 * scale), round((width - min(original)) / 2 * scale))
    return size_ids((size, size), (height, width), crop)


def _middle(maps: Tensor) -> Tensor:
    """Cut maps (B, c, H, W) to their middle square."""
    height, width = maps.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return maps[..., top : top + side, left : left + side]
