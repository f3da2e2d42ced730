"""Where the authors' release differs from the paper: the paper is the default, the release a preset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """Choices that the paper leaves open or the release makes otherwise.

    Attributes:
        name: as on the command line.
        has_fresh_noise: the known part is noised anew in every step; otherwise with the initial noise.
        has_nearest_masks: masks come to the latents' size by taking the nearest pixel; otherwise a latent pixel is asked if any of its
            pixels is.
        reads_first_channel: a map of one channel (depth) is the decoded picture's first; otherwise the mean of its three.
        num_extra_whole_steps: steps in which the whole canvas is denoised beside its tiles, more than floor(share * steps).
        has_lanczos_pictures: pictures are enlarged by Lanczos; otherwise bicubically.
        always_wraps: a panorama's left and right edges are neighbours at any span, except in refinement; otherwise at 360 degrees.
        decays_everywhere: in refinement, a tile's weight also falls along an axis with a single tile.
        refines_at_random_offsets: refinement moves its tiles by a random offset in each step, as a panorama does; otherwise they stay.
    """

    name: str
    has_fresh_noise: bool = True
    has_nearest_masks: bool = False
    reads_first_channel: bool = False
    num_extra_whole_steps: int = 0
    has_lanczos_pictures: bool = False
    always_wraps: bool = False
    decays_everywhere: bool = False
    refines_at_random_offsets: bool = True


PAPER = Conventions(name="paper")
RELEASE = Conventions(
    name="release",
    has_fresh_noise=False,
    has_nearest_masks=True,
    reads_first_channel=True,
    num_extra_whole_steps=1,
    has_lanczos_pictures=True,
    always_wraps=True,
    decays_everywhere=True,
    refines_at_random_offsets=False,
)
PRESETS = {preset.name: preset for preset in (PAPER, RELEASE)}
"""By the names they have on the command line."""
