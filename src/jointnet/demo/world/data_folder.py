"""Demo scenes as a data folder that ``jointnet train`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from jointnet.demo.world.captions import describe
from jointnet.demo.world.render import Rendered, render
from jointnet.demo.world.scene import sample_scene
from jointnet.files.result_set import Writable

_SUFFIXES: dict[str, Literal["rgb", "text", "depth", "normal"]] = {
    ".png": "rgb",
    ".txt": "text",
    ".depth.npy": "depth",
    ".normal.npy": "normal",
}
_NUM_CAPTIONS = 3
"""Captions of a scene; training draws one each time."""


@dataclass(frozen=True)
class SceneFile:
    """One of the files of a scene; it is rendered when it is written."""

    seed: int
    size: int
    kind: Literal["rgb", "text", "depth", "normal"]

    def write(self, path: Path) -> None:
        """Write a picture of 8 bits, captions one a line, or a map as float32 .npy. Raises: OSError."""
        if self.kind == "text":
            captions = dict.fromkeys(describe(sample_scene(self.seed), draw) for draw in range(_NUM_CAPTIONS))
            path.write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")
            return
        maps = _rendered(self.seed, self.size)
        if self.kind == "rgb":
            Image.fromarray(np.round(maps.rgb.clip(0, 1) * 255).astype(np.uint8)).save(path, format="PNG")
            return
        np.save(path, (maps.disparity01 if self.kind == "depth" else maps.normal).astype(np.float32))


@lru_cache(maxsize=1)
def _rendered(seed: int, size: int) -> Rendered:
    return render(sample_scene(seed), size)


def data_files(seeds: Sequence[int], size: int) -> dict[str, Writable]:
    """Return the files of a data folder by their names: picture, captions, exact depth (disparity NEAR_M / z) and normals."""
    return {f"{seed:08d}{suffix}": SceneFile(seed, size, kind) for seed in seeds for suffix, kind in _SUFFIXES.items()}
