"""Normal metrics: pure functions on unit vectors (3, H, W), and the two ways to pool them over images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["image", "pixel"]
NORMAL_SHARES_DEG = (5.0, 7.5, 11.25, 22.5, 30.0)


def angles_deg(p: Tensor, n: Tensor, valid: Tensor) -> Tensor:
    """Angles between two maps of unit vectors over valid pixels (H, W), in degrees, (V,). A zero vector counts as 90 degrees.

    >>> n = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    >>> p = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    >>> angles_deg(p, n, torch.ones(1, 1, dtype=torch.bool))
    tensor([90.])
    """
    cosine = (p * n).sum(0)[valid]
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


def normal_errors(angles: Tensor) -> dict[str, float]:
    """Mean, median and root mean square of angles (V,) in degrees, and the shares below some.

    >>> errors = normal_errors(torch.tensor([0.0, 10.0, 20.0]))
    >>> errors["mean"], errors["median"], errors["below_11.25"]
    (10.0, 10.0, 0.6666666865348816)
    """
    shares = {f"below_{limit:g}": float((angles < limit).float().mean()) for limit in NORMAL_SHARES_DEG}
    return {
        "mean": float(angles.mean()),
        "median": float(angles.quantile(0.5)) if len(angles) < 2**24 else float(angles.median()),
        "rmse": float(angles.square().mean().sqrt()),
        **shares,
    }


def pooled_normal_errors(angles_of_images: Iterable[Tensor], pooling: Pooling) -> dict[str, float]:
    """Errors over a data set.

    Args:
        pooling: "image": of each image, then the mean (Marigold); "pixel": of all pixels together (DSINE). They differ where images have
            different numbers of valid pixels, and in the median always: say which.
    Raises: ValueError if there is no image with a valid pixel.
    """
    kept = [angles for angles in angles_of_images if len(angles)]
    if not kept:
        raise ValueError("got no valid pixel in any image; expected some")
    if pooling == "pixel":
        return normal_errors(torch.cat(kept))
    each = [normal_errors(angles) for angles in kept]
    return {name: sum(errors[name] for errors in each) / len(each) for name in each[0]}
