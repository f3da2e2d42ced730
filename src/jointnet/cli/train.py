"""jointnet train: one stage of a joint network, on one's own base and data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from jointnet.cli.arguments import (
    MODEL,
    OUTPUT,
    AsJson,
    DepthUnitName,
    Device,
    choice,
    chosen_device,
    number,
    one_of,
    parse_name,
    whole_number,
)
from jointnet.cli.command import Group, add_command, print_written, takes
from jointnet.cli.sources import check_source, is_streamed, open_source
from jointnet.data.labelers.registry import parse_label
from jointnet.demo.bundled import BUNDLED
from jointnet.errors import OutputError, UnknownNameError
from jointnet.files.result_set import check_folder
from jointnet.loading import joint_model_folder, model_folder, without_progress_bars
from jointnet.machine.precision import Precision
from jointnet.recipes import RECIPES

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline
    from jointnet.training.config import RunOptions, TrainConfig

EXAMPLES = """
jointnet train stage1 --from path/to/stable-diffusion-2-1-base --data my-data -o runs/stage1
jointnet train stage1 --from demo-base --data my-photos --label depth=jointnet:demo -o runs/photos
jointnet train tasks --from runs/stage1/model --data my-data --budget 600 -o runs/tasks
"""
DATA, CHANGES, RUNNING = "Data", "Changes to the recipe", "How it runs"


def recipe_name(text: str) -> str:
    """Check the name of a recipe; files are read later. Raises: typer.BadParameter."""
    return text if text.endswith((".toml", ".py")) else one_of(tuple(RECIPES))(text)


def duration_or_steps(text: str) -> str:
    """Check a number of steps, or of minutes with an m. Raises: typer.BadParameter."""
    is_minutes = text.endswith("m")
    try:
        value = float(text[:-1]) if is_minutes else int(text)
    except ValueError:
        value = -1
    if not 0 < value < 10**9:
        raise typer.BadParameter(f"got {text!r}; expected steps, such as 500, or minutes, such as 5m")
    return text


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a command changes in a recipe; None keeps the recipe's own."""

    steps: Annotated[
        int | None, typer.Option("--steps", parser=whole_number(1, 10**9), metavar="N", help="training steps", rich_help_panel=CHANGES)
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", parser=whole_number(1, 100_000), metavar="N", help="samples a step", rich_help_panel=CHANGES),
    ] = None
    lr: Annotated[
        float | None, typer.Option("--lr", parser=number(1e-9, 1), metavar="RATE", help="learning rate", rich_help_panel=CHANGES)
    ] = None
    precision: Annotated[
        str | None, choice("--precision", names=get_args(Precision), panel=CHANGES, help_="what forward and loss are computed in")
    ] = None
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            parser=whole_number(8, 8192),
            metavar="PX",
            help="training size in pixels",
            show_default="the recipe's, or the base's",
            rich_help_panel=CHANGES,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option("--seed", parser=whole_number(0, 2**63 - 1), metavar="N", help="seeds every draw", rich_help_panel=CHANGES),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a run is carried out, without a change to what is trained."""

    micro_batch: Annotated[
        int | None,
        typer.Option(
            "--micro-batch",
            parser=whole_number(1, 100_000),
            metavar="N",
            help="samples at once in a process; the rest of its share of the batch is accumulated",
            show_default="its share",
            rich_help_panel=RUNNING,
        ),
    ] = None
    checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="less memory, about a third more time", rich_help_panel=RUNNING)
    ] = False
    fsdp: Annotated[bool, typer.Option("--fsdp", help="shard the weights over the processes (FSDP2)", rich_help_panel=RUNNING)] = False
    workers: Annotated[
        int,
        typer.Option(
            "--workers", parser=whole_number(0, 256), metavar="N", help="processes that read samples ahead", rich_help_panel=RUNNING
        ),
    ] = 0
    save_every: Annotated[
        str,
        typer.Option(
            "--save-every",
            parser=duration_or_steps,
            metavar="N|Nm",
            help="steps, or minutes as 5m, between states",
            rich_help_panel=RUNNING,
        ),
    ] = "1m"
    keep_states: Annotated[
        int, typer.Option("--keep-states", parser=whole_number(1, 10_000), metavar="N", help="states to keep", rich_help_panel=RUNNING)
    ] = 1
    log_every: Annotated[
        int,
        typer.Option(
            "--log-every", parser=whole_number(1, 10**6), metavar="N", help="steps of a row of the loss curve", rich_help_panel=RUNNING
        ),
    ] = 50
    validate_every: Annotated[
        int,
        typer.Option(
            "--validate-every", parser=whole_number(1, 10**6), metavar="N", help="steps between contact sheets", rich_help_panel=RUNNING
        ),
    ] = 500
    trackers: Annotated[
        str | None,
        typer.Option(
            "--trackers",
            metavar="NAMES",
            help="of Accelerate: tensorboard, wandb, ...; or none",
            show_default="tensorboard, if it is installed",
            rich_help_panel=RUNNING,
        ),
    ] = None
    max_bad: Annotated[str, typer.Option("--max-bad", metavar="SHARE", help="samples that may be unusable", rich_help_panel=RUNNING)] = "1%"

    def options(self) -> RunOptions:
        """Return the run's options. Raises: RangeError, UnknownNameError, MissingPackageError."""
        from jointnet.data.bad_samples import parse_share
        from jointnet.training.config import RunOptions
        from jointnet.training.trackers import parse_trackers

        is_minutes = self.save_every.endswith("m")
        return RunOptions(
            micro_batch_size=self.micro_batch,
            has_gradient_checkpointing=self.checkpointing,
            is_sharded=self.fsdp,
            num_workers=self.workers,
            save_every_minutes=float(self.save_every[:-1]) if is_minutes else None,
            save_every_steps=None if is_minutes else int(self.save_every),
            keep_states=self.keep_states,
            log_every=self.log_every,
            validate_every=self.validate_every,
            trackers=parse_trackers(self.trackers),
            max_bad=parse_share(self.max_bad),
        )


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "train", train, examples=EXAMPLES, panel="Models")


@takes(changes=Group.of(Changes), running=Group.of(Running))
def train(
    changes: Changes,
    running: Running,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            parser=recipe_name,
            autocompletion=lambda: list(RECIPES),
            help=f"one of {', '.join(RECIPES)}; or a .toml file that changes one, or a .py file with a function recipe()",
        ),
    ],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            parser=parse_name,
            metavar="MODEL",
            help=f"folder of a base (stage 1), or a stage's model; or a bundled one: {', '.join(BUNDLED)}",
            rich_help_panel=MODEL,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            parser=parse_name,
            metavar="DATA",
            help="a folder of NAME.png, NAME.txt, NAME.depth.npy (or .png); tar shards, such as 's3://mine/{000..099}.tar'; or demo-world",
            rich_help_panel=DATA,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="RUN", help="run folder: state, latents and model/", rich_help_panel=OUTPUT)
    ],
    modalities: Annotated[
        str | None,
        typer.Option(
            "--modalities",
            metavar="NAMES",
            help="what to extend a base to; a model has its own",
            show_default="the recipe's",
            rich_help_panel=MODEL,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            parser=parse_name,
            metavar="MODEL",
            help="learn what this model predicts instead of the noise: for thin branches (--set branch=thin:0.5)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="MODALITY=NAME[:WEIGHTS]",
            help="estimate these maps from the pictures instead of reading them: see docs/labels.md",
            rich_help_panel=DATA,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="any other setting of the recipe; wrong ones list all", rich_help_panel=CHANGES),
    ] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            "--validation-prompt",
            metavar="PROMPT",
            help="sample it as a picture every --validate-every steps",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    depth_unit: DepthUnitName = "disparity",
    depth_near: Annotated[
        float | None,
        typer.Option(
            "--depth-near",
            parser=number(1e-6, 1e9),
            metavar="M",
            help="the data's disparity is M / depth, in metres",
            show_default="as the stage before on this data, or known up to scale and shift",
            rich_help_panel=DATA,
        ),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub", metavar="ID", help="upload the model to this repository of the Hugging Face hub", rich_help_panel=OUTPUT
        ),
    ] = None,
    is_dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="print settings, samples and an estimate of the memory, and show a batch in dry-run.png; train nothing",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    device: Device = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            parser=number(0.01, 10**6),
            metavar="MINUTES",
            help="stop and save when this much was trained",
            rich_help_panel=CHANGES,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one stage of a joint network; a run that was stopped resumes."""
    check_folder(output)
    start_folder = model_folder(start).resolve()
    teacher_folder = None if teacher is None else joint_model_folder(teacher)
    check_apart(output, start_folder, Path(data), *([] if teacher_folder is None else [teacher_folder]))
    check_source(data)
    if not is_base(start_folder):
        joint_model_folder(start_folder)

    streamed = {"caches_latents": "false", "caches_text": "false"} if is_streamed(data) else {}
    name, config = configure(recipe, changes, settings or (), streamed)
    choices = dict(parse_label(text) for text in label or ())
    for choice_ in choices.values():
        choice_.check()
    options = running.options()

    from jointnet.checkpoints.hub import open_repo, push_model
    from jointnet.cli.dry_run import dry_run
    from jointnet.cli.validation import ContactSheets
    from jointnet.machine.processes import is_main_process
    from jointnet.sampling.schedulers import with_fixed_variance
    from jointnet.training.run import check_run_folder
    from jointnet.training.stage import train_stage

    check_run_folder(output)
    names = None if modalities is None else tuple(name.strip() for name in modalities.split(","))
    if hub is not None and not is_dry_run and is_main_process():
        open_repo(hub)
    with without_progress_bars():
        pipeline = open_start(start, names, config).to(chosen_device(device))
        labels = {modality: choice_().to(pipeline.device) for modality, choice_ in choices.items()}
        unknown = [modality for modality in labels if modality not in pipeline.modalities[1:]]
        if unknown:
            raise UnknownNameError(
                f"got a label for {unknown[0]}; expected some of {', '.join(pipeline.modalities[1:])}, which are trained"
            )
        size = config.size or pipeline.default_size
        pipeline.joint_model().check_size(size, size)
        pipeline.scheduler = with_fixed_variance(pipeline.scheduler)
        source = open_source(data, size, depth_unit, output)
        if is_dry_run:
            dry_run(pipeline, source, config, output, labels=labels, options=options, teacher=teacher_folder, as_json=as_json)
            return
        model = train_stage(
            pipeline,
            source,
            config,
            output,
            recipe=name,
            start=start_folder,
            start_name=start,
            labels=labels,
            options=options,
            depth_near_m=depth_near,
            budget_minutes=budget,
            teacher=teacher_folder,
            validate=ContactSheets(pipeline, validation, output, size) if validation else None,
        )
    if hub is not None and is_main_process():
        print(push_model(model, hub), file=sys.stderr, flush=True)
    print_written([model], output, as_json=as_json)


def check_apart(output: Path, start: Path, data: Path, *others: Path) -> None:
    """Raises: OutputError if a run would write among the files that it reads: into its start, its data, or a model that it replaces."""
    run, data, other = output.resolve(), data.resolve(), [folder.resolve() for folder in others]
    replaced = [(run / name).resolve() for name in ("model", "latents")]
    if run == data or run.is_relative_to(start) or any(read.is_relative_to(place) for read in (start, data, *other) for place in replaced):
        raise OutputError(f"got {str(output)!r} as run folder, which holds what the run reads; choose a new folder with -o")


def is_base(folder: Path) -> bool:
    """Return True if a folder holds a text-to-image pipeline rather than a joint model. Raises: ModelFolderError."""
    from jointnet.checkpoints.index import pipeline_class

    return pipeline_class(folder) != "JointNetPipeline"


def configure(
    recipe: str, changes: Changes, settings: Sequence[str], defaults: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, TrainConfig]:
    """Return the name of a recipe, and the recipe with a command's changes. Raises: UnknownNameError, InputFileError."""
    from jointnet.recipes.settings import parse_setting, read_recipe, with_settings

    name, config = read_recipe(recipe)
    chosen = {name: value for name, value in vars(changes).items() if value is not None}
    return name, with_settings(config, {**defaults, **dict(parse_setting(text) for text in settings), **chosen})


def open_start(start: str, modalities: tuple[str, ...] | None, config: TrainConfig) -> JointNetPipeline:
    """Open a joint model as it is, or a base extended to the modalities (None: those of the recipe) with the recipe's kind of branch.

    Raises: ModelFolderError, UnsupportedBaseError, UnknownNameError if a model has other modalities, or another kind, than asked.
    """
    from jointnet.checkpoints.index import pipeline_class
    from jointnet.loading import load
    from jointnet.modalities import get_modality
    from jointnet.pipelines.bases import check_class
    from jointnet.pipelines.joint_net import JointNetPipeline

    for name in modalities or ():
        get_modality(name)
    folder = model_folder(start)
    if is_base(folder):
        check_class(pipeline_class(folder))
        return JointNetPipeline.from_base(folder, modalities or config.modalities, branch=config.branch, local_files_only=True)
    pipeline = load(start)
    if modalities is not None and modalities != pipeline.modalities:
        raise UnknownNameError(
            f"got --modalities {','.join(modalities)} for a model of {','.join(pipeline.modalities)}; leave it out, or start from a base"
        )
    own = pipeline.joint_unet.config.branch
    if config.branch not in ("full", own):
        raise UnknownNameError(f"got branch={config.branch} for a model whose branches are {own}; leave it out, or start from a base")
    return pipeline
