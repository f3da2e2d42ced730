"""Masks from memory -> boolean tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from jointnet.errors import RangeError
from jointnet.modalities.array_files import is_array_file, read_array
from jointnet.modalities.inputs import MapInput, as_batch, channels_first, check_sizes, in_mode, listed
from jointnet.modalities.picture_files import open_picture

_WHITES = (255, 65535)

_NEAR_WHITE = 0.5
"""The largest value of a mask of floats is white if it is within this share of it, ..."""

_ABOVE_WHITE = 0.002
"""... and above it by no more than this; above a white of 1 by _NEAR_WHITE: filters overshoot."""


def as_masks(value: MapInput) -> Tensor:
    """Masks -> boolean (B, 1, H, W), True (asked) where they are at least half of white.

    White is 1 (or True) where nothing is larger, else 255 or 65535: what the type holds, or, of wider integers, the first that nothing
    exceeds. In floats 1 may be exceeded by half, and 255 and 65535 are white only where the largest value lies near.
    Of pictures with a transparent pixel the transparent pixels are asked. Raises: ShapeError, RangeError.
    """
    if isinstance(value, str | Path):
        path = Path(value)
        value = read_array(path) if is_array_file(path) else open_picture(path)
    if isinstance(value, Image.Image):
        value = _mask_numbers(value)
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(channels_first(value, "a mask", 1), order="C"))
    if isinstance(value, Tensor):
        return as_batch("mask", value.float() / _white(value), 1) >= 0.5
    masks = [as_masks(each) for each in listed("masks", value)]
    check_sizes("masks", masks)
    return torch.cat(masks)


def _white(mask: Tensor) -> int:
    """Raises: RangeError."""
    highest = float(mask.float().max()) if mask.numel() else 0.0
    if mask.is_floating_point():
        return _white_of_floats(mask, highest)
    if mask.dtype == torch.bool or highest <= 1:
        return 1
    if mask.dtype in (torch.uint8, torch.uint16):
        return torch.iinfo(mask.dtype).max
    if highest > 65535:
        raise RangeError(f"got a mask of {mask.dtype} up to {highest:g}; expected 0 and 1, 255 or 65535")
    return 255 if highest <= 255 else 65535


def _white_of_floats(mask: Tensor, highest: float) -> int:
    """Raises: RangeError."""
    if not mask.isfinite().all():
        raise RangeError("got a mask with values that are NaN or infinite; expected 0 to 1, 255 or 65535")
    if highest <= 1 + _NEAR_WHITE:
        return 1
    for white in _WHITES:
        if (1 - _NEAR_WHITE) * white <= highest <= (1 + _ABOVE_WHITE) * white:
            return white
    raise RangeError(f"got a mask of floats up to {highest:g}; expected 0 to 1, 255 or 65535: scale it")


def _mask_numbers(image: Image.Image) -> np.ndarray:
    """(H, W): 16 or 32 bit, or floats, where the file has them."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        array = np.asarray(image)
        return array.astype(array.dtype.newbyteorder("="))
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            return 255 - alpha
    return np.asarray(in_mode(image, "L"))
