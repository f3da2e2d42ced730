"""jointnet train: one stage of a joint network, on one's own base and data."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jointnet.cli.arguments import SEED, add_device_argument, chosen_device, number, whole_number
from jointnet.recipes import RECIPES
from jointnet.training.config import Precision

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline
    from jointnet.training.config import TrainConfig


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train", help="train one stage of a joint network; resumes where it was stopped")
    parser.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--from", dest="start", required=True, metavar="MODEL", help="folder of a base (stage 1), or a stage's model")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="NAME.png, NAME.txt, NAME.depth.npy (or .png)")
    parser.add_argument("--modalities", metavar="NAMES", help="what to extend a base to (default: rgb,depth); a model has its own")
    parser.add_argument("--size", type=whole_number(8, 8192), help="training size in pixels (default: the base's)")
    near = "the data's disparity is M / depth, in metres (default: as the stage before on this data, or known up to scale and shift)"
    parser.add_argument("--depth-near", type=number(1e-6, 1e9), metavar="M", help=near)
    parser.add_argument("--steps", type=whole_number(1, 10**9), help="instead of the recipe's")
    parser.add_argument("--batch-size", type=whole_number(1, 100_000), help="instead of the recipe's")
    parser.add_argument("--lr", type=number(1e-9, 1), help="learning rate, instead of the recipe's")
    parser.add_argument("--precision", choices=get_args(Precision), help="instead of the recipe's")
    parser.add_argument("--seed", type=SEED, default=0)
    add_device_argument(parser)
    parser.add_argument("--budget", type=number(0.01, 10**6), metavar="MINUTES", help="stop and save when this much was trained")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="run folder: state, latents and model/")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command. Raises: JointNetError."""
    from jointnet.checkpoints.card import write_card
    from jointnet.checkpoints.folder import provenance_of, replacing, save_half, stages_of
    from jointnet.cli.output import prepare_folder
    from jointnet.data.folder import FolderSource
    from jointnet.data.samples import encode_source
    from jointnet.diffusion.schedule import forward_process
    from jointnet.loading import model_folder
    from jointnet.sampling.steps import with_fixed_variance
    from jointnet.training.joint import keeping_abilities, train_joint
    from jointnet.training.provenance import code_commit, write_provenance
    from jointnet.training.state import claim

    prepare_folder(options.output)
    config = configure(options)
    asked = None if options.modalities is None else tuple(name.strip() for name in options.modalities.split(","))
    device = chosen_device(options.device)
    pipeline = open_start(options.start, asked).to(device)
    config = keeping_abilities(replace(config, modalities=pipeline.modalities), pipeline.joint_unet)
    source = FolderSource(options.data, options.size or pipeline.default_size)
    pipeline.check_size(source.size, source.size)
    start, stages = model_folder(options.start).resolve(), [*stages_of(pipeline.name_or_path), options.recipe]
    said_of_start = provenance_of(start)
    base = said_of_start.get("base") or (str(options.start) if is_base(start) else None)
    if options.depth_near is not None or said_of_start.get("data") != str(options.data):
        pipeline.register_to_config(depth_near_m=options.depth_near)
    facts = {"recipe": options.recipe, "start": str(start), "data": str(options.data.resolve()), "size": source.size}
    claim(options.output, facts, config=asdict(config), commit=code_commit())
    encoder, unconditional = pipeline.training_text()
    samples = encode_source(source, pipeline.modalities, pipeline.codec, options.output / "latents", encoder, unconditional)
    latent_size = (samples.latents.shape[-2], samples.latents.shape[-1])
    progress = train_joint(
        pipeline.joint_unet,
        samples,
        forward_process(pipeline.scheduler, latent_size),
        config,
        options.output,
        low_res_process=None if pipeline.image_noising_scheduler is None else forward_process(pipeline.image_noising_scheduler),
        budget_minutes=options.budget,
    )
    pipeline.scheduler = with_fixed_variance(pipeline.scheduler)
    with replacing(options.output / "model") as folder:
        save_half(pipeline, folder)
        said = {"base": base, "stages": stages, "data": str(options.data), "start": str(options.start)}
        write_provenance(folder, options.recipe, config, progress, **{name: value for name, value in said.items() if value is not None})
        write_card(folder)
    print(options.output / "model")


def is_base(folder: Path) -> bool:
    """Whether a folder holds a text-to-image pipeline rather than a joint model. Raises: ModelFolderError."""
    from jointnet.checkpoints.folder import pipeline_class

    return pipeline_class(folder) != "JointNetPipeline"


def configure(options: argparse.Namespace) -> TrainConfig:
    """The recipe with the command's changes."""

    config = RECIPES[options.recipe]()
    named = {"steps": options.steps, "batch_size": options.batch_size, "lr": options.lr, "precision": options.precision}
    changes = {name: value for name, value in named.items() if value is not None}
    optim = replace(config.optim, seed=options.seed, **changes)
    return replace(config, optim=optim)


def open_start(start: str, modalities: tuple[str, ...] | None) -> JointNetPipeline:
    """A joint model as it is, or a base extended to the modalities (None: RGB and depth).

    Raises: ModelFolderError, UnsupportedBaseError, UnknownNameError if a model has other modalities than asked.
    """
    from jointnet.checkpoints.folder import pipeline_class
    from jointnet.errors import UnknownNameError
    from jointnet.loading import load, model_folder
    from jointnet.modalities import get_modality
    from jointnet.pipelines.bases import check_class
    from jointnet.pipelines.joint_net import JointNetPipeline

    for name in modalities or ():
        get_modality(name)
    folder = model_folder(start)
    if is_base(folder):
        check_class(pipeline_class(folder))
        return JointNetPipeline.from_base(folder, modalities or ("rgb", "depth"), local_files_only=True)
    pipeline = load(start)
    if modalities is not None and modalities != pipeline.modalities:
        raise UnknownNameError(
            f"got --modalities {','.join(modalities)} for a model of {','.join(pipeline.modalities)}; leave it out, or start from a base"
        )
    return pipeline
