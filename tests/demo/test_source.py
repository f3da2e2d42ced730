"""The demo world as a source of samples: endless, or from a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jointnet.data.sample import Source
from jointnet.demo.training.source import SceneSource
from jointnet.demo.world.cache import CHUNK, WORLD_VERSION, RenderedScenes, SceneCache, render_chunk
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import NEAR_M, sample_scene
from jointnet.demo.world.splits import SPLITS
from jointnet.errors import UnknownNameError

ALL = ("rgb", "depth", "normal")


def test_scenes_are_rendered_when_they_are_read_as_many_as_the_split_has_seeds() -> None:
    source = SceneSource(RenderedScenes(size=32))
    assert isinstance(source, Source)
    assert len(source) == sum(source.blocks) == len(SPLITS["train"])
    sample, maps = source.read(9_999_999, ALL), render(sample_scene(9_999_999), 32)
    assert (sample.id, sample.original_size) == (source.id_of(9_999_999), (32, 32)) == ("9999999", (32, 32))
    assert np.array_equal(sample.maps["rgb"].permute(1, 2, 0), maps.rgb.clip(0, 1).astype(np.float32))
    assert np.array_equal(sample.maps["depth"][0], maps.disparity01)
    assert np.array_equal(sample.maps["normal"].permute(1, 2, 0), maps.normal.astype(np.float32))
    assert len(set(sample.captions)) > 1
    assert source.depth_near_m == NEAR_M
    assert SceneSource(RenderedScenes("validation", 32)).id_of(0) == "10000000"


def test_a_cached_scene_is_the_rendered_one_as_far_as_its_files_have_digits(tmp_path: Path) -> None:
    render_chunk(tmp_path / f"train-32px-world{WORLD_VERSION}-{0:08d}", 0, 3, 32)
    cached, rendered = SceneSource(SceneCache(tmp_path, "train", CHUNK, 32)), SceneSource(RenderedScenes(size=32))
    one, other = cached.read(2, ALL), rendered.read(2, ALL)
    assert (one.id, one.captions, one.original_size) == (other.id, other.captions, other.original_size)
    steps = {"rgb": 0.5 / 255, "depth": 0.5 / 65535, "normal": 1 / 255}
    assert all((one.maps[name] - other.maps[name]).abs().max() <= step + 1e-6 for name, step in steps.items())


def test_contents_change_with_what_is_rendered() -> None:
    contents = [SceneSource(RenderedScenes(split, size)).contents(ALL) for split, size in (("train", 32), ("train", 64), ("test", 32))]
    assert list(contents[0]) == ["captions", *ALL]
    assert all(len({row[kind] for row in contents}) == 3 for kind in contents[0])
    assert f"world {WORLD_VERSION}" in contents[0]["depth"]


def test_rows_and_modalities_that_are_not_there_are_refused() -> None:
    source = SceneSource(RenderedScenes(size=32))
    with pytest.raises(UnknownNameError, match="demo scenes have rgb, depth, normal"):
        source.read(0, ("heat",))
    for row in (-1, len(source)):
        with pytest.raises(IndexError):
            source.read(row, ALL)
    assert torch.equal(source.read(3, ("depth",)).maps["depth"], source.read(3, ALL).maps["depth"])
