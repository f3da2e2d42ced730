"""A folder of one's own as training data: what is taken, what is refused, what is encoded anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.data.folder import FolderSource
from jointnet.data.samples import batched, encode_source
from jointnet.errors import DataFolderError, EightBitWarning
from tests.conftest import read_png, tiny_pipeline


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures with depth as .npy or .png, one caption file with two lines."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3):
        add_sample(folder, str(i), as_array=bool(i % 2))
    (folder / "0.txt").write_text("a red ball\na ball\n")
    return folder


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


def test_depth_files_of_both_kinds_are_read_alike(data: Path) -> None:
    maps = list(FolderSource(data, 32).maps("depth"))
    assert [m.shape for m in maps] == [(1, 32, 32)] * 3
    assert torch.equal(maps[1][0], torch.from_numpy(np.load(data / "1.depth.npy")[:, 4:36]))
    png = read_png(data / "0.depth.png")[:, 4:36] / 65535
    assert np.abs(maps[0][0].numpy() - png).max() < 1e-6


def test_sizes_and_crops_are_those_of_the_pictures(data: Path) -> None:
    Image.new("RGB", (64, 128)).save(data / "tall.png")
    ids = FolderSource(data, 32).size_ids()
    assert ids[0].tolist() == [32, 40, 0, 4, 32, 32]  # original, crop, target: each height first
    assert ids[-1].tolist() == [128, 64, 16, 0, 32, 32]


def test_captions_are_drawn_from_all_lines(data: Path) -> None:
    assert FolderSource(data, 32).captions() == [["a red ball", "a box", "a box"], ["a ball", "a box", "a box"]]


def test_names_may_have_dots(data: Path) -> None:
    add_sample(data, "IMG.2024", as_array=True)
    source = FolderSource(data, 32)
    assert [p.name for p in source.names()] == ["0.png", "1.png", "2.png", "IMG.2024.png"]
    assert len(list(source.maps("depth"))) == 4


def test_a_map_of_another_size_than_its_picture_is_refused(data: Path) -> None:
    add_sample(data, "odd", depth_size=(32, 32))
    with pytest.raises(DataFolderError, match=r"got odd\.depth\.png of 32 x 32 for odd\.png of 40 x 32"):
        list(FolderSource(data, 32).maps("depth"))


def test_captions_in_another_encoding_are_named(data: Path) -> None:
    (data / "1.txt").write_bytes("ein Würfel".encode("latin-1"))
    with pytest.raises(DataFolderError, match=r"1\.txt that are not UTF-8"):
        FolderSource(data, 32).captions()


def test_depth_of_8_bits_is_warned_of_once(data: Path) -> None:
    for name in ("0", "2"):
        Image.fromarray(np.arange(32 * 40, dtype=np.uint16).reshape(32, 40).astype(np.uint8)).save(data / f"{name}.depth.png")
    with pytest.warns(EightBitWarning) as warned:
        list(FolderSource(data, 32).maps("depth"))
    assert len(warned) == 1


@torch.no_grad()
def test_latents_are_kept_until_pictures_or_autoencoder_change(data: Path, tmp_path: Path) -> None:
    def encode(size: int = 32, scale: float = 1.0) -> torch.Tensor:
        pipeline = tiny_pipeline()
        pipeline.vae.register_to_config(scaling_factor=scale)
        folder = tmp_path / "latents"
        return encode_source(FolderSource(data, size), ("rgb", "depth"), pipeline.codec, folder, *pipeline.training_text()).latents

    first = encode()
    written = (tmp_path / "latents" / "rgb.safetensors").stat().st_mtime_ns
    assert torch.equal(encode(), first)
    assert (tmp_path / "latents" / "rgb.safetensors").stat().st_mtime_ns == written
    assert encode(size=16).shape[-1] * 2 == first.shape[-1]
    assert torch.allclose(encode(scale=0.5), first / 2, atol=1e-3)
    (data / "0.png").unlink()
    assert torch.allclose(encode(), first[1:], atol=1e-3)
    add_sample(data, "0.9")
    added = encode()
    assert torch.allclose(added[1:], first[1:], atol=1e-3)
    assert not torch.allclose(added[0], first[0], atol=1e-3)


def test_a_missing_map_is_found_before_anything_is_encoded(data: Path, tmp_path: Path) -> None:
    (data / "2.depth.png").unlink()
    pipeline = tiny_pipeline()
    with pytest.raises(DataFolderError, match=r"no depth for 2\.png"):
        encode_source(FolderSource(data, 32), ("rgb", "depth"), pipeline.codec, tmp_path / "latents", *pipeline.training_text())
    assert not (tmp_path / "latents").exists()


def test_the_larger_the_maps_the_fewer_are_encoded_at_once() -> None:
    sizes = {side: [len(part) for part in batched([torch.zeros(1, side, side)] * 40)] for side in (128, 256, 1024)}
    assert sizes == {128: [32, 8], 256: [8] * 5, 1024: [1] * 40}
