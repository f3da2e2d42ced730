"""Where the authors' release differs from the paper: the paper is the default, the release a preset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jointnet.geometry.projection import Projection
from jointnet.modalities.modality import Modality, resize_picture
from jointnet.sampling.loop import DrawNoise, fresh_noise, initial_noise
from jointnet.sampling.schedulers import Generators
from jointnet.sampling.tiling import Tiling, first_share
from jointnet.tasks.task import asked_if_any, asked_if_nearest


def decode_first_channel(modality: Modality, images: Tensor) -> Tensor:
    """Read a map of one channel off the first of the decoded three; others as the modality does. Shapes: (B, 3, H, W) -> (B, c, H, W)."""
    return modality.decode(images[:, :1].expand(-1, 3, -1, -1) if modality.channels == 1 else images)


def resize_lanczos(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Lanczos' filter, clipped. Shapes: (B, c, H, W) in [0, 1] -> (B, c, *size)."""
    height, width = size
    channels = maps.flatten(0, 1).float().cpu().numpy()  # (B * c, H, W)
    large = [np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS)) for channel in channels]
    return torch.from_numpy(np.stack(large)).unflatten(0, maps.shape[:2]).to(maps).clamp(0, 1)


def one_more_than_share(share: float, count: int) -> int:
    """The release's 21 of 50 steps with the whole image."""
    return first_share(share, count) + 1


def wraps_at_360(projection: Projection) -> bool:
    """Left and right edge are neighbours where the projection closes."""
    return projection.wraps


def always_wraps(_projection: Projection) -> bool:
    """At any span."""
    return True


def never_wraps(_projection: Projection) -> bool:
    """At no span."""
    return False


def refine_moving(tiling: Tiling) -> Tiling:
    """Tiles move by a random offset in each step, as a panorama's do."""
    return tiling


def refine_resting(tiling: Tiling) -> Tiling:
    """Tiles stay; a tile's weight also falls along an axis with a single tile."""
    return replace(tiling, decays_everywhere=True, has_random_offset=False)


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """Choices that the paper leaves open or the release makes otherwise; each is the function that is run.

    Attributes:
        name: as on the command line.
        known_noise: (initial noise, generator) -> the noise that the known part gets at each step.
        shrink_mask: boolean masks (B, 1, H, W) -> at the latents' size.
        decode: (modality, decoded pictures (B, 3, H, W)) -> maps (B, c, H, W).
        count_whole_steps: (share, number of steps) -> the first steps in which the whole canvas is denoised beside its tiles.
        enlarge_picture: pictures (B, 3, H, W) at a larger size.
        wraps_panorama: True where a panorama's left and right edges are neighbours.
        wraps_refinement: the same for its second pass.
        refinement_tiles: changes the tiles that refinement uses.
    """

    name: str
    known_noise: Callable[[Tensor, Generators], DrawNoise] = fresh_noise
    shrink_mask: Callable[[Tensor, tuple[int, int]], Tensor] = asked_if_any
    decode: Callable[[Modality, Tensor], Tensor] = Modality.decode
    count_whole_steps: Callable[[float, int], int] = first_share
    enlarge_picture: Callable[[Tensor, tuple[int, int]], Tensor] = resize_picture
    wraps_panorama: Callable[[Projection], bool] = wraps_at_360
    wraps_refinement: Callable[[Projection], bool] = wraps_at_360
    refinement_tiles: Callable[[Tiling], Tiling] = refine_moving


PAPER = Conventions(name="paper")
RELEASE = Conventions(
    name="release",
    known_noise=initial_noise,
    shrink_mask=asked_if_nearest,
    decode=decode_first_channel,
    count_whole_steps=one_more_than_share,
    enlarge_picture=resize_lanczos,
    wraps_panorama=always_wraps,
    wraps_refinement=never_wraps,
    refinement_tiles=refine_resting,
)
PRESETS = {preset.name: preset for preset in (PAPER, RELEASE)}
"""By the names they have on the command line."""
