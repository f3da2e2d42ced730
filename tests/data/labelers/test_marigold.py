"""Marigold, beside diffusers' pipelines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MarigoldDepthPipeline, MarigoldNormalsPipeline
from torch import Tensor

from jointnet.data.labelers.marigold import FAR_OVER_NEAR, Marigold, disparity_of_depth
from jointnet.data.labelers.quantiles import quantiles_to_01
from jointnet.data.labelers.registry import get_labeler
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import sample_scene
from jointnet.errors import ModelFolderError, RangeError
from tests.data.labelers.networks import pictures, save_marigold


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_marigold(tmp_path_factory.mktemp("marigold") / "depth")


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_marigold(tmp_path_factory.mktemp("marigold") / "normals", "normals")


def by_diffusers(pipeline: MarigoldDepthPipeline | MarigoldNormalsPipeline, rgb: Tensor) -> Tensor:
    """What a pipeline predicts by its own settings, one picture at a time."""
    pipeline.set_progress_bar_config(disable=True)
    predictions = [
        pipeline(picture, generator=torch.Generator().manual_seed(0), output_type="pt").prediction  # type: ignore[union-attr]
        for picture in rgb
    ]
    return torch.cat(predictions)


def test_depth_is_what_diffusers_predicts_in_our_polarity(depth: Path) -> None:
    rgb = pictures(2, 32, 32)
    labeler = get_labeler(f"depth=marigold:{depth}")
    assert isinstance(labeler, Marigold)
    expected = by_diffusers(MarigoldDepthPipeline.from_pretrained(depth), rgb)
    assert expected.std() > 0.02
    torch.testing.assert_close(labeler(rgb), disparity_of_depth(expected, labeler.far_over_near), atol=1e-3, rtol=0)


def test_normals_are_what_diffusers_predicts(normals: Path) -> None:
    """It shows them with x to the right, y to the top and z facing the observer unless it is told to flip an axis: our axes."""
    rgb = pictures(2, 32, 32)
    maps = get_labeler(f"normal=marigold:{normals}")(rgb)
    torch.testing.assert_close(maps, by_diffusers(MarigoldNormalsPipeline.from_pretrained(normals), rgb), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, 32, 32), atol=1e-5, rtol=0)


def test_a_model_of_disparity_is_not_turned(tmp_path: Path) -> None:
    folder = save_marigold(tmp_path / "disparity", "disparity")
    rgb = pictures(2, 32, 32)
    expected = quantiles_to_01(by_diffusers(MarigoldDepthPipeline.from_pretrained(folder), rgb))
    torch.testing.assert_close(get_labeler(f"depth=marigold:{folder}")(rgb), expected, atol=1e-3, rtol=0)


def test_a_pictures_map_does_not_depend_on_its_batch(depth: Path, normals: Path) -> None:
    rgb = pictures(3, 40, 64)
    for labeler in (get_labeler(f"depth=marigold:{depth}"), get_labeler(f"normal=marigold:{normals}")):
        together = labeler(rgb)
        assert together.shape[-2:] == (40, 64)
        for order in ([0], [1], [2], [2, 0]):
            torch.testing.assert_close(labeler(rgb[order]), together[order], atol=1e-3, rtol=0)


def test_near_is_1_and_far_is_0() -> None:
    ramp = torch.linspace(-1, 1, 101).reshape(1, 1, 101, 1)
    disparity = disparity_of_depth(ramp, 5.0).flatten()
    assert (disparity[:3] == 1).all()
    assert (disparity[-3:] == 0).all()
    assert (disparity.diff() <= 0).all()


@pytest.mark.parametrize("ratio", [1.5, 5.0, 40.0])
def test_depth_whose_far_is_as_many_times_farther_as_assumed_becomes_exact_disparity(ratio: float) -> None:
    """A plane: its disparity is linear in the picture, and its depth is known up to scale and shift only."""
    disparity = torch.linspace(1, 1 / ratio, 101)[None, None, :, None]
    low, high = disparity[0, 0, 98, 0], disparity[0, 0, 2, 0]  # quantiles on pixels
    exact = ((disparity - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(disparity_of_depth(7 / disparity - 3, float(high / low)), exact, atol=1e-5, rtol=0)


def test_the_assumed_ratio_is_that_of_the_demos_rooms() -> None:
    """Against their exact disparity; depth turned upside down (a ratio of 1) is the alternative."""
    ratios, assumed, upside_down = [], [], []
    for scene in (sample_scene(seed) for seed in range(60)):
        disparity = torch.from_numpy(render(scene, 64).disparity01)[None, None]
        if (disparity == 0).any():  # sky
            continue
        low, high = np.quantile(1 / disparity.numpy(), [0.02, 0.98])
        ratios.append(high / low)
        exact = quantiles_to_01(disparity)
        assumed.append(float((disparity_of_depth(1 / disparity, FAR_OVER_NEAR) - exact).abs().mean()))
        upside_down.append(float((1 - quantiles_to_01(1 / disparity) - exact).abs().mean()))
    assert len(ratios) > 20
    assert 2 < min(ratios) < max(ratios) < 6
    assert abs(np.median(ratios) - FAR_OVER_NEAR) < 0.5
    assert np.mean(assumed) < 0.03 < 0.15 < np.mean(upside_down)


def test_a_ratio_that_is_none_is_refused(depth: Path) -> None:
    labeler = get_labeler(f"depth=marigold:{depth}")
    assert isinstance(labeler, Marigold)
    with pytest.raises(RangeError, match="above 1"):
        replace(labeler, far_over_near=1.0)


def test_its_fingerprint_changes_with_what_changes_the_maps(depth: Path) -> None:
    labeler = get_labeler(f"depth=marigold:{depth}")
    assert isinstance(labeler, Marigold)
    changed = [labeler, replace(labeler, seed=1), replace(labeler, steps=3), replace(labeler, size=64), replace(labeler, far_over_near=6.0)]
    assert len({each.fingerprint() for each in changed}) == len(changed)
    assert get_labeler(f"depth=marigold:{depth}").fingerprint() == labeler.fingerprint()


def test_a_pipeline_of_the_other_modality_is_refused(depth: Path, normals: Path) -> None:
    with pytest.raises(ModelFolderError, match="expected a MarigoldNormalsPipeline for normal"):
        get_labeler(f"normal=marigold:{depth}")
    with pytest.raises(ModelFolderError, match="expected a MarigoldDepthPipeline for depth"):
        get_labeler(f"depth=marigold:{normals}")


def test_a_pipeline_that_lacks_its_weights_is_refused(tmp_path: Path) -> None:
    folder = save_marigold(tmp_path / "depth")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="cannot load the MarigoldDepthPipeline"):
        get_labeler(f"depth=marigold:{folder}")
