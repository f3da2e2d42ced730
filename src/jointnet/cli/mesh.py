"""jointnet mesh: an image and its depth -> a mesh or a point cloud."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointnet.cli.arguments import number
from jointnet.errors import InputFileError, RangeError, ShapeError
from jointnet.files.json_files import read_named_values

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.geometry.mesh import Mesh


_SAID_OF_A_LENS = {"projection": (str,), "fov_deg": (float, int), "span_deg": (float, int), "depth_near_m": (float, int, type(None))}
"""What a mesh is made by, and its types in result.json."""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("mesh", help="turn an image and its depth into a mesh (.glb) or a point cloud (.ply)")
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("depth", type=Path, metavar="DEPTH", help="disparity as 16-bit PNG or .npy")
    parser.add_argument("--projection", choices=("pinhole", "cylindrical", "equirectangular"), help="default: pinhole, or result.json's")
    angle = parser.add_mutually_exclusive_group()
    angle.add_argument("--fov", type=number(1, 179), metavar="DEG", help="pinhole: angle across the width (default: result.json's, or 55)")
    angle.add_argument("--span", type=number(0, 360), metavar="DEG", help="panoramas: angle across the width; 360 closes the seam")
    add_depth_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="x.glb or x.ply")
    parser.set_defaults(run=run)


def add_depth_arguments(parser: argparse.ArgumentParser) -> None:
    """How disparity becomes depth, and depth a mesh."""
    parser.add_argument("--near", type=number(1e-6, 1e9), metavar="M", help="depth at disparity 1 in metres (default: the model's, or 1)")
    parser.add_argument("--far", type=number(1e-6, 1e9), metavar="M", help="depth of what is farthest (default: 30 x near)")
    parser.add_argument(
        "--disparity",
        choices=("affine", "scaled"),
        help="affine: 1 is near, 0 is far; scaled: near / z (default: the model's, or affine)",
    )
    parser.add_argument(
        "--edge-threshold",
        type=number(1e-6, 1e9),
        default=0.05,
        metavar="SHARE",
        help="cut triangles where disparity jumps by this share (default: 0.05)",
    )


def run(options: argparse.Namespace) -> None:
    """Run the command. Raises: JointNetError."""
    from jointnet.geometry.files import check_mesh_path, write_mesh
    from jointnet.modalities.read import read_map, read_picture

    image, disparity = read_picture(options.image)[0], read_map(options.depth, "depth")[0]
    if image.shape[-2:] != disparity.shape[-2:]:
        sizes = ["x".join(map(str, m.shape[-2:])) for m in (image, disparity)]
        raise ShapeError(f"got an image of {sizes[0]} px and a depth map of {sizes[1]}; expected one size")
    said = read_result(options.depth.with_name("result.json"))
    options.projection = options.projection or said.get("projection", "pinhole")
    is_pinhole = options.projection == "pinhole"
    given, other = (options.fov, options.span) if is_pinhole else (options.span, options.fov)
    if other is not None:
        wrong, right = ("--span", "--fov") if is_pinhole else ("--fov", "--span")
        raise RangeError(f"got {wrong} with a {options.projection} projection; expected {right}")
    default = said.get("fov_deg", 55.0) if is_pinhole else said.get("span_deg", 180.0)
    check_mesh_path(options.output)
    print(write_mesh(scene_mesh(image, disparity, options, default if given is None else given, said), options.output))


def read_result(path: Path) -> dict[str, Any]:
    """What a command wrote beside its maps; nothing if there is no such file. Raises: InputFileError."""
    try:
        said = read_named_values(path)
        for name, kinds in _SAID_OF_A_LENS.items():
            if not isinstance(said.get(name, kinds[0]()), kinds):
                raise ValueError(f"{name} is {said[name]!r}")
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read {str(path)!r}, which should say what the depth beside it means: {error}") from error
    return said


def depth_range(options: argparse.Namespace, said: dict[str, Any]) -> tuple[float, float, str]:
    """(near_m, far_m, kind of disparity): what the options leave open is taken from what the model said of its depth.

    Raises: RangeError.
    """
    from jointnet.geometry.depth import depth_from_disparity

    scaled_near_m = said.get("depth_near_m")
    near_m = options.near or scaled_near_m or 1.0
    chosen = near_m, options.far or 30 * near_m, options.disparity or ("scaled" if scaled_near_m else "affine")
    depth_from_disparity([1.0], *chosen)  # says whether the range is one
    return chosen


def scene_mesh(image: Tensor, disparity: Tensor, options: argparse.Namespace, angle_deg: float, said: dict[str, Any]) -> Mesh:
    """Image (3, H, W) and disparity (1, H, W) -> a mesh. Raises: RangeError."""
    import numpy as np

    from jointnet.geometry.depth import depth_from_disparity
    from jointnet.geometry.mesh import build_mesh
    from jointnet.geometry.projection import get_projection
    from jointnet.modalities.write import channels_last, to_pil

    depth_m = depth_from_disparity(channels_last(disparity), *depth_range(options, said))
    projection = get_projection(options.projection, angle_deg)
    return build_mesh(np.asarray(to_pil(image)), depth_m, projection, edge_threshold=options.edge_threshold)
