"""Files that a mesh reads without torch have the numbers that modalities.read gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jointnet.geometry.plain_files import read_plain
from jointnet.modalities.read import read_map
from jointnet.modalities.write import FloatArray, Png8, Png16, channels_last, to_pil

RNG = np.random.default_rng(0)


def as_read(path: Path, modality: str) -> np.ndarray:
    map_ = read_map(path, modality)[0]
    return np.asarray(to_pil(map_)) if modality == "rgb" else channels_last(map_)


@pytest.mark.parametrize("writer", [FloatArray, Png16])
def test_depth_is_as_the_package_reads_it(writer: type, tmp_path: Path) -> None:
    import torch

    path = tmp_path / ("d.npy" if writer is FloatArray else "d.png")
    writer(torch.from_numpy(RNG.random((1, 20, 30), np.float32))).write(path)
    found = read_plain(path, "depth", is_ours=True)
    assert found is not None
    assert np.array_equal(found, as_read(path, "depth"))
    assert (read_plain(path, "depth", is_ours=False) is None) == (writer is Png16), "integers of others may be millimetres"


@pytest.mark.parametrize("writer", [FloatArray, Png8])
def test_normals_are_as_the_package_reads_them(writer: type, tmp_path: Path) -> None:
    import torch

    vectors = RNG.normal(size=(3, 20, 30))
    vectors[2] = np.abs(vectors[2])
    unit = torch.from_numpy((vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32))
    path = tmp_path / ("n.npy" if writer is FloatArray else "n.png")
    writer(unit if writer is FloatArray else (unit + 1) / 2).write(path)
    found = read_plain(path, "normal", is_ours=True)
    assert found is not None
    assert np.array_equal(found, as_read(path, "normal"))
    assert read_plain(path, "normal", is_ours=False) is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_pictures_are_as_the_package_reads_them(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    found = read_plain(path, "rgb", is_ours=False)
    assert found is not None
    assert np.array_equal(found, as_read(path, "rgb"))


def test_whatever_has_to_be_looked_at_is_left_to_the_package(tmp_path: Path) -> None:
    colours = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8))
    colours.save(tmp_path / "profile.png", icc_profile=b"profile")
    turned = Image.Exif()
    turned[0x0112] = 6
    colours.save(tmp_path / "turned.jpg", exif=turned)
    alpha = colours.convert("RGBA")
    alpha.putpixel((0, 0), (0, 0, 0, 0))
    alpha.save(tmp_path / "alpha.png")
    colours.convert("L").save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_text("no picture")
    for name in ("profile.png", "turned.jpg", "alpha.png", "grey.png", "broken.png", "missing.png"):
        assert read_plain(tmp_path / name, "rgb", is_ours=True) is None, name
    arrays = {
        "metres": RNG.uniform(1, 9, (20, 30)),
        "nan": np.where(np.eye(20, 30) > 0, np.nan, 0.5),
        "constant": np.full((20, 30), 0.5),
        "integers": RNG.integers(0, 9, (20, 30)),
        "empty": np.zeros((0, 3)),
        "channels": RNG.random((20, 30, 1)),
        "points": np.where(RNG.random((20, 30)) < 0.3, RNG.uniform(0.1, 1, (20, 30)), 0),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        assert read_plain(tmp_path / f"{name}.npy", "depth", is_ours=False) is None, name
    np.savez(tmp_path / "several.npz", a=arrays["metres"])
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    assert read_plain(tmp_path / "several.npy", "depth", is_ours=False) is None
