"""Panorama metrics: seams, repetition, and the views of a sphere. Maps are (C, H, W)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample

from jointnet.geometry.projection import Equirectangular, Pinhole

_SCHARR = torch.tensor([[3.0, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
SEAM_CONSTANT = 1.0 / 255
"""c of the score: one grey level, so that noise on an even surface is no seam."""


def seam_score(strip: Tensor, constant: float = SEAM_CONSTANT) -> float:
    """How much stronger the gradient is across a seam than beside it; about 1 where there is none.

    ``strip``: (C, L, 6), three columns on each side of the seam; channels are averaged first.
    Source: Christensen et al. (2024, "Geometry fidelity for spherical images"), Sec. 3.2: with a' the strip after a horizontal Scharr
        filter, (1 / 2L) sum over rows of |a'_2| / (|a'_1| + c) + |a'_3| / (|a'_4| + c); columns 2 and 3 see the seam. They leave c open.

    >>> even = torch.linspace(0, 1, 6).expand(1, 8, 6)
    >>> broken = torch.cat([even[..., :3], even[..., 3:] + 1], -1)
    >>> round(seam_score(even), 2), seam_score(broken) > 3
    (0.99, True)

    Raises: ValueError for another width, or fewer than three rows.
    """
    if strip.ndim != 3 or strip.shape[-1] != 6 or strip.shape[-2] < 3:
        raise ValueError(f"got a strip of shape {tuple(strip.shape)}; expected (C, L, 6) with L of at least 3")
    grey = strip.double().mean(0)[None, None]
    a = conv2d(grey, _SCHARR.to(grey)[None, None])[0, 0].abs()  # (L - 2, 4)
    return float((a[:, 1] / (a[:, 0] + constant) + a[:, 2] / (a[:, 3] + constant)).mean() / 2)


def discontinuity_at_wrap(panorama: Tensor, constant: float = SEAM_CONSTANT) -> float:
    """The score of the seam where a 360 degree panorama's left and right edge meet."""
    return seam_score(torch.cat([panorama[..., -3:], panorama[..., :3]], -1), constant)


def discontinuity_at_columns(panorama: Tensor, columns: Sequence[int], constant: float = SEAM_CONSTANT) -> float:
    """Mean score of seams left of some columns: where tiles meet, say. Raises: ValueError without columns, or at an edge."""
    width = panorama.shape[-1]
    if not columns or min(columns) < 3 or max(columns) > width - 3:
        raise ValueError(f"got seams left of columns {list(columns)} of {width}; expected some in 3 ... {width - 3}")
    return sum(seam_score(panorama[..., c - 3 : c + 3], constant) for c in columns) / len(columns)


def discontinuity_at_poles(panorama: Tensor, constant: float = SEAM_CONSTANT) -> float:
    """Mean score of the two poles of an equirectangular panorama: the row nearest to a pole goes on half a turn away."""
    half = panorama.shape[-1] // 2
    scores = []
    for rows in (panorama[..., :3, :], panorama.flip(-2)[..., :3, :]):  # from the pole outwards
        beyond = rows.roll(half, -1)
        scores.append(seam_score(torch.cat([beyond.flip(-2), rows], -2).transpose(-1, -2), constant))
    return sum(scores) / 2


def intra_distance(image: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Mean distance between the square crops that lie side by side in a wide picture: high where it is not of one piece.

    ``distance``: (B, 3, H, H) in [-1, 1] twice -> (B,); with LPIPS (VGG) this is intra-LPIPS. ``image`` (3, H, W) in [0, 1].
    Source: Lee et al. (2023, SyncDiffusion), Sec. 5.2: 2048 x 512 is 4 crops, 6 pairs.
    Raises: ValueError for fewer than two crops.
    """
    side, count = image.shape[-2], image.shape[-1] // image.shape[-2]
    if count < 2:
        raise ValueError(f"got a picture of {image.shape[-2]}x{image.shape[-1]}; expected one at least twice as wide as high")
    crops = torch.stack([image[..., i * side : (i + 1) * side] for i in range(count)]) * 2 - 1
    first, second = (torch.tensor(indices) for indices in zip(*combinations(range(count), 2), strict=True))
    return float(distance(crops[first], crops[second]).mean())


CUBE_FACES = ("front", "right", "back", "left", "up", "down")


def cube_faces(panorama: Tensor, side: int) -> Tensor:
    """The six views of 90 degrees of equirectangular panoramas (B, C, H, 2 H) -> (6, B, C, side, side), in the order of CUBE_FACES.

    Bilinear, across the wrap.
    """
    height, width = panorama.shape[-2:]
    forward = Pinhole(90).rays(side, side)  # looks along -z
    x, y, z = (forward[..., axis] for axis in range(3))
    turned = {
        "front": (x, y, z),
        "right": (-z, y, x),
        "back": (-x, y, -z),
        "left": (z, y, -x),
        "up": (x, -z, y),
        "down": (x, z, -y),
    }
    wrapped = torch.cat([panorama[..., -1:], panorama, panorama[..., :1]], -1)
    views = []
    for name in CUBE_FACES:
        pixels, _ = Equirectangular(360).pixels(np.stack(turned[name], -1), height, width)
        grid = np.stack([(pixels[..., 1] + 1) / (width + 1), pixels[..., 0] / max(height - 1, 1)], -1) * 2 - 1
        grid_of_all = torch.from_numpy(grid.astype(np.float32)).to(panorama.device).expand(len(panorama), -1, -1, -1)
        views.append(grid_sample(wrapped, grid_of_all, mode="bilinear", padding_mode="border", align_corners=True))
    return torch.stack(views)


def omni_frechet(
    reference: dict[str, np.ndarray], features: dict[str, np.ndarray], distance: Callable[[np.ndarray, np.ndarray], float]
) -> float:
    """Mean of the distances of three groups of views: up, down, and the four at the sides together (OmniFID with Inception features).

    ``reference`` and ``features``: face -> (N, D), see ``cube_faces``.
    Source: Christensen et al. (2024), Eq. 2 and 3.
    """

    def group(values: dict[str, np.ndarray], faces: Sequence[str]) -> np.ndarray:
        return np.concatenate([values[face] for face in faces])

    groups = (("up",), ("down",), CUBE_FACES[:4])
    return sum(distance(group(reference, faces), group(features, faces)) for faces in groups) / len(groups)
