"""jointnet convert: the authors' checkpoints <-> model folders of this package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command and its directions to the parser."""
    parser = commands.add_parser("convert", help="turn the authors' checkpoints into model folders, and back")
    directions = parser.add_subparsers(dest="direction", required=True, metavar="DIRECTION", parser_class=type(parser))

    release = directions.add_parser("release", help="a release folder (unet/ and jointnet/), or its zip, and its base -> a model folder")
    release.add_argument("folder", type=Path, metavar="FOLDER")
    release.add_argument("--base", required=True, metavar="BASE", help="Stable Diffusion 2.1-base: folder or hub id")
    release.add_argument("--modality", help="what the dense branch makes (default: what the files say, or depth)")
    release.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="model folder")
    release.set_defaults(run=run_release)

    back = directions.add_parser("to-release", help="a model folder of two modalities -> a release folder")
    back.add_argument("model", metavar="MODEL")
    back.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="release folder")
    back.set_defaults(run=run_to_release)


def run_release(options: argparse.Namespace) -> None:
    """Run the command. Raises: JointNetError."""
    from jointnet.checkpoints.card import write_card
    from jointnet.checkpoints.folder import PROVENANCE_FILE, replacing
    from jointnet.cli.output import prepare_folder
    from jointnet.modalities import get_modality
    from jointnet.pipelines.joint_net import JointNetPipeline

    if options.modality is not None:
        get_modality(options.modality)
    prepare_folder(options.output)
    with replacing(options.output) as folder:
        JointNetPipeline.from_release(options.folder, options.base, options.modality).save_pretrained(folder)
        origin = {"recipe": "the authors' release", "start": options.folder.name, "base": options.base}
        (folder / PROVENANCE_FILE).write_text(json.dumps(origin, indent=1) + "\n")
        write_card(folder)
    print(options.output)


def run_to_release(options: argparse.Namespace) -> None:
    """Run the command. Raises: JointNetError."""
    from jointnet.checkpoints.folder import replacing
    from jointnet.checkpoints.release import write_release
    from jointnet.cli.output import prepare_folder
    from jointnet.loading import load

    prepare_folder(options.output)
    pipeline = load(options.model)
    with replacing(options.output) as folder:
        write_release(pipeline.joint_unet, folder, pipeline.scheduler.config.get("prediction_type", "epsilon"))
    print(options.output)
