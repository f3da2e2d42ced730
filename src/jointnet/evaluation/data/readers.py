"""Readers of public depth data sets: what each owner ships, unpacked, as a folder.

Units, masks and limits are the owners' and those usual in the literature; each reader states them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from pathlib import Path

import numpy as np
import torch

from jointnet.errors import DataFolderError, UnknownNameError
from jointnet.evaluation.data.sample import Camera, Files, TruthData, TruthSample, h5, integers_of, rgb_of, stat_of, truth
from jointnet.files.fingerprints import of_texts
from jointnet.files.result_facts import facts_beside

_PICTURES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def megadepth(folder: Path) -> Files:
    """MegaDepth_v1: SCENE/denseN/imgs/NAME.jpg with depths/NAME.h5 ("depth"), of which one scene's unit is unknown.

    0 is no depth; maps of ordinal labels (negative numbers, no depth at all) are left out. No limit. Source: Li & Snavely (2018).
    """
    rows = [
        (_relative(image, folder), (image, image.parents[1] / "depths" / f"{image.stem}.h5"))
        for image in sorted(folder.rglob("imgs/*"))
        if image.suffix in _PICTURES and (image.parents[1] / "depths" / f"{image.stem}.h5").is_file()
    ]

    def load(id_: str, paths: tuple[Path, ...]) -> TruthSample:
        with h5(paths[1]) as file:
            depth = np.asarray(file["depth"], np.float64)
        return truth(id_, rgb_of(paths[0]), depth, depth > 0)

    return _found(Files("MegaDepth", inf, rows, load), folder, "SCENE/denseN/imgs/NAME.jpg with depths/NAME.h5")


_NYU_CAMERA = Camera(518.857901, 519.469611, 325.582449 - 1, 253.736166 - 1)
"""The colour camera of the toolbox, which counts pixels from 1."""


@dataclass(frozen=True)
class NyuLabeled:
    """NYU Depth v2: nyu_depth_v2_labeled.mat, the 654 test pictures where splits.mat is beside it, else all 1,449.

    0 to 10 m; of each 480 x 640 map rows 45 to 470 and columns 41 to 600 count (Eigen et al., 2014), and the camera is the
    toolbox's. Source: Silberman et al. (2012).
    """

    folder: Path
    name: str = "NYU Depth v2"
    cap_m: float = 10.0

    @cached_property
    def rows(self) -> list[int]:
        """Numbers of the pictures. Raises: DataFolderError."""
        if not self._file.is_file():
            raise DataFolderError(f"got {str(self.folder)!r} without nyu_depth_v2_labeled.mat; expected NYU Depth v2's labeled data set")
        splits = self.folder / "splits.mat"
        if splits.is_file():
            from scipy.io import loadmat

            return [int(number) - 1 for number in loadmat(str(splits))["testNdxs"].ravel()]
        with h5(self._file) as file:
            return list(range(len(file["depths"])))

    @property
    def _file(self) -> Path:
        return self.folder / "nyu_depth_v2_labeled.mat"

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> TruthSample:
        """Read a sample. Raises: DataFolderError."""
        number = self.rows[row]
        try:
            with h5(self._file) as file:
                image, depth = np.asarray(file["images"][number]), np.asarray(file["depths"][number], np.float64)  # (3, W, H), (W, H)
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise DataFolderError(f"cannot read picture {number} of {str(self._file)!r}: {error}; fetch it anew") from error
        rgb, depth = torch.from_numpy(image.transpose(0, 2, 1).astype(np.float32) / 255), depth.T
        valid = (depth > 1e-3) & (depth < self.cap_m)
        if depth.shape == (480, 640):
            inside = np.zeros_like(valid)
            inside[45:471, 41:601] = True
            valid &= inside
        camera = _NYU_CAMERA if depth.shape == (480, 640) else None
        return truth(f"{number:04d}", rgb, depth, valid, camera=camera)

    def fingerprint(self) -> str:
        """As ``TruthData``."""
        return of_texts([str(self.rows), stat_of(self._file)])


def kitti(folder: Path) -> Files:
    """KITTI's depth benchmark: val_selection_cropped/image/*.png with groundtruth_depth/*.png (16 bits, 256 a metre, 0: none).

    Up to 80 m; intrinsics/*.txt are read where they are there. Source: Uhrig et al. (2017).
    """
    root = next((place for place in (folder, *folder.rglob("val_selection_cropped")) if (place / "groundtruth_depth").is_dir()), folder)
    rows = []
    for depth in sorted((root / "groundtruth_depth").glob("*.png")):
        image = root / "image" / depth.name.replace("groundtruth_depth", "image")
        rows.append((depth.stem.replace("_groundtruth_depth", ""), (image, depth)))

    def load(id_: str, paths: tuple[Path, ...]) -> TruthSample:
        depth = integers_of(paths[1]) / 256
        camera = _camera(paths[0].parents[1] / "intrinsics" / f"{paths[0].stem}.txt")
        return truth(id_, rgb_of(paths[0]), depth, (depth > 1e-3) & (depth < 80), camera=camera)

    return _found(Files("KITTI", 80.0, rows, load), folder, "val_selection_cropped/image/*.png and groundtruth_depth/*.png")


def diode(folder: Path) -> Files:
    """DIODE: scene_*/scan_*/NAME.png with NAME_depth.npy (metres) and NAME_depth_mask.npy; NAME_normal.npy is not read.

    Up to 300 m, the scanner's range. Source: Vasiljevic et al. (2019).
    """
    rows = []
    for depth in sorted(folder.rglob("*_depth.npy")):
        stem = depth.with_name(depth.name.removesuffix("_depth.npy"))
        rows.append((_relative(stem, folder), (Path(f"{stem}.png"), depth, Path(f"{stem}_depth_mask.npy"))))

    def load(id_: str, paths: tuple[Path, ...]) -> TruthSample:
        depth, mask = (np.load(path, allow_pickle=False).astype(np.float64) for path in paths[1:])
        depth = depth[..., 0] if depth.ndim == 3 else depth
        return truth(id_, rgb_of(paths[0]), np.where(depth < 300, depth, np.inf), mask > 0.5)

    return _found(Files("DIODE", 300.0, rows, load), folder, "scene_*/scan_*/NAME.png with NAME_depth.npy")


def scannet(folder: Path) -> Files:
    """ScanNet: sceneNNNN_NN/color/N.jpg with depth/N.png (16 bits, millimetres, 0: none), as its exporter writes them.

    Up to 10 m; the colour pictures are larger than the depth maps, which are what is compared at; SCENE/intrinsic/intrinsic_depth.txt is
    read where it is there. Source: Dai et al. (2017).
    """
    rows = [
        (_relative(depth.with_suffix(""), folder), (depth.parents[1] / "color" / f"{depth.stem}.jpg", depth))
        for depth in sorted(folder.rglob("depth/*.png"))
    ]

    def load(id_: str, paths: tuple[Path, ...]) -> TruthSample:
        depth = integers_of(paths[1]) / 1000
        camera = _camera(paths[1].parents[1] / "intrinsic" / "intrinsic_depth.txt")
        return truth(id_, rgb_of(paths[0]), depth, (depth > 1e-3) & (depth < 10), camera=camera)

    return _found(Files("ScanNet", 10.0, rows, load), folder, "SCENE/color/N.jpg with depth/N.png")


def eth3d(folder: Path) -> Files:
    """ETH3D's high-resolution multi-view training set: SCENE/images/dslr_images/NAME.JPG with ground_truth_depth/dslr_images/NAME.JPG.

    The depth files are raw float32 of the picture's size, in metres, infinite where there is none. No limit. Source: Schops et al. (2017).
    """
    rows = [
        (_relative(depth, folder), (_eth3d_image(depth), depth))
        for depth in sorted(folder.rglob("ground_truth_depth/dslr_images/*"))
        if depth.suffix in _PICTURES
    ]

    def load(id_: str, paths: tuple[Path, ...]) -> TruthSample:
        rgb, depth = rgb_of(paths[0]), np.fromfile(paths[1], np.float32)
        if depth.size != rgb[0].numel():
            raise ValueError(f"got {depth.size} numbers for a picture of {rgb.shape[1]}x{rgb.shape[2]}")
        depth = depth.reshape(rgb.shape[1:]).astype(np.float64)
        return truth(id_, rgb, depth, np.isfinite(depth))

    return _found(Files("ETH3D", inf, rows, load), folder, "SCENE/images/dslr_images/NAME.JPG with ground_truth_depth/dslr_images/NAME.JPG")


def _eth3d_image(depth: Path) -> Path:
    return depth.parents[2] / "images" / "dslr_images" / depth.name


def ibims(folder: Path) -> Files:
    """iBims-1, ibims1_core_raw: rgb/NAME.png, depth/NAME.png (16 bits, 65535 is 50 m), mask_invalid/ and mask_transp/NAME.png (255: valid).

    Up to 50 m. Source: Koch et al. (2018).
    """
    root = next((place for place in (folder, *folder.rglob("ibims1_core_raw")) if (place / "mask_invalid").is_dir()), folder)
    parts = ("rgb", "depth", "mask_invalid", "mask_transp")
    rows = [(image.stem, tuple(root / part / image.name for part in parts)) for image in sorted((root / "rgb").glob("*.png"))]

    def load(id_: str, paths: tuple[Path, ...]) -> TruthSample:
        depth, *masks = (integers_of(path) for path in paths[1:])
        return truth(id_, rgb_of(paths[0]), depth * 50 / 65535, np.logical_and(*(mask > 0 for mask in masks)))

    return _found(Files("iBims-1", 50.0, rows, load), folder, "rgb/, depth/, mask_invalid/ and mask_transp/NAME.png")


def plain(folder: Path, cap_m: float = inf) -> Files:
    """A plain folder: NAME.png (or .jpg) with NAME.depth.npy, metres, not finite or 0 where there is none.

    Where a result.json beside it, as ``jointnet demo scene`` writes it, states ``depth_near_m``, the map is disparity: that over depth.
    NAME.normal.npy (H, W, 3) is read where it is there: unit vectors in our axes.
    """
    pictures = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in _PICTURES} if folder.is_dir() else {}
    rows = [(stem, (path, folder / f"{stem}.depth.npy")) for stem, path in pictures.items() if (folder / f"{stem}.depth.npy").is_file()]

    def load(id_: str, paths: tuple[Path, ...]) -> TruthSample:
        depth = np.load(paths[1], allow_pickle=False).astype(np.float64)
        depth = depth[..., 0] if depth.ndim == 3 else depth
        if (near_m := facts_beside(paths[1]).get("depth_near_m")) is not None:
            depth = np.divide(near_m, depth, out=np.full_like(depth, inf), where=depth > 0)
        normal_file = folder / f"{id_}.normal.npy"
        normal = np.moveaxis(np.load(normal_file, allow_pickle=False), -1, 0) if normal_file.is_file() else None
        return truth(id_, rgb_of(paths[0]), depth, depth < cap_m, normal)

    return _found(Files(folder.name, cap_m, rows, load), folder, "NAME.png with NAME.depth.npy")


READERS: dict[str, Callable[[Path], TruthData]] = {
    "megadepth": megadepth,
    "nyu": NyuLabeled,
    "kitti": kitti,
    "diode": diode,
    "scannet": scannet,
    "eth3d": eth3d,
    "ibims": ibims,
    "folder": plain,
}
"""By the name before the colon in ``--data megadepth:FOLDER``."""


def open_truth(text: str, cap_m: float | None = None) -> TruthData:
    """Open NAME:FOLDER. Raises: UnknownNameError, DataFolderError."""
    name, colon, folder = text.partition(":")
    if not colon:
        raise UnknownNameError(f"got data {text!r}; expected NAME:FOLDER with NAME one of {', '.join(READERS)}")
    if name not in READERS:
        raise UnknownNameError(f"got data set {name!r}; expected one of {', '.join(READERS)}")
    if not folder or not Path(folder).is_dir():
        raise DataFolderError(f"got {folder!r}, which is no folder; expected {name}'s data there")
    reader = partial(plain, cap_m=cap_m) if name == "folder" and cap_m is not None else READERS[name]
    data = reader(Path(folder))
    len(data)  # reads what lies there
    return data


def _found(data: Files, folder: Path, expected: str) -> Files:
    if not data.rows:
        raise DataFolderError(f"got {str(folder)!r}, in which there is no sample of {data.name}; expected {expected}")
    return data


def _camera(path: Path) -> Camera | None:
    return Camera.of_matrix(path) if path.is_file() else None


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
