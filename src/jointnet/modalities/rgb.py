"""Colour images: (B, 3, H, W) in [0, 1], the base's own modality."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from jointnet.files.result_set import Writable
from jointnet.modalities.modality import Modality, register, resize_picture
from jointnet.modalities.write import Png8


def _image_file(map_: Tensor) -> dict[str, Writable]:
    return {"image.png": Png8(map_)}


RGB = register(
    Modality(
        name="rgb",
        channels=3,
        meaning="sRGB colour in [0, 1]",
        settle=partial(torch.clamp, min=0, max=1),
        resize=resize_picture,
        own_files=_image_file,
    )
)
"""Decoded images are clipped; samples are merged by their median; the file is image.png in 8 bits."""
