"""Scenes by rows: rendered when they are read, or kept on disk in chunks, so that every stage reads the same and none renders twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from jointnet.demo.world.captions import describe
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import sample_scene
from jointnet.demo.world.splits import SPLITS, seeds

CHUNK = 1000
WORLD_VERSION = 2
"""To be raised when the same seed gives another picture: scenes of another version are rendered anew. 2: no floor nearer than NEAR_M."""

_MAPS = ("rgb", "disparity", "normal")


class Scenes(Protocol):
    """Demo scenes, one a row."""

    @property
    def num_scenes(self) -> int: ...

    @property
    def size(self) -> int:
        """Height and width in px."""
        ...

    def seed_of(self, row: int) -> int:
        """Raises: IndexError."""
        ...

    def maps(self, row: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return maps of a scene by the names that ``Rendered`` has, as float32 in its shapes and ranges. Raises: IndexError."""
        ...

    def fingerprint(self) -> str:
        """Return a text that changes with the scenes."""
        ...


@dataclass(frozen=True)
class RenderedScenes:
    """The scenes of a split at ``size`` px, ten million of them, each rendered when it is read."""

    split: str = "train"
    size: int = 128

    @property
    def num_scenes(self) -> int:
        return len(SPLITS[self.split])

    def seed_of(self, row: int) -> int:
        return _seed_of(self.split, self.num_scenes, row)

    def maps(self, row: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        if not names:
            return {}
        rendered = render(sample_scene(self.seed_of(row)), self.size)
        found = {name: getattr(rendered, name).astype(np.float32) for name in names}
        return found | ({"rgb": found["rgb"].clip(0, 1)} if "rgb" in found else {})

    def fingerprint(self) -> str:
        return f"{self.split} 0..{self.num_scenes - 1} rendered at {self.size} px of world {WORLD_VERSION}"


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

    def seed_of(self, row: int) -> int:
        """Raises: IndexError."""
        return _seed_of(self.split, self.num_scenes, row)

    def maps(self, row: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return maps of one scene, see ``Scenes``; 8-bit colours and normals and 16-bit disparity were kept. Raises: IndexError."""
        self.seed_of(row)
        folder, _ = self._chunk(row // CHUNK)
        found: dict[str, np.ndarray] = {}
        for name in names:
            file_name = {"disparity01": "disparity"}.get(name, name)
            array = np.array(_opened(folder / f"{file_name}.npy")[row % CHUNK]).astype(np.float32)
            found[name] = {"rgb": array / 255, "disparity01": array / 65535, "normal": 2 * (array / 255) - 1}[name]
        return found

    def _chunk(self, index: int) -> tuple[Path, int]:
        """Return the folder of a chunk, and its first seed."""
        first = seeds(self.split, CHUNK, index * CHUNK)[0]
        return self.root / f"{self.split}-{self.size}px-world{WORLD_VERSION}-{first:08d}", first

    def _chunks(self) -> Iterator[tuple[Path, int]]:
        return (self._chunk(index) for index in range(-(-self.num_scenes // CHUNK)))

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


@lru_cache(maxsize=256)
def _opened(path: Path) -> np.ndarray:
    """Map a file of a chunk to memory."""
    return np.load(path, mmap_mode="r")


def _seed_of(split: str, num_scenes: int, row: int) -> int:
    """Raises: IndexError."""
    if not 0 <= row < num_scenes:
        raise IndexError(f"got row {row} of {num_scenes} scenes")
    return seeds(split, 1, row)[0]
