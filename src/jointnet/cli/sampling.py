"""What the sampling commands share: their options, the model they open, the facts that they write beside their maps."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnet.cli.arguments import (
    MODEL,
    OUTPUT,
    SAMPLING,
    AsJson,
    Device,
    Seed,
    choice,
    chosen_device,
    number,
    parse_name,
    parse_text,
    whole_number,
)
from jointnet.cli.command import Group, keyword
from jointnet.cli.held_warnings import release
from jointnet.demo.bundled import JOINT_MODELS
from jointnet.errors import UnknownNameError, UnknownWordsWarning
from jointnet.sampling.solvers import SCHEDULERS, scheduler_like
from jointnet.tasks.options import Flag, SamplingOptions

if TYPE_CHECKING:
    from jointnet.files.result_set import FileId, Writable
    from jointnet.pipelines.joint_net import JointNetPipeline, Request
    from jointnet.tasks.output import Result

ALL_PANELS = tuple(dict.fromkeys(f.metadata["flag"].panel for f in fields(SamplingOptions) if "flag" in f.metadata))
"""Panels of the flags of SamplingOptions."""

PRESET_NAMES = ("paper", "release")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The options of a sampling command; ``sampling`` are those that are fields of SamplingOptions, by the fields' names."""

    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="folder for the results", rich_help_panel=OUTPUT)]
    as_json: AsJson = False
    model: Annotated[
        str,
        typer.Option(
            "--model",
            parser=parse_name,
            metavar="DIR",
            help=f"model folder, hub id (OWNER/NAME), or a bundled model: {', '.join(JOINT_MODELS)}",
            rich_help_panel=MODEL,
        ),
    ] = "demo"
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            parser=parse_name,
            metavar="BASE",
            help="--model is a checkpoint of the authors' release (folder or zip) on this base (folder or hub id)",
            rich_help_panel=MODEL,
        ),
    ] = None
    device: Device = None
    low_res: Annotated[
        Path | None,
        typer.Option(
            "--low-res",
            metavar="DIR",
            help="output folder of the first stage, for bases that upscale",
            rich_help_panel=MODEL,
        ),
    ] = None
    seed: Seed = 0
    scheduler: Annotated[
        str | None,
        choice(
            "--scheduler",
            names=tuple(SCHEDULERS),
            panel=SAMPLING,
            help_="one of diffusers'",
            default="the model's own; with --preset release ddim",
        ),
    ] = None
    preset: Annotated[
        str,
        choice(
            "--preset",
            names=PRESET_NAMES,
            panel=SAMPLING,
            help_="conventions where the paper and the authors' code differ (docs/conventions.md)",
        ),
    ] = "paper"
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def negative_prompt(self) -> str:
        return self.sampling.get("negative_prompt") or ""


def run_arguments(*panels: str, model: str = "demo") -> Group:
    """Return the arguments that become a Run: its own, and of SamplingOptions those whose flag is in one of the panels."""
    own = [p for p in Group.of(Run).parameters if p.name != "sampling"]
    own = [p.replace(default=model) if p.name == "model" else p for p in own]
    chosen = [f for f in fields(SamplingOptions) if "flag" in f.metadata and f.metadata["flag"].panel in panels]
    return Group([*own, *map(_parameter_of, chosen)], partial(_build_run, [f.name for f in chosen]))


def _build_run(sampling: Sequence[str], **values: Any) -> Run:
    options = {name: values.pop(name) for name in sampling}
    return Run(**values, sampling=options)


def _parameter_of(option: Field[Any]) -> Parameter:
    """Return a field of SamplingOptions as the parameter of a command; its type is the first of its annotation ("int | None")."""
    flag: Flag = option.metadata["flag"]
    annotation = str(option.type).split(" | ")[0]
    kind = {"int": int, "float": float, "bool": bool, "str": str}[annotation]
    more: dict[str, Any] = {"help": flag.help, "rich_help_panel": flag.panel}
    if flag.metavar or kind in (int, float):
        more["metavar"] = flag.metavar or "N"
    if kind is str:
        more["parser"] = parse_text
    if flag.low is not None and flag.high is not None:
        more["parser"] = whole_number(int(flag.low), int(flag.high)) if kind is int else number(flag.low, flag.high)
        more["help"] = f"{flag.help} ({flag.low:g} to {flag.high:g})"
    if flag.default is not None:
        more["show_default"] = flag.default
    return keyword(option.name, Annotated[kind | None, typer.Option(flag.name, **more)], (option.default,))


def open_model(run: Run, prompt: str) -> JointNetPipeline:
    """Open the model of a command, quiet unless a person looks on; warn of words that a small model never saw. Raises: JointNetError."""
    from jointnet.loading import load, vocabulary, without_progress_bars
    from jointnet.pipelines.joint_net import JointNetPipeline

    speed = SamplingOptions(speed=run.sampling.get("speed") or "exact").chosen_speed
    name = run.scheduler or ("ddim" if run.preset == "release" else None)
    if name is not None and speed is not None and speed.solver is not None:
        option = f"--scheduler {name}" if run.scheduler else f"--preset {run.preset}"
        raise UnknownNameError(
            f"got {option} with --speed {run.sampling['speed']}, which brings the scheduler {speed.solver}; leave one of them out"
        )
    device = chosen_device(run.device)
    if run.base is not None:
        with without_progress_bars():
            pipeline = JointNetPipeline.from_release(run.model, run.base)
    else:
        pipeline = load(run.model)
        warn_of_unknown_words(f"{prompt} {run.negative_prompt}", vocabulary(run.model))
    if name is not None:
        pipeline.scheduler = scheduler_like(pipeline.scheduler, name, has_latents=pipeline.vae is not None)
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipeline.to(device)


def options_of(run: Run, pipeline: JointNetPipeline, prompt: str, seed: int) -> SamplingOptions:
    """Return the options of one run of the pipeline. Raises: InputFileError, RangeError, ShapeError."""
    from jointnet.sampling.schedulers import seeded_generator
    from jointnet.tasks.conventions import PRESETS

    chosen = {**run.sampling, "negative_prompt": run.negative_prompt or None}
    if chosen.get("guidance_scale") is None:
        chosen["guidance_scale"] = pipeline.config.default_guidance if prompt or run.negative_prompt else 1.0
    if chosen.get("num_inference_steps") is None and chosen.get("speed") in (None, "exact"):
        chosen["num_inference_steps"] = pipeline.config.default_steps
    return SamplingOptions.of(
        **chosen,
        conventions=PRESETS[run.preset],
        generator=seeded_generator(seed),
        low_res=None if run.low_res is None else read_low_res(run.low_res, pipeline.modalities),
    )


def read_low_res(folder: Path, modalities: Sequence[str]) -> dict[str, Any]:
    """Return the maps of an output folder, (1, c, h, w) each. Raises: InputFileError, RangeError, ShapeError."""
    from jointnet.modalities.read import read_map

    return {name: read_map(folder / ("image.png" if name == "rgb" else f"{name}.npy"), name) for name in modalities}


def facts_of(
    command: str, run: Run, pipeline: JointNetPipeline, *, prompt: str, seed: int, options: SamplingOptions, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what result.json says of a run before it: all but the time and the files.

    ``request`` are the task's own fields; those that are None are left out, paths become text.
    """
    from importlib.metadata import version

    from jointnet.tasks.output import meanings

    own = {**request, "low_res": run.low_res}
    return {
        "command": command,
        "prompt": prompt,
        "negative_prompt": run.negative_prompt,
        "seed": seed,
        "model": run.model,
        "base": run.base,
        "device": str(pipeline.device),
        "scheduler": _scheduler_of(pipeline, options),
        "sampling": {name: value for name, value in options.as_facts().items() if name != "negative_prompt"},
        "request": {name: _plain(value) for name, value in own.items() if value is not None},
        "meaning": meanings(pipeline.modalities),
        "depth_near_m": pipeline.config.depth_near_m,
        "versions": {name: version(name) for name in ("jointnet", "torch", "diffusers", "transformers")},
    }


def _scheduler_of(pipeline: JointNetPipeline, options: SamplingOptions) -> str:
    """Return the class of a run's scheduler."""
    speed = options.chosen_speed
    return type(pipeline.scheduler).__name__ if speed is None or speed.solver is None else SCHEDULERS[speed.solver]


def _plain(value: Any) -> Any:
    """Return paths, in dictionaries too, as text."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return str(value) if isinstance(value, Path) else value


def sample_to(
    folder: Path, pipeline: JointNetPipeline, request: Request, facts: Mapping[str, Any], inputs: Collection[FileId] = ()
) -> list[Path]:
    """Run a request and write its maps and their facts; its ``inputs`` are not replaced. Raises: JointNetError."""
    started = time.monotonic()
    return write_result(folder, run_request(pipeline, request), facts, started, inputs=inputs)


def run_request(pipeline: JointNetPipeline, request: Request) -> Result:
    """Run a request; warnings that are held are shown after its first step, when it has been accepted. Raises: JointNetError."""

    def show_warnings(*_: Any) -> dict[str, Any]:
        release()
        return {}

    return pipeline.run(replace(request, options=replace(request.options, callback_on_step_end=show_warnings)))


def write_result(
    folder: Path,
    result: Result,
    facts: Mapping[str, Any],
    started: float,
    *,
    more: Mapping[str, Writable] | None = None,
    inputs: Collection[FileId] = (),
) -> list[Path]:
    """Write the first picture's maps, more files, and the facts with the seconds since ``started``. Raises: OutputError."""
    from jointnet.files.result_set import write_result_set

    facts = {**facts, "seconds": round(time.monotonic() - started, 2)}
    return write_result_set(folder, {**result.files(), **(more or {})}, facts, inputs)


def warn_of_unknown_words(prompt: str, vocabulary: Mapping[str, Sequence[str]] | None) -> None:
    """Name the words that a small model never saw, and those it knows."""
    if vocabulary is None:
        return
    known = {word for phrases in vocabulary.values() for phrase in phrases for word in phrase.lower().split()}
    unknown = list(dict.fromkeys(w for w in re.findall(r"[^\W_]+", prompt.lower()) if w not in known))
    if unknown:
        lists = "; ".join(f"{kind}: {', '.join(phrases)}" for kind, phrases in vocabulary.items())
        warnings.warn(f"this model never saw the words {', '.join(unknown)}; it knows {lists}", UnknownWordsWarning, stacklevel=2)
