"""Depth as disparity: (B, 1, H, W) in [0, 1], large is near, 0 is infinitely far or unknown."""

from __future__ import annotations

from torch import Tensor

from jointnet.errors import RangeError
from jointnet.modalities.depth_checks import is_scattered
from jointnet.modalities.ensemble import merge_affine
from jointnet.modalities.modality import Modality, register

_NEXT_TO_NOTHING = 0.05
"""Share of the largest disparity below which a pixel is as good as infinitely far."""


def _refuse_scattered(disparity: Tensor) -> None:
    """Raises: RangeError for maps (B, 1, H, W) of single points in emptiness."""
    has_value = disparity > _NEXT_TO_NOTHING * disparity.amax((1, 2, 3), keepdim=True).clamp(min=0)
    if is_scattered(has_value):
        share = float(has_value.float().mean())
        raise RangeError(
            f"got depth with values in {share:.1%} of its pixels, most of them alone between pixels of 0, which means infinitely far; "
            "expected a dense map: fill it first"
        )


DEPTH = register(
    Modality(
        name="depth",
        channels=1,
        meaning="disparity in [0, 1]: 1 is nearest, 0 infinitely far; PNG value = pixel / 65535, .npy float32 and unclipped",
        merge=merge_affine,
        no_value=0.0,
        check=_refuse_scattered,
    )
)
"""Decoded maps are not clipped; samples are aligned in scale and shift before they are merged, their uncertainty is in disparity."""
