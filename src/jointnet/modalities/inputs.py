"""Pictures and maps from memory, as users pass them -> tensors in the range their modality states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from jointnet.errors import RangeError, ShapeError
from jointnet.modalities.array_files import is_array_file, read_array
from jointnet.modalities.modality import Modality, get_modality
from jointnet.modalities.picture_files import open_picture

OVERSHOOT = 0.1
"""Values this far beyond a modality's range are taken, and clipped for the network: decoders overshoot."""

OUTLIERS = 0.01
"""Share of a map's values that may lie farther out, ..."""

FARTHEST = 1.0
"""... but by no more than so many times the length of the range: farther out they are marks of something else."""

MapInput = Image.Image | np.ndarray | Tensor | str | Path | Sequence[Any]
"""A picture, a path; an array (H, W), (H, W, c) or a batch; a tensor (c, H, W) or (B, c, H, W); or lists of one size."""


def as_maps(modality: str, value: MapInput) -> Tensor:
    """One or several maps of a modality, as a user passes them -> (B, c, H, W).

    8- and 16-bit integers mean shares of their type's largest value (normals: (n + 1) / 2); values up to OVERSHOOT beyond the range stay
    as they are, and so does a share of OUTLIERS that lies no farther out than FARTHEST. A transparent pixel of a map has no value.
    Raises: ShapeError; RangeError, also for maps that their modality's ``check`` refuses.
    """
    kind = get_modality(modality)
    if isinstance(value, str | Path):
        path = Path(value)
        return as_maps(modality, read_array(path) if is_array_file(path) else open_picture(path))
    if isinstance(value, Image.Image):
        return _checked(kind, picture_tensor(value) if modality == "rgb" else _from_picture(value, kind))
    if isinstance(value, np.ndarray):
        warn_if_distance(value, modality)
        tensor = map_tensor(value, kind) if value.ndim in (2, 3, 4) else torch.empty(0)
        if tensor.ndim < 3 or tensor.shape[-3] != kind.channels or 0 in tensor.shape:
            last = f", {kind.channels}" if kind.channels > 1 else ""
            raise ShapeError(f"got an array of shape {value.shape} as {modality}; expected (H, W{last}) or a batch (N, H, W{last})")
        return _checked(kind, tensor)
    if isinstance(value, Tensor):
        return _checked(kind, _stored(value, kind))
    maps = [as_maps(modality, each) for each in listed(modality, value)]
    check_sizes(f"{modality} maps", maps)
    return torch.cat(maps)


def listed(what: str, value: Any) -> Sequence[Any]:
    """Return a list that is one, and not empty. Raises: ShapeError."""
    if not isinstance(value, list | tuple) or not value:
        got = "an empty list" if isinstance(value, list | tuple) else type(value).__name__
        raise ShapeError(f"got {got} as {what}; expected a picture, its path, an array, a tensor, or a list of such")
    return value


def check_sizes(what: str, maps: Sequence[Tensor]) -> None:
    """Raises: ShapeError."""
    if len({m.shape[1:] for m in maps}) != 1:
        raise ShapeError(f"got {what} of sizes {[tuple(m.shape[-2:]) for m in maps]}; expected one size for a batch")


def as_batch(name: str, values: Tensor, channels: int) -> Tensor:
    """(H, W), (c, H, W) or (B, c, H, W) -> (B, c, H, W). Raises: ShapeError."""
    if values.ndim == 2 and channels == 1:
        values = values[None]
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or values.shape[1] != channels or 0 in values.shape:
        raise ShapeError(f"got {name} of shape {tuple(values.shape)}; expected (B, {channels}, H, W) or an array (H, W, {channels})")
    return values.contiguous()


def channels_first(array: np.ndarray, name: str, channels: int) -> np.ndarray:
    """An array of one map or a batch, its channels last, first or left out -> channels before the height.

    A single channel may be repeated as three equal ones. Raises: ShapeError for colours where one channel is expected.
    """
    if channels == 1 and array.ndim == 3 and array.shape[-1] in (2, 3, 4) and array.shape[0] != 1:
        if array.shape[-1] != 3 or not (array == array[..., :1]).all():
            raise ShapeError(f"got {name} of shape {array.shape}, a colour picture; expected a greyscale map (H, W) or a batch (N, H, W)")
        return array[None, ..., 0]
    if array.ndim == 2 or (array.ndim == 3 and channels == 1 and array.shape[-1] != 1):
        return array[..., None, :, :]
    is_first = array.ndim >= 3 and array.shape[-3] == channels != array.shape[-1]
    return array if is_first else np.moveaxis(array, -1, -3)


def picture_tensor(image: Image.Image) -> Tensor:
    """Any PIL mode -> (3, H, W) in [0, 1]: sRGB by its colour profile, alpha laid over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        array = sixteen_bits(_numbers(image))
        transparent = transparent_pixels(image)
        if transparent is not None:
            array[transparent] = 65535
        return _stored(torch.from_numpy(array), get_modality("rgb")).expand(3, -1, -1).contiguous()
    if "icc_profile" in image.info:
        from jointnet.modalities.colour_profiles import to_srgb

        image = to_srgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(in_mode(image, "RGB"))).permute(2, 0, 1).contiguous().float().div_(255)


def map_numbers(image: Image.Image, channels: int) -> np.ndarray:
    """Stored numbers of a map, (H, W), or (H, W, 3) for three channels: 16 or 32 bits where the file has them. Raises: ShapeError.

    A single channel may be repeated as three equal ones.
    """
    array = _numbers(image)
    if array.ndim == 2 or channels > 1:
        return array
    if not (array == array[..., :1]).all():
        raise ShapeError("got a colour picture; expected a greyscale map: pass the 16-bit PNG or .npy, not the preview")
    return array[..., 0]


def map_tensor(array: np.ndarray, kind: Modality, transparent: np.ndarray | None = None) -> Tensor:
    """Stored numbers of one map or a batch -> channels first; transparent pixels (H, W) have no value. Raises: ShapeError, RangeError."""
    values = _stored(torch.from_numpy(np.array(channels_first(array, kind.name, kind.channels), order="C")), kind)
    if transparent is not None:
        if kind.no_value is None:
            raise RangeError(f"got {kind.name} with transparent pixels; expected a value in each: fill them first")
        values[..., torch.from_numpy(transparent)] = kind.no_value
    return values


def transparent_pixels(image: Image.Image) -> np.ndarray | None:
    """Boolean (H, W), True where a picture is more transparent than not; None if it is so nowhere."""
    if image.mode == "F" or image.mode.startswith("I"):  # PIL has no alpha for these; a PNG may name one grey
        grey = image.info.get("transparency")
        transparent = np.asarray(image) == grey if isinstance(grey, int) else None
    else:
        transparent = np.asarray(image.convert("RGBA"))[..., 3] < 128 if image.has_transparency_data else None
    return transparent if transparent is not None and transparent.any() else None


def sixteen_bits(array: np.ndarray) -> np.ndarray:
    """Numbers of a picture of 32 bits as 16; others as they are. Raises: RangeError."""
    if array.dtype != np.int32:
        return array
    if array.min() < 0 or array.max() > 65535:
        raise RangeError(f"got a picture of 32 bits with values {array.min()} to {array.max()}; expected 0 to 65535: scale it")
    return array.astype(np.uint16)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """PIL's conversion; some colour spaces become grey only by way of RGB."""
    return (image.convert("RGB") if image.mode in ("LAB", "HSV") else image).convert(mode)


def warn_if_distance(array: np.ndarray, modality: str, name: str = "the depth map") -> None:
    """Warn of integers read as disparity that look like a sensor's distances (DepthUnitWarning). Shapes: (H, W)."""
    if modality == "depth" and array.dtype.kind in "iu" and array.ndim == 2 and array.size:
        from jointnet.modalities.depth_units import warn_of_distance

        warn_of_distance(array, name)


def _from_picture(image: Image.Image, kind: Modality) -> Tensor:
    image = ImageOps.exif_transpose(image)
    array = sixteen_bits(map_numbers(image, kind.channels))
    warn_if_distance(array, kind.name)
    return map_tensor(array, kind, transparent_pixels(image))


def _numbers(image: Image.Image) -> np.ndarray:
    """Stored numbers, (H, W) or (H, W, 3), in this machine's byte order."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F", "L"):
        array = np.array(image)
        return array.astype(array.dtype.newbyteorder("="))
    return np.asarray(in_mode(image, "L" if image.mode in ("1", "LA") else "RGB"))


def _stored(values: Tensor, kind: Modality) -> Tensor:
    """Stored numbers -> float32. Raises: RangeError for integers wider than 16 bits."""
    low, high = kind.limits
    if values.is_floating_point() or values.dtype == torch.bool:
        return values.float()
    if values.dtype not in (torch.uint8, torch.uint16):
        raise RangeError(f"got {kind.name} as {values.dtype}; expected floats in [{low:g}, {high:g}], uint8 or uint16{_other_unit(kind)}")
    unit = values.float() / torch.iinfo(values.dtype).max
    return low + (high - low) * unit


def _checked(kind: Modality, values: Tensor) -> Tensor:
    """-> (B, c, H, W). Raises: ShapeError; RangeError for values far beyond the modality's range, and for what its ``check`` refuses."""
    maps = as_batch(kind.name, values, kind.channels)
    low, high = kind.limits
    if not maps.isfinite().all():
        raise RangeError(f"got {kind.name} with values that are NaN or infinite; expected [{low:g}, {high:g}]: fill them first")
    is_outside = (maps < low - OVERSHOOT) | (maps > high + OVERSHOOT)
    got = f"got {kind.name} from {float(maps.min()):g} to {float(maps.max()):g}; expected [{low:g}, {high:g}]"
    if is_outside.flatten(1).float().mean(1).max() > OUTLIERS:
        raise RangeError(f"{got} ({kind.meaning}): scale it{_other_unit(kind)}")
    reach = FARTHEST * (high - low)
    is_far_out = (maps < low - reach) | (maps > high + reach)
    if is_far_out.any():
        raise RangeError(
            f"{got}: {int(is_far_out.sum())} values are marks rather than outliers; put a value of the range there, such as {low:g}"
        )
    kind.check(maps)
    return maps


def _other_unit(kind: Modality) -> str:
    return ", or pass its unit, m, mm or kitti (--depth-unit)" if kind.name == "depth" else ""
