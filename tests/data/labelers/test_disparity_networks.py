"""MiDaS and Depth Anything, beside the library's own way from picture to depth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DepthAnythingForDepthEstimation, DPTForDepthEstimation, DPTImageProcessor

from jointnet.data.labelers.network import NetworkLabeler
from jointnet.data.labelers.quantiles import quantiles_to_01
from jointnet.data.labelers.registry import get_labeler
from jointnet.errors import ModelFolderError, ShapeError
from tests.data.labelers.networks import pictures, save_depth_anything, save_dpt

CASES: list[tuple[str, Callable[[Path], Path], type[Any]]] = [
    ("midas", save_dpt, DPTForDepthEstimation),
    ("depth-anything", save_depth_anything, DepthAnythingForDepthEstimation),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[NetworkLabeler, Path, type[Any]]:
    name, save, kind = request.param
    folder = save(tmp_path_factory.mktemp("labeler") / name)
    labeler = get_labeler(f"depth={name}:{folder}")
    assert isinstance(labeler, NetworkLabeler)
    return labeler, folder, kind


def by_the_library(folder: Path, kind: type[Any], rgb: Tensor) -> Tensor:
    """Raw depth of pictures by the library's processor, network and post-processing, one at a time, (B, 1, H, W)."""
    pytest.importorskip("torchvision")
    processor, network = DPTImageProcessor.from_pretrained(folder), kind.from_pretrained(folder).eval()
    maps = []
    for picture in rgb:
        inputs = processor((picture.permute(1, 2, 0) * 255).round().byte().numpy(), return_tensors="pt")
        with torch.no_grad():
            output = network(**inputs)
        found = processor.post_process_depth_estimation(output, target_sizes=[tuple(picture.shape[1:])])
        maps.append(found[0]["predicted_depth"])
    return torch.stack(maps)[:, None]


def test_pictures_of_the_networks_size_get_what_the_library_estimates(case: tuple[NetworkLabeler, Path, type[Any]]) -> None:
    labeler, folder, kind = case
    rgb = pictures(3, labeler.size, labeler.size)
    expected = quantiles_to_01(by_the_library(folder, kind, rgb))
    assert expected.std() > 0.1
    torch.testing.assert_close(labeler(rgb), expected, atol=1e-4, rtol=0)


def test_other_sizes_differ_from_the_library_by_resizing_only(case: tuple[NetworkLabeler, Path, type[Any]]) -> None:
    """It rounds resized pictures to 8 bits, and enlarges the map by bicubic interpolation; ours is linear."""
    labeler, folder, kind = case
    rgb = pictures(2, 90, 120)
    maps = labeler(rgb)
    assert maps.shape == (2, 1, 90, 120)
    assert (maps - quantiles_to_01(by_the_library(folder, kind, rgb))).abs().mean() < 0.02


def test_large_estimates_are_near(case: tuple[NetworkLabeler, Path, type[Any]]) -> None:
    labeler, folder, kind = case
    rgb = pictures(1, labeler.size, labeler.size)
    raw, ours = by_the_library(folder, kind, rgb).flatten().numpy(), labeler(rgb).flatten().numpy()
    assert np.corrcoef(raw, ours)[0, 1] > 0.95


def test_a_batch_is_its_pictures_one_by_one(case: tuple[NetworkLabeler, Path, type[Any]]) -> None:
    labeler, _, _ = case
    rgb = pictures(3, 48, 80)
    alone = torch.cat([labeler(picture[None]) for picture in rgb])
    torch.testing.assert_close(labeler(rgb), alone, atol=1e-4, rtol=0)


def test_its_fingerprint_changes_with_a_weight_and_with_the_size_and_stays_elsewhere(
    case: tuple[NetworkLabeler, Path, type[Any]], tmp_path: Path
) -> None:
    labeler, folder, _ = case
    before = labeler.fingerprint()
    assert get_labeler(f"depth={labeler.name}:{copytree(folder, tmp_path / 'moved')}").fingerprint() == before
    assert replace(labeler, size=labeler.size * 2).fingerprint() != before
    file = tmp_path / "moved" / "model.safetensors"
    weights = load_file(file)
    weights["neck.convs.0.weight"][0, 0, 0, 0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    assert get_labeler(f"depth={labeler.name}:{tmp_path / 'moved'}").fingerprint() != before


def test_metres_become_disparity(tmp_path: Path) -> None:
    folder = save_depth_anything(tmp_path / "metric", "metric")
    rgb = pictures(2, 56, 56)
    metres = by_the_library(folder, DepthAnythingForDepthEstimation, rgb)
    torch.testing.assert_close(get_labeler(f"depth=depth-anything:{folder}")(rgb), quantiles_to_01(1 / metres), atol=1e-4, rtol=0)


def test_a_folder_that_lacks_a_weight_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = save_dpt(tmp_path / "midas")
    weights = load_file(folder / "model.safetensors")
    del weights["neck.convs.2.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"no weight neck\.convs\.2\.weight"):
        get_labeler(f"depth=midas:{folder}")


def test_a_folder_of_another_network_is_refused(tmp_path: Path) -> None:
    folder = save_depth_anything(tmp_path / "other")
    with pytest.raises(ModelFolderError, match=r"got a DepthAnythingForDepthEstimation .* expected a DPTForDepthEstimation"):
        get_labeler(f"depth=midas:{folder}")


@pytest.mark.parametrize("damage", ["no config", "broken config", "no weights", "cut weights"])
def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = save_dpt(tmp_path / "midas")
    config, weights = folder / "config.json", folder / "model.safetensors"
    if damage == "no config":
        config.unlink()
    elif damage == "broken config":
        config.write_text(json.dumps({"model_type": "dpt"})[:-5])
    elif damage == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelFolderError) as raised:
        get_labeler(f"depth=midas:{folder}")
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_a_single_picture_without_a_batch_is_refused(case: tuple[NetworkLabeler, Path, type[Any]]) -> None:
    with pytest.raises(ShapeError, match=r"expected \(B, 3, H, W\)"):
        case[0](pictures(1)[0])
