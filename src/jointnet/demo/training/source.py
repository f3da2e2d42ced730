"""Demo scenes as a training data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jointnet.data.sample import Sample
from jointnet.data.whole_passes import WholePasses
from jointnet.demo.world.cache import Scenes
from jointnet.demo.world.captions import describe
from jointnet.demo.world.scene import NEAR_M, sample_scene
from jointnet.errors import UnknownNameError

CAPTION_DRAWS = 4
"""Captions drawn for a scene; a step picks one of them."""

_MAPS = {"rgb": "rgb", "depth": "disparity01", "normal": "normal"}
"""Modality -> the rendered map."""


@dataclass(frozen=True)
class SceneSource(WholePasses):
    """A Source over demo scenes: "rgb", "depth" (disparity, NEAR_M / z) and "normal", with several captions each; an id is a seed.

    ``SceneSource(RenderedScenes())`` has as many rows as the split has seeds, and renders each when it is read;
    ``SceneSource(SceneCache(...))`` reads what was rendered before.
    """

    scenes: Scenes

    @property
    def side(self) -> int:
        """TO BE DELETED, see ``data.whole_passes``."""
        return self.scenes.size

    def __len__(self) -> int:
        return self.scenes.num_scenes

    @property
    def blocks(self) -> Sequence[int]:
        """One block."""
        return (len(self),)

    def id_of(self, row: int) -> str:
        """Return the seed of a scene. Raises: IndexError."""
        return str(self.scenes.seed_of(row))

    def read(self, row: int, modalities: Sequence[str]) -> Sample:
        """Read or render a scene, (c, size, size) each. Raises: UnknownNameError, IndexError."""
        unknown = [name for name in modalities if name not in _MAPS]
        if unknown:
            raise UnknownNameError(f"got modality {unknown[0]!r}; demo scenes have {', '.join(_MAPS)}")
        seed = self.scenes.seed_of(row)
        scene = sample_scene(seed)
        captions = tuple(describe(scene, draw) for draw in range(CAPTION_DRAWS))
        arrays = self.scenes.maps(row, [_MAPS[name] for name in modalities])
        maps: dict[str, Tensor] = {}
        for name in modalities:
            array = torch.from_numpy(arrays[_MAPS[name]])
            maps[name] = array[None] if name == "depth" else array.permute(2, 0, 1)  # (c, size, size)
        return Sample(str(seed), maps, captions, (self.scenes.size, self.scenes.size))

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:
        """Return texts that change with the scenes: their split, number, size and the world's version."""
        captions = {"captions": f"{CAPTION_DRAWS} captions of {self.scenes.fingerprint()}"}
        return captions | {name: f"{name} of {self.scenes.fingerprint()}" for name in modalities}

    @property
    def depth_near_m(self) -> float | None:
        """The distance at which all depth maps read 1."""
        return NEAR_M
