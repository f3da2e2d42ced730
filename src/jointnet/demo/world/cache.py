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
import torch
from torch import Tensor

from jointnet.demo.world.captions import describe
from jointnet.demo.world.render import render, render_batch
from jointnet.demo.world.scene import sample_scene
from jointnet.demo.world.splits import SPLITS, seeds

CHUNK = 1000
WORLD_VERSION = 2
"""To be raised when the same seed gives another picture: scenes of another version are rendered anew. 2: no floor nearer than NEAR_M."""

_MAPS = ("rgb", "disparity", "normal")
_SCENES_AT_ONCE = 128
"""Scenes of a chunk whose maps are held as float32."""


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


def render_chunk(folder: Path, first_seed: int, count: int, size: int, device: torch.device | str = "cpu") -> Path:
    """Render ``count`` scenes and write them as 8-bit RGB and normals ((n + 1) / 2) and 16-bit disparity; the folder appears whole."""
    if folder.exists():
        return folder
    rgb = np.empty((count, size, size, 3), np.uint8)
    disparity = np.empty((count, size, size), np.uint16)
    normal = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, _SCENES_AT_ONCE):
        some = slice(start, min(start + _SCENES_AT_ONCE, count))
        maps = render_batch([sample_scene(first_seed + i) for i in range(some.start, some.stop)], size, device)
        rgb[some] = _rounded(maps.rgb.permute(0, 2, 3, 1) * 255, torch.uint8)
        disparity[some] = _rounded(maps.disparity01 * 65535, torch.int32)
        normal[some] = _rounded((maps.normal.permute(0, 2, 3, 1) + 1) * 127.5, torch.uint8)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    for name, array in zip(_MAPS, (rgb, disparity, normal), strict=True):
        np.save(unfinished / f"{name}.npy", array)
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster: its chunk is the same
        shutil.rmtree(unfinished)
    return folder


def _rounded(values: Tensor, dtype: torch.dtype) -> np.ndarray:
    return values.round().to(dtype).cpu().numpy()


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

    def build(self, device: torch.device | str = "cpu") -> None:
        """Render the missing chunks: on the CPU with one process a core, elsewhere one after the other."""
        missing = [(folder, first) for folder, first in self._chunks() if not folder.exists()]
        if not missing:
            return
        if torch.device(device).type != "cpu":
            for folder, first in missing:
                render_chunk(folder, first, CHUNK, self.size, device)
            return
        with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            jobs = [pool.submit(render_chunk, folder, first, CHUNK, self.size) for folder, first in missing]
            for job in as_completed(jobs):
                job.result()

    def chunks(self, name: str, device: torch.device | str = "cpu") -> list[Tensor]:
        """Chunks of one map, "rgb" or "normal" (n, H, W, 3) uint8 or "disparity" (n, H, W) uint16, in seed order.

        On the CPU they are read where the system maps their files; another device holds a copy.
        """
        return [torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")).to(device) for folder, _ in self._chunks()]

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
