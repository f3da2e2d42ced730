"""Pictures, maps and masks from files or memory -> tensors in the range their modality states."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from jointnet.errors import EightBitWarning, InputFileError, RangeError, ShapeError
from jointnet.modalities.modality import get_modality

OVERSHOOT = 0.1
"""Values this far beyond a modality's range are taken, and clipped for the network: decoders overshoot."""

OUTLIERS = 0.01
"""Share of a map's values that may lie even farther out."""

MapInput = Image.Image | np.ndarray | Tensor | Sequence[Any]
"""A picture; an array (H, W), (H, W, c) or a batch of them; a tensor (c, H, W) or (B, c, H, W); or a list of these, all of one size."""


def as_maps(modality: str, value: MapInput) -> Tensor:
    """One or several maps of a modality, as a user passes them -> (B, c, H, W).

    8- and 16-bit integers mean shares of their type's largest value (normals: (n + 1) / 2); values up to OVERSHOOT beyond the range stay
    as they are, and so does a share of OUTLIERS. Raises: ShapeError, RangeError.
    """
    kind = get_modality(modality)
    channels = kind.channels
    if isinstance(value, Image.Image):
        return _batch(
            modality, _picture(value) if modality == "rgb" else _from_array(_map_pixels(value, channels), modality, channels), channels
        )
    if isinstance(value, np.ndarray):
        return _batch(modality, _from_array(value, modality, channels), channels)
    if isinstance(value, Tensor):
        return _batch(modality, _stored(value, modality), channels)
    maps = [as_maps(modality, each) for each in value]
    _check_sizes(f"{modality} maps", maps)
    return torch.cat(maps)


def as_masks(value: MapInput) -> Tensor:
    """Masks -> boolean (B, 1, H, W), True (asked) where they are at least half of white.

    White is 1 (or True) in floats and in integers that hold nothing larger, else 255 or 65535: what the type holds, or, of wider ones, the
    first that nothing exceeds. Of pictures with a transparent pixel the transparent pixels are asked. Raises: ShapeError, RangeError.
    """
    if isinstance(value, Image.Image):
        value = _mask_pixels(value)
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value))
        value = value[..., 0] if value.ndim > 2 and value.shape[-1] == 1 else value
        value = value[None, None] if value.ndim == 2 else value[:, None] if value.ndim == 3 else value
    if isinstance(value, Tensor):
        return _batch("mask", value.float() / _white(value), 1) >= 0.5
    masks = [as_masks(each) for each in value]
    _check_sizes("masks", masks)
    return torch.cat(masks)


def _check_sizes(what: str, maps: Sequence[Tensor]) -> None:
    """Raises: ShapeError."""
    if len({m.shape[1:] for m in maps}) != 1:
        raise ShapeError(f"got {what} of sizes {[tuple(m.shape[-2:]) for m in maps]}; expected one size for a batch")


def _white(mask: Tensor) -> int:
    """Raises: RangeError."""
    highest = float(mask.float().max()) if mask.numel() else 0.0
    if mask.is_floating_point() or mask.dtype == torch.bool or highest <= 1:
        return 1
    if mask.dtype in (torch.uint8, torch.uint16):
        return torch.iinfo(mask.dtype).max
    if highest > 65535:
        raise RangeError(f"got a mask of {mask.dtype} up to {highest:g}; expected 0 and 1, 255 or 65535")
    return 255 if highest <= 255 else 65535


def _mask_pixels(image: Image.Image) -> np.ndarray:
    """(H, W): 16 or 32 bit, or floats, where the file has them."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            return 255 - alpha
    return _native(np.asarray(image)) if image.mode == "F" or image.mode.startswith("I") else np.asarray(_converted(image, "L"))


def read_picture(path: Path) -> Tensor:
    """A picture file of any kind -> (1, 3, H, W) in [0, 1]: turned as its EXIF says, alpha laid over white.

    Raises: InputFileError, RangeError.
    """
    with _naming(path):
        return _picture(_open(path))[None]


def read_map(path: Path, modality: str) -> Tensor:
    """A map file -> (1, c, H, W).

    .npy as the modality states it; PNG as this package writes it (depth: 16 bit, value / 65535; normals: 8 bit, (n + 1) / 2). Depth in
    8 bits is taken with EightBitWarning.
    Raises: InputFileError if it cannot be read, is empty, constant or not finite; RangeError, ShapeError.
    """
    if modality == "rgb":
        return read_picture(path)
    channels = get_modality(modality).channels
    if path.suffix.lower() == ".npy":
        array = _load_array(path)
        array = array[..., None] if array.ndim == 2 and channels == 1 else array
        if array.ndim != 3 or array.shape[-1] != channels or array.dtype.kind not in "fiu":
            raise ShapeError(f"got an array {array.shape} of {array.dtype} in {str(path)!r}; expected numbers (H, W, {channels})")
    else:
        with _naming(path):
            array = _map_pixels(_open(path), channels)
    if modality == "depth" and array.dtype == np.uint8:
        warnings.warn(
            f"{path.name} has 8 bits: its depth has at most 256 steps; 16-bit PNG or .npy keep more", EightBitWarning, stacklevel=2
        )
    _check_content(array, path, modality)
    with _naming(path):
        return as_maps(modality, array)


def read_mask(path: Path) -> Tensor:
    """A mask file, white where something is asked -> boolean (1, 1, H, W). Raises: InputFileError, RangeError, ShapeError."""
    with _naming(path):
        return as_masks(_open(path))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file that an error is about."""
    try:
        yield
    except (RangeError, ShapeError) as error:
        raise type(error)(f"{str(path)!r}: {error}") from error


def _load_array(path: Path) -> np.ndarray:
    """One array of a .npy file, in this machine's byte order. Raises: InputFileError."""
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, BadZipFile) as error:
        raise InputFileError(f"cannot read {str(path)!r} as a numpy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputFileError(f"got an archive of arrays in {str(path)!r}; expected one array, as numpy.save writes it")
    return _native(array)


def _native(array: np.ndarray) -> np.ndarray:
    """Byte order and precision that torch takes."""
    return array.astype(np.float32) if array.dtype.kind == "f" else array.astype(array.dtype.newbyteorder("="))


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise InputFileError(f"got {str(path)!r} with more pixels than the limit of {limit}; make it smaller first") from error
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputFileError(f"cannot read {str(path)!r} as a picture: {reason}") from error


def _picture(image: Image.Image) -> Tensor:
    """Any PIL mode -> (3, H, W) in [0, 1]."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _stored(torch.from_numpy(_pixels(image)), "rgb").expand(3, -1, -1).contiguous()
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(_converted(image, "RGB"))).permute(2, 0, 1).float() / 255


def _pixels(image: Image.Image) -> np.ndarray:
    """Stored values, (H, W) or (H, W, 3): 16 bit where the file has them."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise RangeError(f"got a picture of 32 bits with values {values.min()} to {values.max()}; expected 0 to 65535: scale it")
        return values.astype(np.uint16)
    if image.mode in ("I;16", "I;16B", "I;16L", "F", "L"):
        return _native(np.array(image))
    return np.asarray(_converted(image, "L" if image.mode in ("1", "LA") else "RGB"))


def _map_pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Stored values of a map of so many channels; a single one may be repeated as three equal ones. Raises: ShapeError."""
    array = _pixels(image)
    if array.ndim == 2 or channels > 1:
        return array
    if not (array == array[..., :1]).all():
        raise ShapeError("got a colour picture; expected a greyscale map: pass the 16-bit PNG or .npy, not the preview")
    return array[..., 0]


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """PIL's conversion; some colour spaces become grey only by way of RGB."""
    return (image.convert("RGB") if image.mode in ("LAB", "HSV") else image).convert(mode)


def _from_array(array: np.ndarray, modality: str, channels: int) -> Tensor:
    """Channels last, or no channel axis -> channels first."""
    values = _stored(torch.from_numpy(np.array(array)), modality)
    if array.ndim == 2 or (array.ndim == 3 and channels == 1 and array.shape[-1] != 1):
        return values.unsqueeze(-3)
    return values.movedim(-1, -3)


def _stored(values: Tensor, modality: str) -> Tensor:
    """Stored numbers -> float32. Raises: RangeError for integers wider than 16 bits, and far beyond the modality's range."""
    low, high = get_modality(modality).limits
    if values.is_floating_point() or values.dtype == torch.bool:
        values = values.float()
        is_outside = ~((values >= low - OVERSHOOT) & (values <= high + OVERSHOOT))
        if is_outside.float().mean() > OUTLIERS or not values.isfinite().all():
            got = f"{float(values.min()):g} to {float(values.max()):g}"
            raise RangeError(f"got {modality} from {got}; expected [{low:g}, {high:g}] ({get_modality(modality).meaning}): scale it")
        return values
    if values.dtype not in (torch.uint8, torch.uint16):
        raise RangeError(f"got {modality} as {values.dtype}; expected floats in [{low:g}, {high:g}], uint8 or uint16")
    unit = values.float() / torch.iinfo(values.dtype).max
    return low + (high - low) * unit


def _batch(name: str, values: Tensor, channels: int) -> Tensor:
    if values.ndim == 2 and channels == 1:
        values = values[None]
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or values.shape[1] != channels or 0 in values.shape:
        raise ShapeError(f"got {name} of shape {tuple(values.shape)}; expected (B, {channels}, H, W) or an array (H, W, {channels})")
    return values.contiguous()


def _check_content(array: np.ndarray, path: Path, modality: str) -> None:
    """Refuse maps that say nothing. Raises: InputFileError."""
    if array.size == 0:
        raise InputFileError(f"got an empty map of shape {array.shape} in {str(path)!r}; expected one with pixels")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputFileError(f"got {bad} values that are NaN or infinite in {str(path)!r}; fill them first (0 is infinitely far)")
    low, high = float(array.min()), float(array.max())
    if low == high and modality == "depth":
        kind = "all invalid (0)" if high == 0 else f"constant ({high:g})"
        raise InputFileError(f"got a depth map that is {kind} in {str(path)!r}; expected one that varies")
