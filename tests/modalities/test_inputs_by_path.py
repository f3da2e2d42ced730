from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jointnet import InputFileError, ShapeError
from jointnet.modalities.read import as_maps, as_masks, read_map, read_mask, read_picture
from tests.conftest import tiny_pipeline


def test_a_path_is_read_as_its_file(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.save(tmp_path / "d.npy", np.random.default_rng(1).random((32, 32), np.float32))
    Image.fromarray((picture[..., 0] > 99).astype(np.uint8) * 255).save(tmp_path / "m.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(as_maps("rgb", path), read_picture(path))
    assert torch.equal(as_maps("depth", tmp_path / "d.npy"), read_map(tmp_path / "d.npy", "depth"))
    assert torch.equal(as_maps("depth", [tmp_path / "d.npy"] * 2)[1], read_map(tmp_path / "d.npy", "depth")[0])
    assert torch.equal(as_masks(tmp_path / "m.png"), read_mask(tmp_path / "m.png"))
    predicted = tiny_pipeline().predict(str(tmp_path / "a.png"), num_inference_steps=1)
    assert predicted.depth.shape == (1, 32, 32)


@pytest.mark.parametrize(("value", "got"), [([], "an empty list"), ([None], "NoneType"), (None, "NoneType"), (5, "int"), ({}, "dict")])
def test_what_is_no_map_is_named(value: Any, got: str) -> None:
    with pytest.raises(ShapeError, match=f"got {got} as rgb; expected a picture, its path"):
        as_maps("rgb", value)
    with pytest.raises(ShapeError, match=f"got {got} as masks"):
        as_masks(value)
    with pytest.raises(ShapeError, match=f"got {got} as rgb"):
        tiny_pipeline().predict(value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputFileError, match=r"no_such\.png"):
        as_maps("rgb", "no_such.png")


@pytest.mark.parametrize("shape", [(8,), (8, 8), (2, 8, 8, 2), (8, 8, 5), (1, 2, 8, 8, 3), (0, 8, 3)])
def test_the_shape_of_an_array_that_is_no_picture_is_stated_as_it_came(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as caught:
        as_maps("rgb", np.zeros(shape, np.float32))
    assert f"got an array of shape {shape} as rgb; expected (H, W, 3) or a batch (N, H, W, 3)" in str(caught.value)
