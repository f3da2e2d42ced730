"""What a model must have to be evaluated: ``generate``, ``predict`` or both.

A peer's model is put beside ours by a class with these methods; nothing of this package needs to be imported by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

DEPTH_KEYS = ("depth_metric", "depth_scale_invariant", "depth_affine_invariant", "disparity_affine_invariant")
"""What a predicted map's numbers mean, as its key says it: depth in metres; up to a scale; up to scale and shift; inverse depth up to both.

The names are those of MoGe's baselines (Wang et al., 2025).
"""


@runtime_checkable
class Predictor(Protocol):
    """Image -> geometry."""

    def predict(self, rgb: Tensor, seeds: Sequence[int]) -> Mapping[str, Tensor]:
        """Estimate maps of pictures of one size, each from a seed of its own.

        Shapes: (B, 3, H, W) in [0, 1] -> by key, one of DEPTH_KEYS (B, H, W), and "normal" (B, 3, H, W) in our axes (x right, y up, z
        towards the camera). Maps may be of another size; they are resized.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """Text -> image, and maps if it makes them."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Mapping[str, Tensor]:
        """Make pictures, each from a seed of its own.

        Returns: "rgb" (B, 3, H, W) in [0, 1]; "depth" (B, 1, H, W), disparity in [0, 1] as a joint model makes it; "normal" (B, 3, H, W).
        """
        ...
