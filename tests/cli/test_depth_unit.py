"""--depth-unit, wherever depth is read: a plane at 2 to 4 m as a sensor stores it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import jointnet
from jointnet.cli.arguments import DEPTH_UNITS as NAMES
from jointnet.cli.main import main
from jointnet.modalities.depth_units import DEPTH_UNITS
from jointnet.pipelines.joint_net import JointNetPipeline

SHORT = ["--steps", "2", "--seed", "3"]
NEAR_M, FAR_M = 2.0, 4.0


def plane_m() -> np.ndarray:
    """Depth of a plane (32, 32): its disparity is linear in the rows."""
    disparity = np.linspace(1 / FAR_M, 1 / NEAR_M, 32)
    return np.repeat(1 / disparity[:, None], 32, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.round(plane_m() * 1000).astype(np.uint16)).save(tmp_path / "mm.png")
    Image.fromarray(np.round(plane_m() * 256).astype(np.uint16)).save(tmp_path / "kitti.png")
    np.save(tmp_path / "m.npy", plane_m().astype(np.float32))
    mask = np.zeros((32, 32), np.uint8)
    mask[4:9, 4:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def depth_in_m(out: Path) -> np.ndarray:
    near_m = json.loads((out / "result.json").read_text())["depth_near_m"]
    return near_m / np.load(out / "depth.npy")


def test_the_names_are_the_units() -> None:
    assert tuple(DEPTH_UNITS) == NAMES


@pytest.mark.parametrize(("unit", "name"), [("mm", "mm.png"), ("kitti", "kitti.png"), ("m", "m.npy")])
def test_known_depth_comes_back_in_metres(unit: str, name: str, folder: Path, model_folder: Path) -> None:
    command = ["condition", str(folder / name), "a box", "--depth-unit", unit, "--model", str(model_folder), *SHORT]
    assert main([*command, "-o", str(folder / "out")]) == 0
    assert np.allclose(depth_in_m(folder / "out"), plane_m(), atol=5e-3)
    assert json.loads((folder / "out" / "result.json").read_text())["request"]["depth_unit"] == unit


def test_edit_and_refine_know_where_they_are_not_asked(folder: Path, model_folder: Path) -> None:
    shared = ["--image", str(folder / "image.png"), "--depth", str(folder / "mm.png"), "--depth-unit", "mm", "--model", str(model_folder)]
    assert main(["edit", *shared, "--mask", str(folder / "mask.png"), *SHORT, "-o", str(folder / "edit")]) == 0
    known = np.asarray(Image.open(folder / "mask.png")) == 0
    assert np.allclose(depth_in_m(folder / "edit")[known], plane_m()[known], atol=5e-3)
    assert main(["refine", *shared, "--only", "image", *SHORT, "-o", str(folder / "refine")]) == 0
    assert np.allclose(depth_in_m(folder / "refine"), plane_m(), atol=5e-3)


def test_a_mesh_stands_in_metres(folder: Path) -> None:
    command = ["mesh", str(folder / "image.png"), str(folder / "mm.png"), "--depth-unit", "mm", "--fov", "60"]
    assert main([*command, "-o", str(folder / "scene.ply")]) == 0
    z = -np.asarray(trimesh.load(folder / "scene.ply").vertices)[:, 2]
    assert np.allclose(np.sort(z), np.sort(plane_m().ravel()), atol=5e-3)


def test_a_photos_depth_in_a_panorama(folder: Path, model_folder: Path) -> None:
    photo = ["--image", str(folder / "image.png"), "--depth", str(folder / "mm.png"), "--depth-unit", "mm", "--size", "32x128"]
    assert main(["panorama", "grass", *photo, "--model", str(model_folder), *SHORT, "-o", str(folder / "out")]) == 0
    assert json.loads((folder / "out" / "result.json").read_text())["depth_near_m"] == pytest.approx(NEAR_M, abs=5e-3)


def test_training_data(folder: Path, model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in "ab":
        (folder / "image.png").rename(data / "a.png") if name == "a" else Image.open(data / "a.png").save(data / "b.png")
        Image.open(folder / "mm.png").save(data / f"{name}.depth.png")
        (data / f"{name}.txt").write_text("a box")
    command = ["train", "stage1", "--from", str(model_folder), "--data", str(data), "--depth-unit", "mm", "--depth-near", str(NEAR_M)]
    short = ["--steps", "1", "--batch-size", "2", "--precision", "float32"]
    assert main([*command, *short, "-o", str(tmp_path / "run")]) == 0
    assert JointNetPipeline.from_pretrained(tmp_path / "run" / "model").config.depth_near_m == pytest.approx(NEAR_M)


def test_read_as_disparity_they_are_warned_of(folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["condition", str(folder / "mm.png"), "a box", "--model", str(model_folder), *SHORT]
    main([*command, "-o", str(folder / "out")])
    assert "warning" in capsys.readouterr().err
    assert main([*command, "--depth-unit", "miles", "-o", str(folder / "other")]) == 2
    assert "expected one of disparity, m, mm, kitti" in capsys.readouterr().err


def test_the_same_in_python(folder: Path) -> None:
    depth = jointnet.read_depth(folder / "mm.png", "mm")
    assert torch.allclose(depth.near_m / depth.disparity[0, 0], torch.from_numpy(plane_m()).float(), atol=5e-3)
