"""One or several inputs of a command: they are checked, sampled and written; what happens to a broken one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointnet.cli.beside import lens_beside
from jointnet.cli.checks import check_readable, check_run, low_res_files
from jointnet.cli.command import BAD_INPUT, facts_of_written, print_json, print_written, report
from jointnet.cli.kept import ModelFiles, contents_of, current_files
from jointnet.cli.matching import Input, match_files, names_of, single_file
from jointnet.cli.sampling import Run, facts_of, open_model, options_of, sample_to
from jointnet.cli.sizes import check_one_size, is_black, refuse_several_sizes
from jointnet.cli.world import strangers, warn_of_strangers, without_unit
from jointnet.errors import InputFileError, JointNetError, ShapeError, UnknownNameError
from jointnet.files.result_set import FileId, check_folder, check_result_set, file_ids, map_names

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.pipelines.joint_net import JointNetPipeline, Request
    from jointnet.tasks.options import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a command does with each input.

    Attributes:
        request: maps by modality and options -> the request.
        facts: the request's own fields besides its maps, for result.json.
        masks: files of masks, by what they are for.
        check: refuses maps and masks before the model is opened.
        depth_unit: of all files of depth.
        is_merged: the maps come with their uncertainty.
    """

    command: str
    run: Run
    prompt: str
    request: Callable[[dict[str, Tensor], SamplingOptions], Request]
    facts: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    check: Callable[[Mapping[str, Tensor]], None] | None = None
    is_merged: bool = False
    depth_unit: str = "disparity"


def run_on_files(work: Work, files: Mapping[str, Sequence[Path]]) -> int:
    """Run a command on one picture's files, or on each picture of several files or of a folder; return the exit code.

    With several, each input has a result set of its own below the output, those that are there already are kept, and what cannot be
    read is reported while the rest goes on. Raises: JointNetError.
    """
    first = next(iter(files.values()))
    if len(first) > 1 or os.path.isdir(first[0]):
        return _run_on_each(work, match_files(files))
    return run_on_one(work, {name: single_file(name, paths) for name, paths in files.items()})


def run_on_one(work: Work, files: Mapping[str, Path]) -> int:
    """Run a command on one picture's files; return the exit code. Raises: JointNetError."""
    # 1. What can be refused at once, then what the files' content tells
    each = Input(files, depth_unit=work.depth_unit)
    modalities = check_run(work.run)
    _check_files(work, each, modalities)
    if work.masks and all(map(is_black, work.masks.values())):
        raise ShapeError("got masks without a hole: nothing is asked; expected white (1) where something is to be made anew")
    inputs = [*files.values(), *work.masks.values(), *low_res_files(work.run, modalities)]
    read = file_ids(inputs)
    check_result_set(work.run.output, map_names(modalities, has_uncertainty=work.is_merged), read)
    contents, model = contents_of(inputs), ModelFiles(work.run)
    maps, near_m = _read(work, each)

    # 2. The model
    from jointnet.modalities.modality import file_names

    pipeline = open_model(work.run, work.prompt)
    check_result_set(work.run.output, file_names(pipeline.modalities, has_uncertainty=work.is_merged), read)
    warn_of_strangers(work.run, list(files.values()), pipeline.config.depth_near_m)
    options = options_of(work.run, pipeline, work.prompt, work.run.seed)
    facts = {**_facts(work, pipeline, each, options), **_unit(near_m), "inputs": contents, **model.facts(with_contents=False)}
    paths = sample_to(work.run.output, pipeline, work.request(maps, options), facts, read)
    print_written(paths, work.run.output, as_json=work.run.as_json)
    return 0


def _check_files(work: Work, each: Input, modalities: Sequence[str]) -> None:
    """Check an input's files by what can be known of them without their content. Raises: InputFileError, ShapeError, UnknownNameError."""
    unknown = set(each.files) - set(modalities)
    if unknown:
        raise UnknownNameError(f"got {', '.join(sorted(unknown))} for a model of {', '.join(modalities)}; leave it out")
    maps = [path for name, path in each.files.items() if name != "rgb"]
    check_readable([*maps, *work.masks.values()], pictures=[each.files["rgb"]] if "rgb" in each.files else [])
    check_one_size({**each.files, **work.masks})


def _read(work: Work, each: Input) -> tuple[dict[str, Tensor], float | None]:
    """Return the maps, (1, c, H, W) each, and the distance at disparity 1 if the depth has a unit. Raises: JointNetError."""
    maps, near_m = each.read()
    refuse_several_sizes({name: (value.shape[-2], value.shape[-1]) for name, value in maps.items()})
    if work.check is not None:
        work.check(maps)
    return maps, near_m


def _run_on_each(work: Work, inputs: Sequence[Input]) -> int:
    run, modalities = work.run, check_run(work.run)
    model = ModelFiles(run)
    inputs = [_looked_at(work, replace(each, depth_unit=work.depth_unit), modalities) for each in inputs]
    check_folder(run.output)
    good = [path for each in inputs if each.missing is None for path in each.files.values()]
    read = file_ids([*good, *low_res_files(run, modalities)])
    pipeline = open_model(run, work.prompt) if good else None
    if pipeline is not None:
        model = model if model.is_here else ModelFiles(run)
        warn_of_strangers(run, good, pipeline.config.depth_near_m)
    written: list[dict[str, Any]] = []
    failed: list[str] = []
    for each, name in zip(inputs, names_of([i.first for i in inputs]), strict=True):
        folder, facts = run.output / name, {"input": str(each.first)}
        try:
            if each.missing is not None or pipeline is None:
                raise InputFileError(each.missing or "there is nothing to read")
            paths, is_kept = _keep_or_sample(work, pipeline, model, each, folder, read)
        except JointNetError as error:
            report(work.command, f"{each.first.name}: {error}")
            failed.append(each.first.name)
            written.append({**facts, "error": str(error)})
            continue
        if is_kept:
            print(f"kept: {folder} has the result of {each.first.name}", file=sys.stderr)
        written.append({**facts, **facts_of_written(paths, folder), "kept": is_kept})
        if not run.as_json:
            print_written(paths, folder, as_json=False)
    if run.as_json:
        print_json(written)
    summary = f"{len(inputs) - len(failed)} of {len(inputs)} done"
    print(f"jointnet {work.command}: {summary}{'; failed: ' if failed else ''}{', '.join(failed)}", file=sys.stderr)
    return BAD_INPUT if failed else 0


def _looked_at(work: Work, each: Input, modalities: Sequence[str]) -> Input:
    """Return the input, with the reason if its files cannot be read or do not belong together."""
    try:
        if each.missing is None:
            _check_files(work, each, modalities)
    except JointNetError as error:
        return replace(each, missing=str(error))
    return each


def _keep_or_sample(
    work: Work, pipeline: JointNetPipeline, model: ModelFiles, each: Input, folder: Path, read: Collection[FileId]
) -> tuple[list[Path], bool]:
    """Return the files of one input's result, and True if they were there already. Raises: JointNetError."""
    from jointnet.modalities.modality import file_names

    contents = contents_of([*each.files.values(), *low_res_files(work.run, pipeline.modalities)])  # before they are read
    options = options_of(work.run, pipeline, work.prompt, work.run.seed)
    facts = {**_facts(work, pipeline, each, options), "inputs": contents}
    kept = current_files(folder, facts, model, has_unit=each.depth_unit != "disparity")
    if kept is not None:
        return kept, True
    check_result_set(folder, file_names(pipeline.modalities, has_uncertainty=work.is_merged), read)
    maps, near_m = _read(work, each)
    facts |= {**_unit(near_m), **model.facts(with_contents=True)}
    return sample_to(folder, pipeline, work.request(maps, options), facts, read), False


def _facts(work: Work, pipeline: JointNetPipeline, each: Input, options: SamplingOptions) -> dict[str, Any]:
    """Return what result.json says, but for a unit of the depth's own."""
    dense = {name: path for name, path in each.files.items() if name != "rgb"}
    unit = None if each.depth_unit == "disparity" else each.depth_unit
    request = {"image": each.files.get("rgb"), "dense": dense or None, "depth_unit": unit, **work.facts}
    facts = facts_of(work.command, work.run, pipeline, prompt=work.prompt, seed=work.run.seed, options=options, request=request)
    facts = {**facts, **lens_beside(each.first)}
    is_strange = bool(strangers(work.run, each.files.values(), pipeline.config.depth_near_m))
    return without_unit(facts) if is_strange else facts


def _unit(near_m: float | None) -> dict[str, float]:
    """Return the distance at disparity 1 for result.json, where it is the file's."""
    return {} if near_m is None else {"depth_near_m": near_m}
