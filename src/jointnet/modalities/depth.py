"""Depth as disparity: (B, 1, H, W) in [0, 1], large is near, 0 is infinitely far or unknown."""

from __future__ import annotations

from jointnet.modalities.ensemble import merge_affine
from jointnet.modalities.modality import Modality, register

DEPTH = register(
    Modality(
        name="depth",
        channels=1,
        meaning="disparity in [0, 1]: 1 is nearest, 0 infinitely far; PNG value = pixel / 65535, .npy float32 and unclipped",
        merge=merge_affine,
    )
)
"""Decoded maps are not clipped; samples are aligned in scale and shift before they are merged, their uncertainty is in disparity."""
