"""Depth of sensors becomes disparity, and nobody takes one for the other."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.data.folder import FolderSource
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import NEAR_M, sample_scene
from jointnet.demo.world.splits import SPLITS
from jointnet.errors import (
    DepthHolesWarning,
    DepthUnitWarning,
    EightBitWarning,
    InputFileError,
    JointNetWarning,
    RangeError,
    UnknownNameError,
)
from jointnet.geometry.depth import depth_from_disparity
from jointnet.modalities.depth_units import DEPTH_UNITS
from jointnet.modalities.read import as_maps, read_depth, read_map
from jointnet.modalities.write import Png16

FIRST_SCENE = SPLITS["test"][6]
"""Under a sky."""


@cache
def disparity_of(scene: int, size: int = 64) -> np.ndarray:
    """The exact disparity of a demo scene, (H, W)."""
    return np.asarray(render(sample_scene(scene), size).disparity01, np.float32)


def metres_of(disparity: np.ndarray, far_m: float = 60.0) -> np.ndarray:
    """Distances in metres, 0 where there are none nearer than ``far_m``."""
    depth_m = NEAR_M / np.maximum(disparity, 1e-6)
    return np.where(depth_m < far_m, depth_m, 0)


def save(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "unit", "factor", "dtype"),
    [
        ("a.png", "mm", 1000, np.uint16),
        ("a.tiff", "mm", 1000, np.int32),
        ("a.png", "kitti", 256, np.uint16),
        ("a.tiff", "m", 1, np.float32),
        ("a.npy", "m", 1, np.float64),
        ("a.npy", "mm", 1000, np.int32),
        ("b.npy", "m", 1, np.float16),
    ],
)
def test_distances_become_near_over_z(name: str, unit: str, factor: float, dtype: type, tmp_path: Path) -> None:
    depth_m = metres_of(disparity_of(FIRST_SCENE))
    stored = (depth_m * factor).round() if np.issubdtype(dtype, np.integer) else depth_m * factor
    path = save(tmp_path / name, stored.astype(dtype))
    with pytest.warns(DepthHolesWarning, match=f"{name} has no value in .*% of its pixels: they count as infinitely far"):
        depth = read_depth(path, unit)
    valid = depth_m > 0
    assert depth.near_m == pytest.approx(depth_m[valid].min(), rel=2e-3)
    assert depth.far_m == pytest.approx(depth_m[valid].max(), rel=2e-3)
    expected = np.where(valid, depth.near_m / np.maximum(depth_m, 1e-9), 0)
    assert np.abs(depth.disparity[0, 0].numpy() - expected).max() < 2e-3
    assert float(depth.disparity.max()) == 1
    assert np.array_equal(depth.has_value[0, 0].numpy(), valid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DepthHolesWarning)
        assert torch.equal(read_map(path, "depth", unit=unit), depth.disparity)


def test_distances_come_back_in_metres(tmp_path: Path) -> None:
    depth_m = metres_of(disparity_of(FIRST_SCENE)) + 1
    depth = read_depth(save(tmp_path / "a.npy", depth_m), "m")
    assert depth.near_m is not None
    assert depth.far_m is not None
    back = depth_from_disparity(depth.disparity[0, 0], depth.near_m, depth.far_m, kind="scaled")
    assert np.allclose(back, depth_m, rtol=1e-5)


@pytest.mark.parametrize("hole", [0, np.nan, np.inf, -1])
def test_what_has_no_value_is_infinitely_far(hole: float, tmp_path: Path) -> None:
    depth_m = metres_of(disparity_of(FIRST_SCENE)) + 1
    depth_m[:20, :20] = hole
    with pytest.warns(DepthHolesWarning, match="in 10% of its pixels"):
        depth = read_depth(save(tmp_path / "a.npy", depth_m), "m")
    assert depth.disparity[..., :20, :20].abs().max() == 0
    assert not depth.has_value[..., :20, :20].any()
    assert depth.has_value.float().mean() == pytest.approx(1 - 400 / 4096)


def test_transparent_pixels_of_a_sensors_map_have_no_value(tmp_path: Path) -> None:
    grey = np.linspace(50, 200, 64 * 64).reshape(64, 64).astype(np.uint8)
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:8] = 0
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "a.png")
    with pytest.warns(JointNetWarning):
        depth = read_depth(tmp_path / "a.png", "m")
    assert not depth.has_value[..., :8, :].any()
    assert depth.near_m == float(grey[8:].min())


def test_pixels_that_fly_before_the_scene_do_not_set_its_near(tmp_path: Path) -> None:
    depth_m = metres_of(disparity_of(FIRST_SCENE)) + 2
    first_percent = np.quantile(depth_m, 0.01)
    depth_m[5, :20] = 0.001
    depth = read_depth(save(tmp_path / "a.npy", depth_m), "m")
    assert depth.near_m is not None
    assert first_percent / 2 * 0.95 < depth.near_m < first_percent
    assert depth.disparity.max() == 1


def test_a_near_distance_can_be_common_to_all_maps(tmp_path: Path) -> None:
    depth_m = metres_of(disparity_of(FIRST_SCENE)) + 2
    path = save(tmp_path / "a.npy", depth_m)
    depth = read_depth(path, replace(DEPTH_UNITS["m"], near_m=1.5))
    assert depth.near_m == 1.5
    assert np.allclose(depth.disparity[0, 0], 1.5 / depth_m, rtol=1e-5)
    with pytest.raises(RangeError, match="expected none nearer than 5 m"):
        read_depth(path, replace(DEPTH_UNITS["m"], near_m=5.0))


def test_disparity_has_no_metres(tmp_path: Path) -> None:
    disparity = disparity_of(FIRST_SCENE)
    depth = read_depth(save(tmp_path / "a.npy", disparity))
    assert np.array_equal(depth.disparity[0, 0], disparity)
    assert (depth.near_m, depth.far_m) == (None, None)


def test_unknown_units_and_forms_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", metres_of(disparity_of(FIRST_SCENE)))
    with pytest.raises(UnknownNameError, match="got depth unit 'cm'; expected one of disparity, m, mm, kitti"):
        read_map(path, "depth", unit="cm")
    for kind, array in {"empty": np.zeros((5, 5)), "alike": np.full((5, 5), 2.0)}.items():
        with pytest.raises(RangeError, match=f"{kind}.npy.*(no depth above 0|wherever it has a value)"):
            read_map(save(tmp_path / f"{kind}.npy", array), "depth", unit="m")
    with pytest.raises(InputFileError, match="empty map"):
        read_map(save(tmp_path / "none.npy", np.zeros((0, 5))), "depth", unit="m")
    with pytest.raises(RangeError, match="with 0 m; expected a finite number above 0"):
        replace(DEPTH_UNITS["m"], near_m=0.0)


def test_another_unit_than_the_maps_is_refused_or_warned_of(tmp_path: Path) -> None:
    disparity = disparity_of(FIRST_SCENE)
    millimetres = save(tmp_path / "mm.png", (metres_of(disparity) * 1000).astype(np.uint16))
    with pytest.raises(RangeError, match=r"as m; expected metres.*choose another unit"):
        read_map(millimetres, "depth", unit="m")
    with pytest.raises(RangeError, match=r"scale it, or pass its unit, m, mm or kitti \(--depth-unit\)"):
        read_map(save(tmp_path / "m.npy", metres_of(disparity)), "depth")
    Png16(torch.from_numpy(disparity)[None]).write(tmp_path / "ours.png")
    warnings.simplefilter("ignore", DepthHolesWarning)
    with pytest.warns(DepthUnitWarning, match=r"ours.png is read as mm, where larger is farther, but looks like disparity"):
        read_map(tmp_path / "ours.png", "depth", unit="mm")


@pytest.mark.parametrize("factor", [1000, 256])
def test_integers_of_a_sensor_read_as_disparity_are_warned_of(factor: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for scene in range(FIRST_SCENE, FIRST_SCENE + 20):
        depth_m = metres_of(disparity_of(scene), far_m=10)
        noisy = depth_m * (1 + 0.01 * rng.normal(size=depth_m.shape)) * (rng.random(depth_m.shape) > 0.05)
        for name, array in {"exact.png": depth_m, "noisy.tiff": noisy}.items():
            stored = (array * factor).astype(np.uint16 if name == "exact.png" else np.int32)
            with pytest.warns(DepthUnitWarning, match=rf"{name} is read as disparity.*looks like distances.*--depth-unit"):
                read_map(save(tmp_path / name, stored), "depth")
    with pytest.warns(DepthUnitWarning, match="the depth map is read as disparity"):
        as_maps("depth", (depth_m * factor).astype(np.uint16))


@pytest.mark.filterwarnings("ignore::jointnet.errors.EightBitWarning")
def test_disparity_is_never_taken_for_a_sensors_map(tmp_path: Path) -> None:
    """Warnings are errors here."""
    generator = torch.Generator().manual_seed(0)
    for scene in range(FIRST_SCENE, FIRST_SCENE + 60):
        disparity = torch.from_numpy(disparity_of(scene))[None]
        noise = 0.02 * torch.randn(disparity.shape, generator=generator)
        for kind, map_ in {
            "exact": disparity,
            "noisy": disparity + noise,
            "stretched": disparity / disparity.max(),
            "faint": disparity / 9,
        }.items():
            Png16(map_).write(tmp_path / f"{kind}.png")
            read_map(tmp_path / f"{kind}.png", "depth")
        read_map(save(tmp_path / "eight.png", (disparity[0].numpy() * 255).astype(np.uint8)), "depth")


def test_scattered_points_are_refused_and_skies_are_not(tmp_path: Path) -> None:
    """Sparse maps: a lidar's points in 0.7 %, 5 % and 25 % of the pixels."""
    disparity = disparity_of(FIRST_SCENE)
    rng = np.random.default_rng(0)
    for share in (0.007, 0.05, 0.25):
        is_point = rng.random(disparity.shape) < share
        with pytest.raises(RangeError, match="expected a dense map: fill it first"):
            read_map(save(tmp_path / "a.npy", disparity * is_point), "depth")
        with pytest.raises(RangeError, match="expected a dense map: fill it first"):
            read_map(save(tmp_path / "a.npy", metres_of(disparity) * is_point), "depth", unit="m")
    with pytest.raises(RangeError, match="expected a dense map"):
        as_maps("depth", [disparity, disparity * is_point])
    lonely = np.zeros((64, 64), np.float32)
    lonely[20:32, 20:32] = 0.5  # a moon
    sky = (disparity + 0.01 * rng.normal(size=disparity.shape)).clip(0, 1).astype(np.float32)  # a decoder's, half of it 0
    for dense in (lonely, sky):
        assert np.array_equal(as_maps("depth", dense)[0, 0], dense)


def test_a_folder_of_sensor_depth_is_training_data(tmp_path: Path) -> None:
    for name in "ab":
        depth_m = metres_of(disparity_of(FIRST_SCENE), far_m=30) * (2 if name == "b" else 1)
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
        save(tmp_path / f"{name}.depth.png", (depth_m * 1000).astype(np.uint16))
        (tmp_path / f"{name}.txt").write_text("a box")

    def depths(source: FolderSource) -> list[torch.Tensor]:
        return [source.read(row, ("depth",)).maps["depth"] for row in range(2)]

    source = FolderSource(tmp_path, depth_unit="mm")
    with pytest.warns(DepthHolesWarning) as seen:
        maps = depths(source)
    assert len(seen) == 1, "once a folder"
    assert torch.allclose(maps[0], maps[1], atol=1e-3), "each by its own near"
    common = FolderSource(tmp_path, depth_unit=replace(DEPTH_UNITS["mm"], near_m=NEAR_M))
    with pytest.warns(DepthHolesWarning):
        one, two = depths(common)
    assert torch.allclose(one, 2 * two, atol=1e-3)
    kitti = FolderSource(tmp_path, depth_unit="kitti")
    prints = [s.contents(["rgb", "depth"]) for s in (source, common, FolderSource(tmp_path), kitti)]
    assert len({p["depth"] for p in prints}) == 4
    assert len({p["rgb"] for p in prints}) == 1
    with pytest.warns(DepthUnitWarning) as seen:
        depths(FolderSource(tmp_path))
    assert len(seen) == 1


def test_eight_bits_are_warned_of_in_every_unit(tmp_path: Path) -> None:
    with pytest.warns(EightBitWarning):
        read_map(save(tmp_path / "a.png", np.arange(100, 164, dtype=np.uint8).reshape(8, 8)), "depth", unit="m")
