"""jointnet panorama: text (and a photo) -> a wide image, its depth and a scene to walk in."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from jointnet.cli.arguments import number, size, whole_number
from jointnet.cli.mesh import add_depth_arguments, depth_range, scene_mesh
from jointnet.cli.sampling import (
    add_resample_argument,
    add_sampling_arguments,
    add_stride_argument,
    describe_run,
    first_of,
    open_model,
    task_options,
)
from jointnet.demo.bundled import TASK_MODEL
from jointnet.errors import InputFileError, OutputError


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("panorama", help="make a wide image, its depth and a 3-D scene")
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="optional with --image")
    add_sampling_arguments(parser, model=TASK_MODEL)
    parser.add_argument("--size", type=size, metavar="HxW", help="pixels (default: the model's size, 4 times as wide)")
    parser.add_argument("--span", type=number(0, 360), default=180.0, metavar="DEG", help="angle across the width; 360 wraps (180)")
    parser.add_argument("--projection", choices=("cylindrical", "equirectangular"), default="cylindrical")
    parser.add_argument("--image", type=Path, metavar="PHOTO", help="a photo to paint the rest around")
    parser.add_argument("--image-fov", type=number(1, 179), default=60.0, metavar="DEG", help="angle across the photo's width (60)")
    add_stride_argument(parser)
    add_resample_argument(parser)
    parser.add_argument("--refine", type=whole_number(1, 8), default=1, metavar="S", help="refine at S times the size (default: 1)")
    add_depth_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command. Raises: JointNetError."""
    from jointnet.cli.output import write_set
    from jointnet.geometry.files import MeshFile
    from jointnet.modalities.read import read_picture

    if not options.prompt and options.image is None:
        raise InputFileError("got neither a prompt nor --image; pass what the panorama should show, or a photo to paint around")
    photo = None if options.image is None else read_picture(options.image)
    pipeline = open_model(options, options.prompt)
    depth_range(options, {"depth_near_m": pipeline.config.depth_near_m})
    begun = time.monotonic()
    height, width = options.size or (None, None)
    output: Any = pipeline.panorama(
        options.prompt,
        height=height,
        width=width,
        span_deg=options.span,
        projection=options.projection,
        image=photo,
        image_fov_deg=options.image_fov,
        scale=options.refine,
        **task_options(pipeline, options, options.prompt, options.seed),
    )
    maps = first_of(output)
    scene = {"projection": options.projection, "span_deg": options.span}
    result = describe_run(pipeline, options, options.prompt, options.seed, **scene)
    result["seconds"] = round(time.monotonic() - begun, 2)
    mesh = scene_mesh(maps["rgb"], maps["depth"], options, options.span, result) if "depth" in maps else None
    scene_file = {} if mesh is None or not len(mesh.faces) else {"scene.glb": MeshFile(mesh)}
    for path in write_set(options.output, maps, result, more=scene_file):
        print(path)
    if mesh is not None and not scene_file:
        raise OutputError("wrote the maps but no scene.glb: its triangles are all cut at depth edges; run jointnet mesh --edge-threshold")
