"""Pictures, maps and masks from files -> tensors in the range their modality states."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from jointnet.errors import EightBitWarning, InputFileError, RangeError, ShapeError
from jointnet.modalities.array_files import is_array_file, read_array
from jointnet.modalities.depth_units import DISPARITY, DepthMap, DepthUnit, disparity_from_distance, get_depth_unit, warn_of_distance
from jointnet.modalities.file_content import FileContent
from jointnet.modalities.inputs import (
    MapInput,
    as_maps,
    channels_first,
    map_numbers,
    map_tensor,
    picture_tensor,
    sixteen_bits,
    transparent_pixels,
)
from jointnet.modalities.masks import as_masks
from jointnet.modalities.modality import get_modality
from jointnet.modalities.picture_files import open_picture

__all__ = ["MapInput", "as_maps", "as_masks", "read_depth", "read_map", "read_mask", "read_picture"]


def read_picture(path: str | Path | FileContent) -> Tensor:
    """A picture file of any kind -> (1, 3, H, W) in [0, 1]: turned as its EXIF says, in sRGB by its profile, alpha laid over white.

    Raises: InputFileError, RangeError.
    """
    path = _named(path)
    with _naming(path):
        return as_maps("rgb", picture_tensor(open_picture(path)))


def read_map(path: str | Path | FileContent, modality: str, unit: str | DepthUnit = DISPARITY) -> Tensor:
    """A map file -> (1, c, H, W).

    .npy, .npz of one array and EXR as the modality states it, (H, W), (H, W, c) or (c, H, W); PNG and TIFF as this package writes them
    (depth: 16 bit, value / 65535; normals: 8 bit, (n + 1) / 2). Transparent pixels have no value. Depth in 8 bits is taken with
    EightBitWarning, integers that look like a sensor's distances with DepthUnitWarning.
    Args:
        unit: of depth, by its name in DEPTH_UNITS; other modalities have none.
    Raises: InputFileError if it cannot be read, is empty, constant or not finite; RangeError, ShapeError, UnknownNameError,
        MissingPackageError.
    """
    path = _named(path)
    if modality == "rgb":
        return read_picture(path)
    if modality == "depth":
        return read_depth(path, unit).disparity
    array, transparent = _numbers(path, get_modality(modality).channels)
    return _one_map(array, transparent, path, modality)


def read_depth(path: str | Path | FileContent, unit: str | DepthUnit = DISPARITY) -> DepthMap:
    """A depth file -> its disparity and what it means: as read_map, and with the near distance of a sensor's map. Raises: as read_map."""
    path, unit = _named(path), get_depth_unit(unit)
    array, transparent = _numbers(path, 1)
    if array.dtype == np.uint8:
        warnings.warn(
            f"{path.name} has 8 bits: its depth has at most 256 steps; 16-bit PNG or .npy keep more", EightBitWarning, stacklevel=2
        )
    if transparent is not None:
        array, transparent = np.where(transparent, 0, array), None
    if unit.metres is None:
        disparity = _one_map(array, transparent, path, "depth")
        if array.size and array.ndim == 2:
            warn_of_distance(array, path.name)
        return DepthMap(disparity, None, None, disparity > 0)
    with _naming(path):
        _check_size(array, path)
        values = channels_first(array, "depth", 1)  # (1, H, W) or (1, 1, H, W)
        if values.size != values.shape[-1] * values.shape[-2]:
            raise ShapeError(f"got an array {array.shape}; expected one map (H, W)")
        return disparity_from_distance(values.reshape(values.shape[-2:]), unit, path.name)


def read_mask(path: str | Path) -> Tensor:
    """A mask file, white where something is asked -> boolean (1, 1, H, W). Raises: InputFileError, RangeError, ShapeError."""
    path = Path(path)
    with _naming(path):
        masks = as_masks(read_array(path) if is_array_file(path) else open_picture(path))
        if len(masks) != 1:
            raise ShapeError(f"got {len(masks)} masks; expected one")
        return masks


def _named(path: str | Path | FileContent) -> Path | FileContent:
    return path if isinstance(path, FileContent) else Path(path)


@contextmanager
def _naming(path: Path | FileContent) -> Iterator[None]:
    """Name the file that an error is about."""
    try:
        yield
    except (RangeError, ShapeError) as error:
        raise type(error)(f"{str(path)!r}: {error}") from error


def _numbers(path: Path | FileContent, channels: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a file's stored numbers, and which of its pixels (H, W) are transparent. Raises: InputFileError, ShapeError."""
    if is_array_file(path):
        array = read_array(path)
        if array.dtype.kind == "b":
            raise ShapeError(f"got an array {array.shape} of {array.dtype} in {str(path)!r}; expected numbers (H, W, {channels})")
        return array, None
    with _naming(path):
        image = open_picture(path)
        return map_numbers(image, channels), transparent_pixels(image)


def _one_map(array: np.ndarray, transparent: np.ndarray | None, path: Path | FileContent, modality: str) -> Tensor:
    """Raises: InputFileError, RangeError, ShapeError."""
    _check_content(array, path, modality)
    with _naming(path):
        numbers = array if is_array_file(path) else sixteen_bits(array)
        maps = as_maps(modality, map_tensor(numbers, get_modality(modality), transparent))
    if len(maps) != 1:
        raise ShapeError(f"got an array {array.shape} in {str(path)!r}; expected one map (H, W, {get_modality(modality).channels})")
    return maps


def _check_size(array: np.ndarray, path: Path | FileContent) -> None:
    """Raises: InputFileError."""
    if array.size == 0:
        raise InputFileError(f"got an empty map of shape {array.shape} in {str(path)!r}; expected one with pixels")


def _check_content(array: np.ndarray, path: Path | FileContent, modality: str) -> None:
    """Refuse maps that say nothing. Raises: InputFileError."""
    _check_size(array, path)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputFileError(f"got {bad} values that are NaN or infinite in {str(path)!r}; fill them first (0 is infinitely far)")
    low, high = float(array.min()), float(array.max())
    if low == high and modality == "depth":
        kind = "all invalid (0)" if high == 0 else f"constant ({high:g})"
        raise InputFileError(f"got a depth map that is {kind} in {str(path)!r}; expected one that varies")
