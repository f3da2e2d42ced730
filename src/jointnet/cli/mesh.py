"""jointnet mesh: an image and its depth -> a mesh or a point cloud."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnet.cli.arguments import OUTPUT, AsJson, choice, number
from jointnet.cli.beside import LENSES, lens_beside, scene_facts
from jointnet.cli.checks import check_output_file, check_readable
from jointnet.cli.command import Group, add_command, print_written, takes
from jointnet.cli.maps import MapFiles
from jointnet.errors import InputFileError, JointNetWarning, RangeError, ShapeError, UnknownNameError
from jointnet.files.marks import is_unchanged
from jointnet.files.result_facts import RESULT_FILE, facts_beside, is_as_written, is_replaced
from jointnet.geometry.suffixes import check_mesh_path

if TYPE_CHECKING:
    from jointnet.geometry.mesh import Array, Mesh

EXAMPLES = """
jointnet mesh photo.png out/depth.npy --fov 60 --near 1.5 -o scene.glb
jointnet mesh out/image.png out/depth.npy --normal out/normal.npy -o scene.glb
jointnet mesh panorama/image.png panorama/depth.npy -o points.ply
"""
SCENE = "Scene"


@dataclass(frozen=True, kw_only=True)
class DepthOptions:
    """How disparity becomes depth, and depth a mesh."""

    near: Annotated[
        float | None,
        typer.Option(
            "--near",
            parser=number(1e-6, 1e9),
            metavar="M",
            help="depth at disparity 1 in metres",
            show_default="the model's, or 1",
            rich_help_panel=SCENE,
        ),
    ] = None
    far: Annotated[
        float | None,
        typer.Option(
            "--far",
            parser=number(1e-6, 1e9),
            metavar="M",
            help="depth of what is farthest",
            show_default="30 x near",
            rich_help_panel=SCENE,
        ),
    ] = None
    disparity: Annotated[
        str | None,
        choice(
            "--disparity",
            names=("affine", "scaled"),
            panel=SCENE,
            help_="affine means 1 is near and 0 is far, scaled means near / z",
            default="the model's, or affine",
        ),
    ] = None
    edge_threshold: Annotated[
        float,
        typer.Option(
            "--edge-threshold",
            parser=number(1e-6, 1e9),
            metavar="SHARE",
            help="cut triangles where disparity jumps by this share",
            rich_help_panel=SCENE,
        ),
    ] = 0.05


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "mesh", mesh, examples=EXAMPLES, panel="Scenes", holds_warnings=True)


@takes(files=Group.of(MapFiles), depth_options=Group.of(DepthOptions))
def mesh(
    files: MapFiles,
    depth_options: DepthOptions,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="the picture")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="x.glb or x.ply", rich_help_panel=OUTPUT)],
    depth_file: Annotated[Path | None, typer.Argument(metavar="DEPTH", help="disparity as 16-bit PNG or .npy; or by --depth")] = None,
    projection: Annotated[
        str | None,
        choice(
            "--projection",
            names=LENSES,
            panel=SCENE,
            help_="what the picture is",
            default="pinhole, or result.json's",
        ),
    ] = None,
    fov: Annotated[
        float | None,
        typer.Option(
            "--fov",
            parser=number(1, 179),
            metavar="DEG",
            help="pinhole: angle across the width",
            show_default="result.json's, or 55",
            rich_help_panel=SCENE,
        ),
    ] = None,
    span: Annotated[
        float | None,
        typer.Option(
            "--span",
            parser=number(0, 360),
            metavar="DEG",
            help="panoramas: angle across the width; 360 closes the seam",
            show_default="result.json's, or 180",
            rich_help_panel=SCENE,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a mesh (.glb) or a point cloud (.ply) of an image and its depth; --normal gives it its shading."""
    if fov is not None and span is not None:
        raise typer.BadParameter("got --fov too, expected one of them", param_hint="--span")
    paths = {"rgb": image, **_paths_of(files, depth_file)}
    check_mesh_path(output)
    check_readable([path for name, path in paths.items() if name != "rgb"], pictures=[image])
    check_output_file(output, paths.values(), is_unchanged)
    lens, angle_deg, facts = lens_of(paths, projection, fov, span)
    if "normal" in paths and lens != "pinhole":
        raise RangeError(f"got normals with a {lens} projection; expected pinhole: a panorama's are not of one camera")
    depth_range(depth_options, facts)

    from jointnet.geometry.files import write_mesh

    picture, disparity, *normal, found = _read_of_one_size(paths, files.depth_unit)
    facts = {**facts, **found}
    scene = scene_mesh(picture, disparity, depth_options, lens, angle_deg, facts)
    if normal:
        scene = with_normals(scene, normal[0])
    print_written([write_mesh(scene, output)], output, as_json=as_json)


def lens_of(
    paths: Mapping[str, Path], projection: str | None, fov_deg: float | None, span_deg: float | None
) -> tuple[str, float, dict[str, Any]]:
    """Return the projection, its angle across the width in degrees, and what the result.json beside the depth says.

    What the options leave open is taken from there, or from beside the picture. Raises: RangeError for the angle of another projection.
    """
    changed = [path for path in (paths["rgb"], paths["depth"]) if is_replaced(path)]
    if changed:
        warnings.warn(
            f"{' and '.join(map(str, changed))} is not what {RESULT_FILE} beside it was written with, so that it says nothing of it: "
            "expect a lens and a scale that are not its own, or pass --fov (or --projection and --span) and --near",
            JointNetWarning,
            stacklevel=2,
        )
    facts = {**lens_beside(paths["rgb"]), **scene_facts(paths["depth"])}
    lens = projection or facts.get("projection", "pinhole")
    is_pinhole = lens == "pinhole"
    angle, other = (fov_deg, span_deg) if is_pinhole else (span_deg, fov_deg)
    if other is not None:
        wrong, right = ("--span", "--fov") if is_pinhole else ("--fov", "--span")
        raise RangeError(f"got {wrong} with a {lens} projection; expected {right}")
    default = facts.get("fov_deg", 55.0) if is_pinhole else facts.get("span_deg", 180.0)
    return lens, default if angle is None else angle, facts


def _paths_of(files: MapFiles, depth: Path | None) -> dict[str, Path]:
    """Return the files of depth and, if it is there, normal. Raises: InputFileError, UnknownNameError."""
    others = files.single()
    if depth is not None and "depth" in others:
        raise InputFileError(f"got DEPTH {str(depth)!r} and --depth {str(others['depth'])!r}; pass one")
    paths = others if depth is None else {"depth": depth, **others}
    if "depth" not in paths:
        raise typer.BadParameter("got none, expected a file as the argument or by --depth", param_hint="DEPTH")
    unknown = set(paths) - {"depth", "normal"}
    if unknown:
        raise UnknownNameError(f"got {', '.join(sorted(unknown))} for a mesh; expected depth and, for its shading, normal")
    return {name: paths[name] for name in ("depth", "normal") if name in paths}


def _read_of_one_size(paths: Mapping[str, Path], depth_unit: str) -> list[Any]:
    """Return the picture (H, W, 3) uint8, the disparity (H, W), if it is there the normals (H, W, 3), and facts on the depth's unit.

    Raises: InputFileError, RangeError, ShapeError.
    """
    facts: dict[str, float | None] = {}
    maps = {name: _read(path, name) for name, path in paths.items() if name != "depth" or depth_unit == "disparity"}
    if depth_unit != "disparity":
        maps["depth"], facts = _read_distances(paths["depth"], depth_unit)
    maps = {name: maps[name] for name in paths}
    sizes = {"image" if name == "rgb" else f"{name} map": "x".join(map(str, m.shape[:2])) for name, m in maps.items()}
    if len(set(sizes.values())) > 1:
        parts = " and a ".join(f"{name} of {size} px" for name, size in sizes.items())
        raise ShapeError(f"got an {parts}; expected one size")
    return [*maps.values(), facts]


def _is_written_map(path: Path, modality: str) -> bool:
    """True for a map of that modality which a command of ours wrote, with the content that it had then."""
    names = {"rgb": ("image.png",), "depth": ("depth.npy", "depth.png"), "normal": ("normal.npy", "normal.png")}[modality]
    return path.name in names and is_as_written(path, facts_beside(path))


def _read_distances(path: Path, unit: str) -> tuple[Array, dict[str, float | None]]:
    """Return disparity (H, W), and its near and far distance. Raises: InputFileError, RangeError, ShapeError."""
    from jointnet.modalities.read import read_depth
    from jointnet.modalities.write import channels_last

    depth = read_depth(path, unit)
    return channels_last(depth.disparity[0]), {"depth_near_m": depth.near_m, "depth_far_m": depth.far_m}


def _read(path: Path, modality: str) -> Array:
    """Return a map, channels last; torch is imported for files that are not plain only. Raises: InputFileError, RangeError, ShapeError."""
    from jointnet.geometry.plain_files import read_plain

    plain = read_plain(path, modality, is_ours=_is_written_map(path, modality))
    if plain is not None:
        return plain

    import numpy as np

    from jointnet.modalities.read import read_map
    from jointnet.modalities.write import channels_last, to_pil

    map_ = read_map(path, modality)[0]
    return np.asarray(to_pil(map_)) if modality == "rgb" else channels_last(map_)


def depth_range(options: DepthOptions, facts: Mapping[str, Any]) -> tuple[float, float, str]:
    """Return (near_m, far_m, kind of disparity); what the options leave open is taken from result.json. Raises: RangeError."""
    from jointnet.geometry.depth import depth_from_disparity

    scaled_near_m = facts.get("depth_near_m")
    near_m = options.near or scaled_near_m or 1.0
    far_m = options.far or max(30 * near_m, facts.get("depth_far_m") or 0)
    chosen = near_m, far_m, options.disparity or ("scaled" if scaled_near_m else "affine")
    depth_from_disparity([1.0], *chosen)  # refuses a range that is none
    return chosen


def scene_mesh(
    picture: Array, disparity: Array, options: DepthOptions, projection: str, angle_deg: float, facts: Mapping[str, Any]
) -> Mesh:
    """Picture (H, W, 3) uint8 and disparity (H, W) -> a mesh. Raises: RangeError."""
    from jointnet.geometry.depth import depth_from_disparity
    from jointnet.geometry.mesh import build_mesh
    from jointnet.geometry.projection import get_projection

    depth_m = depth_from_disparity(disparity, *depth_range(options, facts))
    return build_mesh(picture, depth_m, get_projection(projection, angle_deg), edge_threshold=options.edge_threshold)


def with_normals(scene: Mesh, normal: Array) -> Mesh:
    """Return a pinhole mesh with the normals of a map (H, W, 3), in the same frame; its own stay where the map has none."""
    import numpy as np

    normals = normal.reshape(-1, 3)  # (V, 3), one a pixel
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return replace(scene, normals=np.where(length > 0.5, normals / np.maximum(length, 0.5), scene.normals))
