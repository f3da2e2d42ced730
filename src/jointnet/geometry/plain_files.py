"""Files that a mesh can be built of with numpy alone: pictures without profile or alpha, and maps whose numbers leave nothing to ask.

All others are for modalities.read, which knows more kinds of files, checks what a map can mean, and needs torch.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tokenize import TokenError  # numpy parses the head of an array as Python

import numpy as np
from PIL import Image

Array = np.ndarray

_OVERSHOOT = 0.1
_MAX_EMPTY_SHARE = 0.1
"""With more pixels of disparity 0 a map may be one of scattered points."""

_ORIENTATION = 0x0112
"""EXIF's tag."""


def read_plain(path: Path, modality: str, *, is_ours: bool) -> Array | None:
    """Return a file's content as modalities.read does, or None if it is for that to read, or to refuse.

    Args:
        modality: "rgb", "depth" or "normal"; is_ours: a command of ours wrote the file, so that its meaning is known.
    Returns: rgb: (H, W, 3) uint8; depth: (H, W) float32, disparity; normal: (H, W, 3) float32.
    """
    if path.suffix.lower() == ".npy":
        array = _plain_array(path)
        if array is None or modality == "rgb" or array.ndim != (2 if modality == "depth" else 3):
            return None
        is_plain = _is_disparity(array, is_ours=is_ours) if modality == "depth" else is_ours and array.shape[-1] == 3
        return array if is_plain else None
    pixels = _plain_pixels(path)
    if pixels is None:
        return None
    if modality == "rgb":
        return pixels if pixels.dtype == np.uint8 and pixels.ndim == 3 else None
    if not is_ours:
        return None
    if modality == "depth":
        return _share(pixels) if pixels.dtype == np.uint16 and pixels.min() < pixels.max() else None
    return 2 * _share(pixels) - np.float32(1) if pixels.dtype == np.uint8 and pixels.ndim == 3 else None


def _plain_array(path: Path) -> Array | None:
    """Return the floats of an .npy file, if all are finite."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError):
        return None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.size == 0:
        return None
    array = array.astype(np.float32)
    return array if np.isfinite(array).all() else None


def _is_disparity(array: Array, *, is_ours: bool) -> bool:
    low, high = float(array.min()), float(array.max())
    if not -_OVERSHOOT <= low < high <= 1 + _OVERSHOOT:
        return False
    return is_ours or float((array <= 0.01 * high).mean()) < _MAX_EMPTY_SHARE


def _plain_pixels(path: Path) -> Array | None:
    """Return a picture's pixels (H, W, 3) of 8 bits or (H, W) of 16, as they are stored."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path) as image:
                has_more = image.has_transparency_data or "icc_profile" in image.info or image.getexif().get(_ORIENTATION, 1) != 1
                if has_more or image.mode not in ("RGB", "I;16"):
                    return None
                image.load()
                return np.array(image)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError, Warning):
        return None


def _share(pixels: Array) -> Array:
    """Return stored integers as shares of their type's largest value."""
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
