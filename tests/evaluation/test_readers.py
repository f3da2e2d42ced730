"""Readers on small files of the owners' forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from jointnet.errors import DataFolderError, UnknownNameError
from jointnet.evaluation.data.readers import READERS, open_truth
from jointnet.evaluation.data.sample import Camera
from jointnet.geometry.projection import Pinhole

H, W = 12, 16
RNG = np.random.default_rng(0)
DEPTH = RNG.uniform(1, 9, (H, W))
RGB = RNG.integers(0, 255, (H, W, 3), np.uint8)


def image(path: Path, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(RGB[:1, :1], (*size, 3)).copy() if size != (H, W) else RGB).save(path, "PNG")


def png16(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(values).astype(np.uint16)).save(path)


def hole(values: np.ndarray, value: float) -> np.ndarray:
    """The first pixel has no depth."""
    changed = values.copy()
    changed[0, 0] = value
    return changed


def megadepth(folder: Path) -> None:
    image(folder / "0001" / "dense0" / "imgs" / "a.jpg")
    path = folder / "0001" / "dense0" / "depths" / "a.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["depth"] = hole(DEPTH, 0).astype(np.float32)
    image(folder / "0001" / "dense0" / "imgs" / "without_depth.jpg")


def nyu(folder: Path) -> None:
    folder.mkdir()
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.stack([RGB.transpose(2, 1, 0)] * 3)
        file["depths"] = np.stack([hole(DEPTH, 0).T] * 3).astype(np.float32)
    savemat(str(folder / "splits.mat"), {"testNdxs": np.array([[2]])})


def kitti(folder: Path) -> None:
    root = folder / "depth_selection" / "val_selection_cropped"
    image(root / "image" / "2011_image_0000000002_image_02.png")
    png16(root / "groundtruth_depth" / "2011_groundtruth_depth_0000000002_image_02.png", hole(DEPTH, 0) * 256)


def diode(folder: Path) -> None:
    stem = folder / "scene_00019" / "scan_00183" / "x"
    image(stem.with_suffix(".png"))
    np.save(f"{stem}_depth.npy", DEPTH[..., None].astype(np.float32))
    np.save(f"{stem}_depth_mask.npy", hole(np.ones((H, W)), 0).astype(np.float32))


def scannet(folder: Path) -> None:
    image(folder / "scene0707_00" / "color" / "10.jpg", (2 * H, 2 * W))
    png16(folder / "scene0707_00" / "depth" / "10.png", hole(DEPTH, 0) * 1000)


def eth3d(folder: Path) -> None:
    image(folder / "courtyard" / "images" / "dslr_images" / "DSC_1.JPG")
    path = folder / "courtyard" / "ground_truth_depth" / "dslr_images" / "DSC_1.JPG"
    path.parent.mkdir(parents=True)
    hole(DEPTH, np.inf).astype(np.float32).tofile(path)


def ibims(folder: Path) -> None:
    root = folder / "ibims1_core_raw"
    image(root / "rgb" / "corridor_01.png")
    png16(root / "depth" / "corridor_01.png", DEPTH / 50 * 65535)
    for number, name in enumerate(("mask_invalid", "mask_transp")):
        (root / name).mkdir()
        mask = hole(np.full((H, W), 255), 0) if number == 0 else np.full((H, W), 255)
        Image.fromarray(mask.astype(np.uint8)).save(root / name / "corridor_01.png")


def plain(folder: Path) -> None:
    image(folder / "a.png")
    np.save(folder / "a.depth.npy", hole(DEPTH, np.inf).astype(np.float32))
    np.save(folder / "a.normal.npy", np.full((H, W, 3), (0, 0, 1), np.float32))


WRITERS: dict[str, Callable[[Path], None]] = {
    "megadepth": megadepth,
    "nyu": nyu,
    "kitti": kitti,
    "diode": diode,
    "scannet": scannet,
    "eth3d": eth3d,
    "ibims": ibims,
    "folder": plain,
}


@pytest.mark.parametrize("name", READERS)
def test_each_owners_form_gives_metres_and_a_mask(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "data")
    data = open_truth(f"{name}:{tmp_path / 'data'}")
    sample = data.read(0)
    assert len(data) == 1
    assert tuple(sample.depth_m.shape) == (H, W)
    assert not bool(sample.valid[0, 0])
    assert int(sample.valid.sum()) == H * W - 1
    steps = {"kitti": 0.005, "scannet": 0.002, "ibims": 0.001}
    assert np.abs(sample.depth_m.numpy() - DEPTH)[sample.valid.numpy()].max() < steps.get(name, 1e-5)
    assert tuple(sample.rgb.shape) == ((3, 2 * H, 2 * W) if name == "scannet" else (3, H, W))
    assert (sample.normal is not None) == (name == "folder")


@pytest.mark.parametrize("name", READERS)
def test_cameras_are_read_where_their_owner_ships_them(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    WRITERS[name](folder)
    assert open_truth(f"{name}:{folder}").read(0).camera is None
    places = {"kitti": next(folder.rglob("image"), folder), "scannet": next(folder.rglob("color"), folder)}
    if name not in places:
        return
    file = "intrinsics/2011_image_0000000002_image_02.txt" if name == "kitti" else "intrinsic/intrinsic_depth.txt"
    matrix = np.eye(3 if name == "kitti" else 4)
    matrix[[0, 0, 1, 1], [0, 2, 1, 2]] = 700, 8.5, 710, 6.5
    path = places[name].parent / file
    path.parent.mkdir()
    np.savetxt(path, matrix)
    assert open_truth(f"{name}:{folder}").read(0).camera == Camera(700, 710, 8.5, 6.5)
    np.savetxt(path, matrix[:2])
    with pytest.raises(DataFolderError, match="of a matrix"):
        open_truth(f"{name}:{folder}").read(0)


def test_a_cameras_points_lie_where_a_pinhole_sees_them() -> None:
    """The other implementation looks along -z with y up, as meshes do."""
    depth = torch.from_numpy(DEPTH)
    points = Camera.of_fov(50, H, W).points(depth).permute(1, 2, 0).numpy()
    assert np.allclose(points * (1, -1, -1), Pinhole(50).rays(H, W) * DEPTH[..., None], atol=1e-9)


def test_a_limit_of_a_plain_folder_leaves_pixels_out(tmp_path: Path) -> None:
    plain(tmp_path / "data")
    data = open_truth(f"folder:{tmp_path / 'data'}", cap_m=5.0)
    assert int(data.read(0).valid.sum()) == int((hole(DEPTH, np.inf) < 5).sum())


@pytest.mark.parametrize("name", READERS)
def test_a_folder_without_samples_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="expected"):
        open_truth(f"{name}:{tmp_path}")


def test_unknown_names_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="megadepth"):
        open_truth(str(tmp_path))
    with pytest.raises(UnknownNameError, match="sintel"):
        open_truth(f"sintel:{tmp_path}")
    with pytest.raises(DataFolderError, match="no folder"):
        open_truth(f"kitti:{tmp_path / 'none'}")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    diode(tmp_path)
    mask = next(tmp_path.rglob("*_depth_mask.npy"))
    mask.unlink()
    with pytest.raises(DataFolderError, match="depth_mask"):
        open_truth(f"diode:{tmp_path}").read(0)
    np.save(mask, np.ones((3, 3)))
    with pytest.raises(DataFolderError, match="one size"):
        open_truth(f"diode:{tmp_path}").read(0)


def test_a_picture_of_another_shape_than_its_depth_is_refused(tmp_path: Path) -> None:
    plain(tmp_path)
    image(tmp_path / "a.png", (H, H))
    with pytest.raises(DataFolderError, match="one shape"):
        open_truth(f"folder:{tmp_path}").read(0)
