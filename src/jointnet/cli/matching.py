"""Which files belong together as one input of a command, and the names of their results."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jointnet.cli.suffixes import PICTURES
from jointnet.errors import InputFileError
from jointnet.files.result_facts import RESULT_FILE, is_as_written, listed, our_facts

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

    Folders stand for the pictures and arrays in them, by name; hidden files, sub-folders and what is of another modality by its name are
    left out. Raises: InputFileError for a folder without files.
    """
    (lead, first), *others = ((name, _expand(name, paths, files)) for name, paths in files.items())
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


def _expand(modality: str, paths: Sequence[Path], modalities: Collection[str]) -> list[Path]:
    suffixes = PICTURES if modality == "rgb" else (".npy", *PICTURES)
    expanded: list[Path] = []
    for path in paths:
        if not os.path.isdir(path):
            expanded.append(path)
            continue
        try:
            held = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())
            held = _without_maps_of_others(_without_other_maps(path, held, modality), modality, {"depth", "normal", *modalities})
        except OSError as error:
            raise InputFileError(f"cannot read folder {str(path)!r}: {error.strerror}") from error
        if not held:
            raise InputFileError(f"got folder {str(path)!r} without a file of {modality}; expected {', '.join(suffixes)} in it")
        expanded += held
    return expanded


def _without_other_maps(folder: Path, paths: Sequence[Path], modality: str) -> list[Path]:
    """Leave out what a result in the folder consists of, but for one file of the modality."""
    facts = our_facts(folder / RESULT_FILE)
    maps = {path for path in paths if path.name in listed(facts) and is_as_written(path, facts)} if "meaning" in facts else set()
    own = ("image.png",) if modality == "rgb" else (f"{modality}.npy", f"{modality}.png")
    kept = next((path for name in own for path in maps if path.name == name), None)
    return [path for path in paths if path not in maps or path == kept]


def _without_maps_of_others(paths: Sequence[Path], modality: str, modalities: Collection[str]) -> list[Path]:
    """Leave out, of a data folder's NAME.png, NAME.depth.npy, NAME.normal.npy, all that is not of the modality."""
    kinds = {}  # path -> (NAME in any case, its modality if the file states it)
    for path in paths:
        name, _, kind = path.stem.rpartition(".")
        kinds[path] = (name.lower(), kind.lower()) if name and kind.lower() in modalities else (path.stem.lower(), None)
    plain = {name for name, kind in kinds.values() if kind in (None, "rgb")}
    own = {name for name, kind in kinds.values() if kind == modality}

    def is_of_modality(name: str, kind: str | None) -> bool:
        return name not in own if kind is None else kind == modality or name not in plain

    return [path for path, (name, kind) in kinds.items() if is_of_modality(name, kind)]


def single_file(name: str, paths: Sequence[Path]) -> Path:
    if len(paths) != 1 or os.path.isdir(paths[0]):
        raise InputFileError(f"got {', '.join(map(str, paths))} as {name} of one picture; pass one file, or several pictures too")
    return paths[0]


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a distinct folder name for each file: its stem, with its suffix or a number where that is taken."""
    counts = Counter(_as_compared(path.stem) for path in paths)
    names: dict[str, str] = {}  # as file systems compare them -> name
    for path in paths:
        is_name = bool(path.stem.strip("."))  # "...png" has the stem "..", which is the folder above
        name = own = path.stem if is_name and counts[_as_compared(path.stem)] == 1 else path.name
        number = 1
        while _as_compared(name) in names:
            number += 1
            name = f"{own}-{number}"
        names[_as_compared(name)] = name
    return list(names.values())


def _as_compared(name: str) -> str:
    """Return what is equal for names that some file system takes for one: of other case, or other code points for the same letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
