"""Which files belong together as one input of a command, and the names of their results."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jointnet.cli.checks import PICTURES
from jointnet.errors import InputFileError

if TYPE_CHECKING:
    from torch import Tensor


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


def single_file(name: str, paths: Sequence[Path]) -> Path:
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
