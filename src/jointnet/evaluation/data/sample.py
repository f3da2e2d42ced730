"""A picture with its ground truth, and what a reader of a data set is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jointnet.errors import DataFolderError
from jointnet.files.fingerprints import of_texts
from jointnet.geometry.projection import Pinhole

Array = np.ndarray


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and principal point in pixels of the depth map, 0 at the first pixel's centre."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def of_fov(cls, fov_deg: float, height: int, width: int) -> Camera:
        """Square pixels, the principal point in the middle, ``fov_deg`` across the width."""
        focal = Pinhole(fov_deg).focal(width)
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2)

    @classmethod
    def of_matrix(cls, path: Path) -> Camera:
        """Read a text file with a 3 x 3 (or 4 x 4) matrix by rows. Raises: OSError, ValueError."""
        values = [float(number) for number in path.read_text(encoding="utf-8").split()]
        if len(values) not in (9, 16):
            raise ValueError(f"got {len(values)} numbers in {path.name}; expected the 9 or 16 of a matrix")
        width = 3 if len(values) == 9 else 4
        return cls(values[0], values[width + 1], values[2], values[width + 2])

    def points(self, depth: Tensor) -> Tensor:
        """(H, W) -> (3, H, W): x right, y down, z along the view, in the depth's unit."""
        rows, columns = torch.meshgrid(*(torch.arange(n, dtype=depth.dtype) for n in depth.shape), indexing="ij")
        return torch.stack([(columns - self.cx) / self.fx * depth, (rows - self.cy) / self.fy * depth, depth])


@dataclass(frozen=True)
class TruthSample:
    """A picture and what is truly there.

    Attributes:
        id: names the sample within its data set.
        rgb: (3, h, w) in [0, 1].
        depth_m: (H, W) in metres, or in the data set's unit where its scale is unknown.
        valid: (H, W), where there is ground truth.
        normal: (3, H, W), unit vectors in our axes, zero where there is none; None: the set has no normals.
        camera: None where it is not known.
    """

    id: str
    rgb: Tensor
    depth_m: Tensor
    valid: Tensor
    normal: Tensor | None = None
    camera: Camera | None = None


class TruthData(Protocol):
    """A data set that is read by rows."""

    @property
    def name(self) -> str: ...

    @property
    def cap_m(self) -> float:
        """Depth beyond this is not compared, and predictions are clipped there."""
        ...

    def __len__(self) -> int: ...

    def read(self, row: int) -> TruthSample:
        """Read a sample. Raises: DataFolderError if a file is missing or damaged, or sizes differ."""
        ...

    def fingerprint(self) -> str:
        """Changes with the samples and with the sizes and dates of their files, which are not read."""
        ...


@dataclass(frozen=True)
class Files:
    """A data set of files, one sample each.

    Attributes:
        rows: of each sample its id and its files' paths, as ``load`` takes them.
        load: (id, paths) -> the sample.
    """

    name: str
    cap_m: float
    rows: list[tuple[str, tuple[Path, ...]]]
    load: Callable[[str, tuple[Path, ...]], TruthSample]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> TruthSample:
        """Read a sample. Raises: DataFolderError."""
        id_, paths = self.rows[row]
        for path in paths:
            if not path.is_file():
                raise DataFolderError(f"got {id_!r} of {self.name} without {str(path)!r}; expected a file there: fetch the data anew")
        try:
            return self.load(id_, paths)
        except (OSError, ValueError, KeyError) as error:
            files = ", ".join(map(str, paths))
            raise DataFolderError(f"cannot read {id_!r} of {self.name}: {error}; fetch it anew: {files}") from error

    def fingerprint(self) -> str:
        """As ``TruthData``."""
        return of_texts(f"{id_} {' '.join(map(stat_of, paths))}" for id_, paths in self.rows)


def stat_of(path: Path) -> str:
    """A file's name, size and date, the same on every machine that sees it."""
    try:
        found = path.stat()
    except OSError:
        return f"{path.name} -"
    return f"{path.name} {found.st_size} {found.st_mtime_ns}"


def rgb_of(path: Path) -> Tensor:
    """Read a picture as (3, h, w) in [0, 1]."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255).permute(2, 0, 1)


def integers_of(path: Path) -> Array:
    """Read a grey PNG of 8 or 16 bits as float64 (H, W)."""
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.float64)


def truth(id_: str, rgb: Tensor, depth_m: Array, valid: Array, normal: Array | None = None, camera: Camera | None = None) -> TruthSample:
    """Put a sample together; pixels whose depth is not finite or not above 0 are not valid. Raises: ValueError if sizes differ."""
    if depth_m.ndim != 2 or valid.shape != depth_m.shape:
        raise ValueError(f"got depth of shape {depth_m.shape} with a mask of {valid.shape}; expected one size (H, W)")
    height, width = rgb.shape[-2:]
    if abs(height / width - depth_m.shape[0] / depth_m.shape[1]) > 0.02:
        raise ValueError(f"got a picture of {height}x{width} with depth of {depth_m.shape[0]}x{depth_m.shape[1]}; expected one shape")
    is_valid = valid.astype(bool) & np.isfinite(depth_m) & (depth_m > 0)
    if normal is not None and (normal.ndim != 3 or len(normal) != 3):
        raise ValueError(f"got normals of shape {normal.shape}; expected (3, H, W)")
    kept = np.where(is_valid, depth_m, 1).astype(np.float32)
    return TruthSample(
        id_,
        rgb,
        torch.from_numpy(kept),
        torch.from_numpy(is_valid),
        None if normal is None else torch.from_numpy(np.ascontiguousarray(normal, np.float32)),
        camera,
    )


def h5(path: Path) -> Any:
    """Open an HDF5 file. Raises: MissingPackageError without h5py; OSError."""
    from jointnet.errors import MissingPackageError

    try:
        import h5py  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise MissingPackageError("HDF5 files need h5py; install the extra: pip install 'jointnet[eval]'") from error
    return h5py.File(path, "r")
