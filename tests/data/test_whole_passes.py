"""TO BE DELETED with data/whole_passes.py and encode_source: a source encoded as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from jointnet.data.folder import FolderSource
from jointnet.data.samples import batched, encode_source
from jointnet.errors import DamagedFileWarning, OutputError
from tests.conftest import tiny_pipeline
from tests.data.folders import add_sample, three_samples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return three_samples(tmp_path / "data")


def test_sizes_and_crops_are_those_of_the_pictures(data: Path) -> None:
    Image.new("RGB", (64, 128)).save(data / "tall.png")
    (data / "tall.txt").touch()
    ids = FolderSource(data, 32).size_ids()
    assert ids[0].tolist() == [32, 40, 0, 4, 32, 32]  # original, crop, target: each height first
    assert ids[-1].tolist() == [128, 64, 16, 0, 32, 32]


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
    for path in data.glob("0.*"):
        path.unlink()
    assert torch.allclose(encode(), first[1:], atol=1e-3)
    add_sample(data, "0.9")
    added = encode()
    assert torch.allclose(added[1:], first[1:], atol=1e-3)
    assert not torch.allclose(added[0], first[0], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: (path.unlink(), path.symlink_to("/nowhere/rgb")),
    ],
)
def test_damaged_latents_are_encoded_again_with_a_warning(damage: Callable[[Path], object], data: Path, tmp_path: Path) -> None:
    def encode() -> torch.Tensor:
        pipeline = tiny_pipeline()
        source = FolderSource(data, 32)
        return encode_source(source, ("rgb", "depth"), pipeline.codec, tmp_path / "latents", *pipeline.training_text()).latents

    first = encode()
    damage(tmp_path / "latents" / "rgb.safetensors")
    with pytest.warns(DamagedFileWarning, match=r"rgb\.safetensors' is damaged"):
        assert torch.equal(encode(), first)
    assert torch.equal(encode(), first)


def test_latents_that_cannot_be_written_are_named_before_encoding(data: Path, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    (tmp_path / "latents").symlink_to("/nowhere/latents")
    with pytest.raises(OutputError, match="latents is a link to '/nowhere/latents', which is not there"):
        encode_source(FolderSource(data, 32), ("rgb", "depth"), pipeline.codec, tmp_path / "latents", *pipeline.training_text())


def test_the_larger_the_maps_the_fewer_are_encoded_at_once() -> None:
    sizes = {side: [len(part) for part in batched([torch.zeros(1, side, side)] * 40)] for side in (128, 256, 1024)}
    assert sizes == {128: [32, 8], 256: [8] * 5, 1024: [1] * 40}


def test_captions_are_drawn_from_all_lines(data: Path) -> None:
    assert FolderSource(data, 32).captions() == [["a red ball", "a box", "a box"], ["a ball", "a box", "a box"]]
