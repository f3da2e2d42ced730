"""Maps as files of a shard."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jointnet.errors import BadSampleError, RangeError, ShapeError
from jointnet.modalities.modality import get_modality
from jointnet.modalities.write import channels_last

_PNG_LEVEL = 3
"""Of zlib: on depth half the time of its default 6, and files a few percent larger."""


def map_file(modality: str, map_: Tensor) -> tuple[str, bytes]:
    """A map (c, H, W) -> its kind and bytes: a 16-bit PNG in shares of the range for one channel, float16 .npy (H, W, 3) for three.

    Raises: BadSampleError for a map that a reader would refuse: not finite, constant depth, and what the modality's check refuses.
    """
    kind = get_modality(modality)
    low, high = kind.limits
    unusable = BadSampleError(f"got a {modality} map that is constant or not finite; left out", f"unusable {modality} map")
    if not map_.isfinite().all():
        raise unusable
    try:
        kind.check(map_[None])
    except RangeError as error:
        raise BadSampleError(str(error), unusable.reason) from error
    array, buffer = channels_last(map_.clamp(low, high)), BytesIO()
    if kind.channels == 3:
        np.save(buffer, array.astype(np.float16))
        return f"{modality}.npy", buffer.getvalue()
    stored = np.round((array - low) / (high - low) * 65535).astype(np.uint16)
    if modality == "depth" and stored.min() == stored.max():
        raise unusable
    Image.fromarray(stored).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return f"{modality}.png", buffer.getvalue()


def check_labels(modality: str, maps: Tensor, pictures: Tensor) -> None:
    """Raises: ShapeError if a labeler's maps are not (B, c, H, W) of its pictures (B, 3, H, W)."""
    expected = (len(pictures), get_modality(modality).channels, *pictures.shape[-2:])
    if tuple(maps.shape) != expected or not torch.is_floating_point(maps):
        raise ShapeError(f"got {modality} maps {tuple(maps.shape)} of {maps.dtype} from the labeler; expected floats {expected}")
