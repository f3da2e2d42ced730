"""Result sets that are there already: one is kept if its settings, and the contents of all that it was computed from, are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jointnet.checkpoints.index import INDEX_FILE, VOCABULARY_FILE
from jointnet.cli.sampling import Run
from jointnet.errors import InputFileError
from jointnet.files.fingerprints import of_content, of_stats, of_texts
from jointnet.files.json_files import read_named_values
from jointnet.files.result_facts import RESULT_FILE, is_as_written, listed, our_facts

MODEL_FILES = "model_files"
"""Entry of a RESULT_FILE: what the files of the model were."""

_OF_A_RUN = ("program", "seconds", "versions", "files", "kept", "contents", MODEL_FILES)
"""Entries that do not tell one command from another."""

RELEASE_FILES = ("config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""What a branch of a checkpoint of the authors' release is read from."""


def contents_of(paths: Iterable[Path]) -> dict[str, str]:
    """Return what changes with the bytes of each file, by its path. Raises: InputFileError."""
    contents = {}
    for path in paths:
        try:
            contents[str(path)] = of_content(path)
        except OSError as error:
            raise InputFileError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    return contents


class ModelFiles:
    """The files of a command's model as they are before it is opened; ``is_here`` is False while the hub has yet to send some.

    The stamp is of their sizes and times, which are read at once; weights of many gigabytes are read for their contents only for a
    result that is to be kept, and not if an earlier result of the same stamp states them.
    """

    def __init__(self, run: Run) -> None:
        files = _files_of_model(run)
        self.is_here = files is not None
        self.files = files or []
        self.stamp = of_stats(path for _, path in self.files)
        self._contents: str | None = None

    def contents(self) -> str | None:
        """Return 16 hex digits that change with the bytes of the files, wherever they lie; None if they were changed meanwhile."""
        try:
            if self._contents is None:
                self._contents = of_texts(f"{name} {of_content(path)}" for name, path in self.files)
            return self._contents if of_stats(path for _, path in self.files) == self.stamp else None
        except OSError:
            return None

    def are_those_of(self, facts: Mapping[str, Any]) -> bool:
        """Return True if a RESULT_FILE states the same files."""
        held = facts.get(MODEL_FILES)
        if not isinstance(held, dict):
            return False
        contents = held.get("contents")
        if held.get("stamp") == self.stamp:
            self._contents = self._contents or (contents if isinstance(contents, str) else None)
            return True
        return contents is not None and contents == self.contents()

    def facts(self, *, with_contents: bool) -> dict[str, Any]:
        """Return the entry of a RESULT_FILE; without contents, which take long, the model is known until a file of it is touched."""
        contents = self.contents() if with_contents else None
        return {MODEL_FILES: {"stamp": self.stamp, **({} if contents is None else {"contents": contents})}}


def current_files(folder: Path, expected: Mapping[str, Any], model: ModelFiles, *, has_unit: bool) -> list[Path] | None:
    """Return the files of a folder if the same command wrote them from the same contents and they are as it wrote them, else None.

    Args:
        expected: facts of the command, with the contents of its inputs; has_unit: a file of depth states the distance at disparity 1,
            which is not among them yet.
    """
    held = our_facts(folder / RESULT_FILE)
    besides = (*_OF_A_RUN, "depth_near_m") if has_unit else _OF_A_RUN
    if not held or _lasting(held, besides) != _lasting(expected, besides):
        return None
    paths = [folder / name for name in sorted(listed(held))]
    if not paths or "contents" not in held or not all(is_as_written(path, held) for path in paths) or not model.are_those_of(held):
        return None
    return [*paths, folder / RESULT_FILE]


def _lasting(facts: Mapping[str, Any], besides: Iterable[str]) -> dict[str, Any]:
    """Return what tells one command from another, as JSON holds it."""
    return json.loads(json.dumps({name: value for name, value in facts.items() if name not in besides}))


def _files_of_model(run: Run) -> list[tuple[str, Path]] | None:
    """Return the files that a command's model is opened from, by their names in it; None if the hub has yet to send some of them."""
    from jointnet.loading import local_folder

    joint, base = (local_folder(run.model), None) if run.base is None else (Path(run.model), local_folder(run.base))
    if joint is None or (run.base is not None and base is None):
        return None
    files = _files_below(joint) if base is None else [*_files_of_release(joint), *_files_below(base)]
    return [(str(path.relative_to(place)), path) for place, path in files]


def _files_below(folder: Path) -> list[tuple[Path, Path]]:
    """Return the index, the words and the components of a saved pipeline, each with the folder."""
    try:
        parts = sorted(name for name in read_named_values(folder / INDEX_FILE) if (folder / name).is_dir())
    except (OSError, ValueError):  # it was changed meanwhile
        parts = []
    below = [path for name in parts for path in sorted((folder / name).rglob("*")) if not path.name.startswith(".")]
    return [(folder, path) for path in (folder / INDEX_FILE, folder / VOCABULARY_FILE, *below) if path.is_file()]


def _files_of_release(place: Path) -> list[tuple[Path, Path]]:
    """Return a checkpoint's zip, or the configs and weights in its folder, each with the folder."""
    if place.is_file():
        return [(place.parent, place)]
    return [(place, path) for path in sorted(place.rglob("*")) if path.name in RELEASE_FILES and path.is_file()]
