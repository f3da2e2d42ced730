"""jointnet predict, condition, edit, refine: what is known and what is asked, as commands."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointnet.cli.arguments import number, whole_number
from jointnet.cli.mesh import read_result
from jointnet.cli.sampling import add_sampling_arguments, add_size_arguments, describe_run, first_of, open_model, task_options
from jointnet.demo.bundled import TASK_MODEL
from jointnet.errors import InputFileError

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.pipelines.joint_net import JointNetPipeline

Perform = Callable[["JointNetPipeline", dict[str, Any]], Any]
"""(pipeline, what its methods take) -> JointNetPipelineOutput"""


def add_parser(commands: Any) -> None:
    """Add the four commands to the parser."""
    predict = commands.add_parser("predict", help="dense maps of a picture")
    predict.add_argument("image", type=Path, metavar="IMAGE")
    predict.add_argument("--prompt", default="", help="what the picture shows (optional)")
    predict.add_argument("--ensemble", type=whole_number(1, 1000), default=1, metavar="N", help="merge N samples; writes their uncertainty")
    predict.set_defaults(run=run_predict)

    condition = commands.add_parser("condition", help="an image of a dense map")
    condition.add_argument("map", type=Path, metavar="DEPTH", help="16-bit PNG or .npy")
    condition.add_argument("prompt", nargs="?", default="", metavar="PROMPT")
    condition.add_argument("--modality", default="depth", help="what the map is (default: depth)")
    condition.set_defaults(run=run_condition)

    edit = commands.add_parser("edit", help="make holes of an image and its dense maps anew")
    add_map_arguments(edit)
    edit.add_argument("prompt", nargs="?", default="", metavar="PROMPT")
    edit.add_argument("--mask", type=Path, help="white where everything is to be made anew")
    edit.add_argument("--image-mask", type=Path, help="for the image alone")
    edit.add_argument("--depth-mask", type=Path, help="for the depth alone")
    edit.add_argument("--normal-mask", type=Path, help="for the normals alone")
    edit.add_argument("--strength", type=number(0, 1), default=1.0, help="less than 1 keeps more of what is in the holes (default: 1)")
    edit.set_defaults(run=run_edit)

    refine = commands.add_parser("refine", help="sharpen an image and its dense maps, in tiles")
    add_map_arguments(refine)
    refine.add_argument("--prompt", default="", help="what the picture shows (optional)")
    refine.add_argument("--only", choices=("image", "depth", "normal", "both"), default="both", help="what to refine (default: both)")
    refine.add_argument("--strength", type=number(0, 1), default=0.4, help="how far to go back to noise (default: 0.4)")
    refine.add_argument("--scale", type=whole_number(1, 16), default=1, metavar="S", help="enlarge S times first (default: 1)")
    refine.set_defaults(run=run_refine)

    for parser in (predict, condition, edit, refine):
        add_sampling_arguments(parser, model=TASK_MODEL)
        add_size_arguments(parser)


def add_map_arguments(parser: argparse.ArgumentParser) -> None:
    """The maps of a picture."""
    parser.add_argument("--image", type=Path, required=True, metavar="IMAGE")
    parser.add_argument("--depth", type=Path, metavar="DEPTH", help="16-bit PNG or .npy, of the image's size")
    parser.add_argument("--normal", type=Path, metavar="NORMAL", help="8-bit PNG or .npy, for models with normals")


def run_predict(options: argparse.Namespace) -> None:
    """Image -> dense maps. Raises: JointNetError."""
    from jointnet.modalities.read import read_picture

    image = read_picture(options.image)
    _run(options, options.prompt, lambda pipe, more: pipe.predict(image, options.prompt, ensemble=options.ensemble, **more))


def run_condition(options: argparse.Namespace) -> None:
    """Dense map -> image. Raises: JointNetError."""
    from jointnet.modalities.read import read_map

    dense = {options.modality: read_map(options.map, options.modality)}
    _run(options, options.prompt, lambda pipe, more: pipe.condition(options.prompt, dense=dense, **more))


def run_edit(options: argparse.Namespace) -> None:
    """Holes -> filled. Raises: JointNetError."""
    from jointnet.modalities.read import read_mask

    image, dense = read_maps(options)
    single = {"rgb": options.image_mask, "depth": options.depth_mask, "normal": options.normal_mask}
    named = {name: path for name, path in single.items() if path is not None}
    if (options.mask is None) == (not named):
        raise InputFileError("got neither or both of --mask and masks of single maps; pass --mask, or --image-mask and --depth-mask")
    mask: Tensor | Mapping[str, Tensor]
    mask = read_mask(options.mask) if options.mask else {name: read_mask(path) for name, path in named.items()}
    _run(
        options,
        options.prompt,
        lambda pipe, more: pipe.edit(image, dense, mask, options.prompt, strength=options.strength, **more),
    )


def run_refine(options: argparse.Namespace) -> None:
    """Blurred or small -> sharp. Raises: JointNetError."""
    image, dense = read_maps(options)
    only = None if options.only == "both" else ["rgb" if options.only == "image" else options.only]
    _run(
        options,
        options.prompt,
        lambda pipe, more: pipe.refine(image, dense, options.prompt, only=only, strength=options.strength, scale=options.scale, **more),
    )


def read_maps(options: argparse.Namespace) -> tuple[Tensor, dict[str, Tensor]]:
    """The image and the dense maps that were given. Raises: JointNetError."""
    from jointnet.modalities.read import read_map, read_picture

    paths = {"depth": options.depth, "normal": options.normal}
    return read_picture(options.image), {name: read_map(path, name) for name, path in paths.items() if path is not None}


def _run(options: argparse.Namespace, prompt: str, perform: Perform) -> None:
    from jointnet.cli.output import write_set

    pipeline = open_model(options, prompt)
    begun = time.monotonic()
    output = perform(pipeline, task_options(pipeline, options, prompt, options.seed))
    maps = first_of(output)
    doubts = {name: value[0].cpu() for name, value in output.uncertainty.items()}
    lens = _lens_of(options.map if options.command == "condition" else options.image)
    result = describe_run(pipeline, options, prompt, options.seed, **lens)
    for path in write_set(options.output, maps, {**result, "seconds": round(time.monotonic() - begun, 2)}, doubts):
        print(path)


def _lens_of(path: Path) -> dict[str, Any]:
    """How a picture of ours was projected, so that a mesh of its maps knows; nothing if the file beside it is not ours."""
    try:
        said = read_result(path.with_name("result.json"))
    except InputFileError:
        return {}
    return {name: said[name] for name in ("projection", "fov_deg", "span_deg") if name in said}
