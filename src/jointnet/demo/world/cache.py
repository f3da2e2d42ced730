"""Rendered scenes kept on disk in chunks, so that every training stage reads the same pictures and none renders twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jointnet.demo.world.captions import describe
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import sample_scene
from jointnet.demo.world.splits import seeds

CHUNK = 1000
WORLD_VERSION = 2
"""To be raised when the same seed gives another picture: scenes of another version are rendered anew. 2: no floor nearer than NEAR_M."""

_MAPS = ("rgb", "disparity", "normal")


def render_chunk(folder: Path, first_seed: int, count: int, size: int) -> Path:
    """Render ``count`` scenes and write them as 8-bit RGB and normals ((n + 1) / 2) and 16-bit disparity; the folder appears whole."""
    if folder.exists():
        return folder
    rgb = np.empty((count, size, size, 3), np.uint8)
    disparity = np.empty((count, size, size), np.uint16)
    normal = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        maps = render(sample_scene(first_seed + i), size)
        rgb[i] = np.round(maps.rgb * 255)
        disparity[i] = np.round(maps.disparity01 * 65535)
        normal[i] = np.round((maps.normal + 1) * 127.5)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    for name, array in zip(_MAPS, (rgb, disparity, normal), strict=True):
        np.save(unfinished / f"{name}.npy", array)
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster: its chunk is the same
        shutil.rmtree(unfinished)
    return folder


@dataclass(frozen=True)
class SceneCache:
    """``num_scenes`` scenes of a split at ``size`` px below ``root``; build() renders what is missing."""

    root: Path
    split: str
    num_scenes: int
    size: int = 128

    def fingerprint(self) -> str:
        """Changes with the scenes."""
        return f"{self.split} 0..{self.num_scenes - 1} at {self.size} px of world {WORLD_VERSION}"

    def _chunks(self) -> Iterator[tuple[Path, int]]:
        for start in range(0, self.num_scenes, CHUNK):
            first = seeds(self.split, CHUNK, start)[0]
            yield self.root / f"{self.split}-{self.size}px-world{WORLD_VERSION}-{first:08d}", first

    def build(self, workers: int | None = None) -> None:
        """Render the missing chunks, one process a core."""
        missing = [(folder, first) for folder, first in self._chunks() if not folder.exists()]
        if not missing:
            return
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            jobs = [pool.submit(render_chunk, folder, first, CHUNK, self.size) for folder, first in missing]
            for job in as_completed(jobs):
                job.result()

    def arrays(self, name: str) -> list[np.ndarray]:
        """The chunks of one map ("rgb", "disparity", "normal"), memory-mapped, in seed order."""
        return [np.load(folder / f"{name}.npy", mmap_mode="r") for folder, _ in self._chunks()]

    def captions(self, draw: int = 0) -> list[str]:
        """One caption a scene, in seed order."""
        return [describe(sample_scene(s), draw) for s in seeds(self.split, self.num_scenes)]
