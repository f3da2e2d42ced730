"""Small data folders for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from jointnet.data.folder import FolderSource


def add_sample(folder: Path, name: str, *, as_array: bool = False, depth_size: tuple[int, int] = (32, 40)) -> None:
    """NAME.png of 40 x 32, its depth and its caption."""
    rng = np.random.default_rng(list(name.encode()))
    Image.fromarray(rng.integers(0, 255, (32, 40, 3), np.uint8)).save(folder / f"{name}.png")
    depth = rng.random(depth_size, np.float32)
    if as_array:
        np.save(folder / f"{name}.depth.npy", depth)
    else:
        Image.fromarray((depth * 65535).astype(np.uint16)).save(folder / f"{name}.depth.png")
    (folder / f"{name}.txt").write_text("a box\n")


def three_samples(folder: Path) -> Path:
    """Three pictures with depth as .npy or .png, one caption file with two lines."""
    folder.mkdir()
    for i in range(3):
        add_sample(folder, str(i), as_array=bool(i % 2))
    (folder / "0.txt").write_text("a red ball\na ball\n")
    return folder


def ids(source: FolderSource) -> list[str]:
    return [source.id_of(row) for row in range(len(source))]


def captions(source: FolderSource) -> list[tuple[str, ...]]:
    return [source.read(row, ()).captions for row in range(len(source))]
