"""Cached demo scenes as a training data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jointnet.demo.world.cache import SceneCache
from jointnet.types import size_ids

CAPTION_DRAWS = 4
"""Captions drawn for a scene; a step picks one of them."""


@dataclass(frozen=True)
class SceneSource:
    """A MapSource over rendered scenes: "rgb", "depth" (disparity01) and "normal", with several captions each."""

    scenes: SceneCache

    def __len__(self) -> int:
        return self.scenes.num_scenes

    def captions(self) -> list[list[str]]:
        return [self.scenes.captions(draw) for draw in range(CAPTION_DRAWS)]

    def fingerprints(self, modalities: Sequence[str]) -> dict[str, str]:
        return {name: f"{name} of {self.scenes.fingerprint()}" for name in modalities}

    def size_ids(self) -> Tensor:
        """Scenes are rendered whole, at the size they are trained at."""
        side = self.scenes.size
        return size_ids((side, side)).expand(len(self), -1)

    def maps(self, modality: str) -> Iterator[Tensor]:
        if modality == "depth":
            for chunk in self.scenes.arrays("disparity"):
                yield from torch.from_numpy(chunk.astype(np.float32) / 65535)[:, None]
        elif modality in ("rgb", "normal"):
            for chunk in self.scenes.arrays(modality):
                unit = (torch.from_numpy(np.array(map_)).permute(2, 0, 1) / 255 for map_ in chunk)
                yield from unit if modality == "rgb" else (2 * map_ - 1 for map_ in unit)
        else:
            raise ValueError(f"got modality {modality!r}; demo scenes have rgb, depth and normal")
