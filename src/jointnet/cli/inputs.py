"""One or several inputs of a command: which files belong together, where their results go, what happens to a broken one."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointnet.cli.beside import lens_beside
from jointnet.cli.checks import PICTURES, check_readable, check_run, low_res_files
from jointnet.cli.command import BAD_INPUT, facts_of_written, print_json, print_written, report
from jointnet.cli.sampling import Run, facts_of, open_model, options_of, sample_to
from jointnet.cli.world import strangers, warn_of_strangers, without_unit
from jointnet.errors import InputFileError, JointNetError
from jointnet.files.result_set import RESULT_FILE, FileId, check_folder, check_result_set, file_ids, map_names, our_facts

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.pipelines.joint_net import JointNetPipeline, Request
    from jointnet.tasks.options import SamplingOptions

_OF_A_RUN = ("program", "depth_near_m", "seconds", "versions", "files", "kept")
"""Entries of result.json that do not tell one command from another."""


@dataclass(frozen=True)
class Input:
    """The files of one picture.

    Attributes:
        files: modality -> file; the first is the one that the others were matched to.
        depth_unit: of the file of depth, if there is one.
        missing: why the input cannot be read, where a file that belongs to it is not there.
    """

    files: Mapping[str, Path]
    missing: str | None = None
    depth_unit: str = "disparity"

    @property
    def first(self) -> Path:
        return next(iter(self.files.values()))

    def read(self) -> tuple[dict[str, Tensor], float | None]:
        """Return the maps, (1, c, H, W) each, and the distance at disparity 1 if the depth has a unit.

        Raises: InputFileError, RangeError, ShapeError.
        """
        from jointnet.modalities.read import read_depth, read_map

        maps = {name: read_map(path, name) for name, path in self.files.items() if name != "depth"}
        if "depth" not in self.files:
            return maps, None
        depth = read_depth(self.files["depth"], self.depth_unit)
        maps["depth"] = depth.disparity
        return {name: maps[name] for name in self.files}, depth.near_m


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a command does with each input.

    Attributes:
        request: maps by modality and options -> the request.
        facts: the request's own fields besides its maps, for result.json.
        other_files: what is read besides the maps, such as masks.
        depth_unit: of all files of depth.
        is_merged: the maps come with their uncertainty.
    """

    command: str
    run: Run
    prompt: str
    request: Callable[[dict[str, Tensor], SamplingOptions], Request]
    facts: Mapping[str, Any] = field(default_factory=dict)
    other_files: Sequence[Path] = ()
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
    return run_on_one(work, {name: _single_file(name, paths) for name, paths in files.items()})


def run_on_one(work: Work, files: Mapping[str, Path]) -> int:
    """Run a command on one picture's files; return the exit code. Raises: JointNetError."""
    single, inputs = Input(files, depth_unit=work.depth_unit), list(files.values())
    modalities = check_run(work.run)
    check_readable([*inputs, *work.other_files])
    read = file_ids([*inputs, *work.other_files, *low_res_files(work.run, modalities)])
    check_result_set(work.run.output, map_names(modalities, has_uncertainty=work.is_merged), read)
    maps = single.read()
    pipeline = open_model(work.run, work.prompt)
    warn_of_strangers(work.run, inputs, pipeline.config.depth_near_m)
    print_written(_sample(work, pipeline, single, work.run.output, maps, read), work.run.output, as_json=work.run.as_json)
    return 0


def match_files(files: Mapping[str, Sequence[Path]]) -> list[Input]:
    """Return one input for each file of the first modality; files of the others belong to it if they have its stem, or STEM.MODALITY.

    Folders stand for the pictures and arrays in them, by name; hidden files and sub-folders are left out.
    Raises: InputFileError for a folder without files.
    """
    (lead, first), *others = ((name, _expand(name, paths)) for name, paths in files.items())
    by_stem = {name: _by_stem(paths) for name, paths in others}
    inputs = []
    for path in first:
        found, missing = {lead: path}, None
        for name, candidates in by_stem.items():
            matching = [*candidates.get(path.stem, ()), *candidates.get(f"{path.stem}.{name}", ())]
            if len(matching) != 1:
                several = f"{len(matching)} files of {name}" if matching else f"no {name}"
                missing = f"got {several} for {path.name}; expected one named {path.stem}.npy or {path.stem}.png"
            else:
                found[name] = matching[0]
        inputs.append(Input(found, missing))
    return inputs


def _by_stem(paths: Sequence[Path]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in paths:
        files.setdefault(path.stem, []).append(path)
    return files


def _expand(modality: str, paths: Sequence[Path]) -> list[Path]:
    suffixes = PICTURES if modality == "rgb" else (".npy", *PICTURES)
    expanded: list[Path] = []
    for path in paths:
        if not os.path.isdir(path):
            expanded.append(path)
            continue
        try:
            held = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())
        except OSError as error:
            raise InputFileError(f"cannot read folder {str(path)!r}: {error.strerror}") from error
        if not held:
            raise InputFileError(f"got folder {str(path)!r} without a file of {modality}; expected {', '.join(suffixes)} in it")
        expanded += held
    return expanded


def _single_file(name: str, paths: Sequence[Path]) -> Path:
    if len(paths) != 1 or os.path.isdir(paths[0]):
        raise InputFileError(f"got {', '.join(map(str, paths))} as {name} of one picture; pass one file, or several pictures too")
    return paths[0]


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a distinct folder name for each file: its stem, with its suffix or a number where that is taken."""
    counts = Counter(path.stem.lower() for path in paths)
    names: dict[str, str] = {}  # lower case, as some file systems compare them -> name
    for path in paths:
        name = own = path.stem if counts[path.stem.lower()] == 1 else path.name
        number = 1
        while name.lower() in names:
            number += 1
            name = f"{own}-{number}"
        names[name.lower()] = name
    return list(names.values())


def _run_on_each(work: Work, inputs: Sequence[Input]) -> int:
    run, inputs = work.run, [_looked_at(replace(each, depth_unit=work.depth_unit)) for each in inputs]
    modalities = check_run(run)
    check_readable(work.other_files)
    check_folder(run.output)
    good = [path for each in inputs if each.missing is None for path in each.files.values()]
    read = file_ids([*good, *work.other_files, *low_res_files(run, modalities)])
    pipeline = open_model(run, work.prompt) if good else None
    if pipeline is not None:
        warn_of_strangers(run, good, pipeline.config.depth_near_m)
    written: list[dict[str, Any]] = []
    failed: list[str] = []
    for each, name in zip(inputs, names_of([i.first for i in inputs]), strict=True):
        folder, facts = run.output / name, {"input": str(each.first)}
        try:
            if each.missing is not None or pipeline is None:
                raise InputFileError(each.missing or "there is nothing to read")
            kept = _current_files(work, pipeline, each, folder)
            if kept is None:
                check_result_set(folder, map_names(modalities, has_uncertainty=work.is_merged), read)
            paths = _sample(work, pipeline, each, folder, each.read(), read) if kept is None else kept
        except JointNetError as error:
            report(work.command, f"{each.first.name}: {error}")
            failed.append(each.first.name)
            written.append({**facts, "error": str(error)})
            continue
        if kept is not None:
            print(f"kept: {folder} has the result of {each.first.name}", file=sys.stderr)
        written.append({**facts, **facts_of_written(paths, folder), "kept": kept is not None})
        if not run.as_json:
            print_written(paths, folder, as_json=False)
    if run.as_json:
        print_json(written)
    summary = f"{len(inputs) - len(failed)} of {len(inputs)} done"
    print(f"jointnet {work.command}: {summary}{'; failed: ' if failed else ''}{', '.join(failed)}", file=sys.stderr)
    return BAD_INPUT if failed else 0


def _looked_at(each: Input) -> Input:
    """Return the input, with the reason if one of its files cannot be read."""
    try:
        check_readable(each.files.values())
    except InputFileError as error:
        return replace(each, missing=each.missing or str(error))
    return each


def _facts(
    work: Work, pipeline: JointNetPipeline, each: Input, options: SamplingOptions, depth_near_m: float | None = None
) -> dict[str, Any]:
    """Return what result.json says; with a depth of its own unit, the distance at disparity 1 is the file's."""
    dense = {name: path for name, path in each.files.items() if name != "rgb"}
    unit = None if each.depth_unit == "disparity" else each.depth_unit
    request = {"image": each.files.get("rgb"), "dense": dense or None, "depth_unit": unit, **work.facts}
    facts = facts_of(work.command, work.run, pipeline, prompt=work.prompt, seed=work.run.seed, options=options, request=request)
    facts = {**facts, **lens_beside(each.first)}
    is_strange = bool(strangers(work.run, each.files.values(), pipeline.config.depth_near_m))
    facts = without_unit(facts) if is_strange else facts
    return facts if depth_near_m is None else {**facts, "depth_near_m": depth_near_m}


def _sample(
    work: Work,
    pipeline: JointNetPipeline,
    each: Input,
    folder: Path,
    maps_and_near: tuple[dict[str, Tensor], float | None],
    read: Collection[FileId],
) -> list[Path]:
    maps, near_m = maps_and_near
    options = options_of(work.run, pipeline, work.prompt, work.run.seed)
    return sample_to(folder, pipeline, work.request(maps, options), _facts(work, pipeline, each, options, near_m), read)


def _current_files(work: Work, pipeline: JointNetPipeline, each: Input, folder: Path) -> list[Path] | None:
    """Return the files of a folder if the same command wrote them after its inputs and its model were last changed, else None."""
    result = folder / RESULT_FILE
    held = our_facts(result)
    if not held:
        return None
    expected = _facts(work, pipeline, each, options_of(work.run, pipeline, work.prompt, work.run.seed))
    if _lasting(held) != _lasting(expected):
        return None
    paths = [folder / name for name in held.get("files") or ()]
    if (
        not paths
        or not all(os.path.isfile(path) for path in [*paths, *each.files.values()])
        or _changed_ns(result) < _latest_change_ns(work, each)
    ):
        return None
    return [*paths, result]


def _lasting(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells one command from another, as JSON holds it."""
    return json.loads(json.dumps({name: value for name, value in facts.items() if name not in _OF_A_RUN}))


def _latest_change_ns(work: Work, each: Input) -> int:
    """Return when the input or the model was last changed; a model's index is written anew with it."""
    from jointnet.loading import model_folder

    run = work.run
    model = Path(run.model) if run.base is not None else model_folder(run.model) / "model_index.json"
    low_res = [] if run.low_res is None else [run.low_res / RESULT_FILE]
    return max(_changed_ns(path) for path in [*each.files.values(), model, *low_res] if os.path.exists(path))


def _changed_ns(path: Path) -> int:
    """Return when a file was last written, renamed or copied to its place."""
    facts = path.stat()
    return max(facts.st_mtime_ns, facts.st_ctime_ns)
