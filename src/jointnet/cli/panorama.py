"""jointnet panorama: text (and a photo) -> a wide image, its depth and a scene to walk in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnet.cli.arguments import SAMPLING, DepthUnitName, PromptOption, choice, number, one_prompt, parse_size, parse_text, whole_number
from jointnet.cli.checks import check_readable, check_run, low_res_files
from jointnet.cli.command import Group, add_command, print_written, takes
from jointnet.cli.mesh import DepthOptions, depth_range, scene_mesh
from jointnet.cli.sampling import Run, facts_of, open_model, options_of, run_arguments, run_request, write_result
from jointnet.cli.sizes import check_one_size
from jointnet.cli.world import warn_of_strangers
from jointnet.demo.bundled import TASK_MODEL
from jointnet.errors import InputFileError, OutputError, UnknownNameError
from jointnet.files.result_set import check_result_set, file_ids, map_names

if TYPE_CHECKING:
    from jointnet.files.result_set import Writable
    from jointnet.tasks.output import Result

EXAMPLES = """
jointnet panorama "a red ball on a checkered floor" --size 128x512 --span 360 -o out
jointnet panorama "a yellow cone on a wooden floor" --image photo.png --image-fov 50 -o out
jointnet panorama --image photo.png --depth depth.png -o out
"""
CANVAS = "Canvas"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "panorama", panorama, examples=EXAMPLES, panel="Sample", holds_warnings=True)


@takes(depth=Group.of(DepthOptions), run=run_arguments("Sampling", "Prompt", "Tiles", "Known parts", model=TASK_MODEL))
def panorama(
    run: Run,
    depth: DepthOptions,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", parser=parse_text, help="what to draw; optional with --image")] = None,
    prompt_option: PromptOption = None,
    size: Annotated[
        tuple | None,
        typer.Option(
            "--size",
            parser=parse_size,
            metavar="HxW",
            help="pixels",
            show_default="the model's size, 4 times as wide",
            rich_help_panel=CANVAS,
        ),
    ] = None,
    span: Annotated[
        float,
        typer.Option("--span", parser=number(0, 360), metavar="DEG", help="angle across the width; 360 wraps", rich_help_panel=CANVAS),
    ] = 180.0,
    projection: Annotated[
        str, choice("--projection", names=("cylindrical", "equirectangular"), panel=CANVAS, help_="of the canvas")
    ] = "cylindrical",
    image: Annotated[
        Path | None, typer.Option("--image", metavar="PHOTO", help="a photo to paint the rest around", rich_help_panel=CANVAS)
    ] = None,
    image_fov: Annotated[
        float,
        typer.Option("--image-fov", parser=number(1, 179), metavar="DEG", help="angle across the photo's width", rich_help_panel=CANVAS),
    ] = 60.0,
    depth_file: Annotated[
        Path | None,
        typer.Option(
            "--depth", metavar="DEPTH", help="the photo's depth, 16-bit PNG or .npy", show_default="predicted", rich_help_panel=CANVAS
        ),
    ] = None,
    depth_unit: DepthUnitName = "disparity",
    scale: Annotated[
        int,
        typer.Option(
            "--refine", parser=whole_number(1, 8), metavar="S", help="refine at S times the size (1 to 8)", rich_help_panel=SAMPLING
        ),
    ] = 1,
) -> None:
    """Draw a wide image, its depth and a 3-D scene."""
    words = one_prompt(prompt, prompt_option)
    if not words and image is None:
        raise InputFileError("got neither a prompt nor --image; pass what the panorama should show, or a photo to paint around")
    if depth_file is not None and image is None:
        raise InputFileError(f"got --depth {str(depth_file)!r} without --image; pass the photo that it is of too")
    inputs = [path for path in (image, depth_file) if path is not None]
    modalities = check_run(run)
    if depth_file is not None and "depth" not in modalities:
        raise UnknownNameError(f"got the photo's depth for a model of {', '.join(modalities)}; leave it out")
    known = {"rgb": image, "depth": depth_file}
    check_readable([] if depth_file is None else [depth_file], pictures=[] if image is None else [image])
    check_one_size({name: path for name, path in known.items() if path is not None})
    read = file_ids([*inputs, *low_res_files(run, modalities)])
    scene_name = ["scene.glb"] if "depth" in modalities else []
    check_result_set(run.output, [*map_names(modalities), *scene_name], read)

    from jointnet.modalities.modality import file_names
    from jointnet.modalities.read import read_depth, read_picture
    from jointnet.tasks.panorama import Panorama

    photo = None if image is None else read_picture(image)
    photo_depth = None if depth_file is None else read_depth(depth_file, depth_unit)
    pipeline = open_model(run, words)
    check_result_set(run.output, [*file_names(pipeline.modalities), *scene_name], read)
    near_m = pipeline.config.depth_near_m
    if warn_of_strangers(run, inputs, near_m):
        near_m = None
    if photo_depth is not None and photo_depth.near_m is not None:
        near_m = photo_depth.near_m
    depth_range(depth, {"depth_near_m": near_m})
    started = time.monotonic()
    options = options_of(run, pipeline, words, run.seed)
    height, width = size or (None, None)
    lens = {"projection": projection, "span_deg": span}
    request = Panorama(
        prompt=words,
        height=height,
        width=width,
        projection=projection,
        span_deg=span,
        image=photo,
        image_fov_deg=image_fov,
        depth=None if photo_depth is None else photo_depth.disparity,
        scale=scale,
        options=options,
    )
    result = run_request(pipeline, request)
    unit = None if depth_unit == "disparity" else depth_unit
    own = {"height": height, "width": width, "image": image, "image_fov_deg": image_fov, "scale": scale}
    own |= {"depth": depth_file, "depth_unit": unit, **vars(depth)}
    facts = {
        **facts_of("panorama", run, pipeline, prompt=words, seed=run.seed, options=options, request=own),
        **lens,
        "depth_near_m": near_m,
    }
    scene_file = _scene_file(result, depth, projection, span, facts)
    paths = write_result(run.output, result, facts, started, more=scene_file, inputs=read)
    print_written(paths, run.output, as_json=run.as_json)
    if "depth" in result.maps and not scene_file:
        raise OutputError("wrote the maps but no scene.glb: its triangles are all cut at depth edges; run jointnet mesh --edge-threshold")


def _scene_file(result: Result, depth: DepthOptions, projection: str, span_deg: float, facts: Mapping[str, Any]) -> dict[str, Writable]:
    """Return scene.glb; nothing without depth, or if all triangles are cut."""
    import numpy as np

    from jointnet.geometry.files import MeshFile
    from jointnet.modalities.write import channels_last, to_pil

    if "depth" not in result.maps:
        return {}
    picture, disparity = np.asarray(to_pil(result.maps["rgb"][0])), channels_last(result.maps["depth"][0])
    scene = scene_mesh(picture, disparity, depth, projection, span_deg, facts)
    return {"scene.glb": MeshFile(scene)} if len(scene.faces) else {}
