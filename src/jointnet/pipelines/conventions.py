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
    """

    name: str
    has_fresh_noise: bool = True
    has_nearest_masks: bool = False


PAPER = Conventions(name="paper")
RELEASE = Conventions(name="release", has_fresh_noise=False, has_nearest_masks=True)
