"""The files of one result: a folder that is checked before the work, and filled so that no half-written file has its final name.

Nothing is replaced or removed but what an earlier command of ours wrote: the RESULT_FILE in the folder has to be ours and to list it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jointnet.errors import OutputError
from jointnet.files.atomic import json_text, replacing_files
from jointnet.files.json_files import read_named_values

RESULT_FILE = "result.json"
"""Facts about a result, with the names of its files; it is renamed last, so that where it lies all the others do."""

PROGRAM = "jointnet"
"""Entry ``program`` of every RESULT_FILE of ours."""

SCENE_COMMAND = "demo scene"
"""The command that wrote no ``command`` into its RESULT_FILE at first."""

DATA_COMMAND = "demo scene --num"
_DATA_NAME = r"\d{8}(\.png|\.txt|\.depth\.npy|\.normal\.npy)"
"""The command that writes a data folder of demo scenes, and its files."""


class Writable(Protocol):
    """Content that can be written to a file."""

    def write(self, path: Path) -> None:
        """Write to ``path``, which has the suffix of the name that the content is listed under. Raises: OSError, OutputError."""
        ...


def check_folder(folder: Path) -> None:
    """Check that a folder can be written, or created; nothing is created. Raises: OutputError."""
    try:
        place = folder
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _cannot_write_to(folder, error) from error


def prepare_folder(folder: Path) -> Path:
    """Create an output folder and check that it can be written. Raises: OutputError."""
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write_to(folder, error) from error
    return folder


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Create a folder; after an error, remove again what was created, if it is empty. Raises: OSError."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):  # it is not empty, or was never there
                place.rmdir()
        raise


def map_names(modalities: Iterable[str], *, has_uncertainty: bool = False) -> list[str]:
    """Return the names that the maps of a result have, unless a modality names its files itself."""
    ends = [".png", ".npy", "_preview.png", *(("_uncertainty.npy", "_uncertainty.png") if has_uncertainty else ())]
    return ["image.png", *(f"{name}{end}" for name in modalities if name != "rgb" for end in ends)]


FileId = tuple[int, int]
"""What all paths of one file have in common, hard and symbolic links included."""


def file_ids(paths: Iterable[Path]) -> frozenset[FileId]:
    """Return what tells files from others under whatever path; those that are not there are left out."""
    return frozenset(found for found in map(_file_id, paths) if found is not None)


def replaces(path: Path, inputs: Collection[FileId]) -> bool:
    """Return True if a file to be written is one of the inputs."""
    return bool(inputs) and _file_id(path) in inputs


def check_result_set(folder: Path, names: Iterable[str], inputs: Collection[FileId] = ()) -> None:
    """Check, before the work, that files of these names may be written into a folder.

    Raises: OutputError if it cannot be written; if one of the files is an input, under whatever path; if the folder holds a RESULT_FILE
        that is not ours, or one of the files and no RESULT_FILE of ours that lists it.
    """
    check_folder(folder)
    paths = [folder / name for name in (*names, RESULT_FILE)]
    for path in paths:
        if replaces(path, inputs):
            raise OutputError(f"got {str(path)!r} as an input, which the result would replace; choose another folder with -o")
    facts, result = our_facts(folder / RESULT_FILE), folder / RESULT_FILE
    if os.path.lexists(result) and (not facts or result.is_symlink()):
        raise OutputError(f"got output folder {str(folder)!r} with a {RESULT_FILE} that is not ours; choose another with -o")
    known = {RESULT_FILE, *_known(facts)}
    for path in paths:
        if os.path.lexists(path) and (path.name not in known or path.is_dir()):
            raise OutputError(f"got {str(path)!r}, which is not of an earlier result and would be replaced; choose another folder with -o")


def write_result_set(folder: Path, files: Mapping[str, Writable], result: Mapping[str, Any], inputs: Collection[FileId] = ()) -> list[Path]:
    """Write files by their names, and ``result`` with the list of them as RESULT_FILE.

    ``inputs`` are not replaced. No file has its name before all are written. Files of an earlier result of the same command that this one
    does not have are removed; those of another command stay, and RESULT_FILE names them as ``kept``. Processes that write into one folder
    wait for each other.
    Returns: the paths, RESULT_FILE last.
    Raises: OutputError, also as ``check_result_set``.
    """
    try:
        with filling(folder), _only_writer(folder):
            check_result_set(folder, files, inputs)
            earlier = our_facts(folder / RESULT_FILE)
            removed = _removable(earlier, result.get("command")) - set(files)
            kept = sorted(name for name in _known(earlier) - removed - set(files) if os.path.lexists(folder / name))
            facts = {"program": PROGRAM, **result, "files": sorted(files), **({"kept": kept} if kept else {})}
            content = {**files, RESULT_FILE: _Text(json_text(facts, indent=2))}
            with replacing_files(folder, list(content)) as temporary:
                for part, path in zip(content.values(), temporary, strict=True):
                    part.write(path)
                for name in removed:
                    _remove(folder / name)
    except OSError as error:
        raise OutputError(
            f"cannot write {str(folder)!r}: {error.strerror or error}; free space or choose another folder with -o"
        ) from error
    return [folder / name for name in content]


def remove_numbered_sets(folder: Path, command: str, besides: Iterable[str] = ()) -> None:
    """Remove the result sets of an earlier, longer series of a command; files that are not theirs stay.

    A set belongs to a series if its RESULT_FILE is ours, of that command, and says so (``numbered``). Raises: OutputError.
    """
    kept = set(besides)
    try:
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not place.name.isdecimal() or place.name in kept or place.is_symlink() or not place.is_dir():
                continue
            with _only_writer(place):
                facts = our_facts(place / RESULT_FILE)
                if "numbered" not in facts or command_of(facts) != command:
                    continue
                for name in (*_removable(facts, command), RESULT_FILE):
                    _remove(place / name)
            with suppress(OSError):  # it holds something else
                place.rmdir()
    except OSError as error:
        raise OutputError(
            f"cannot remove the earlier results in {str(folder)!r}: {error.strerror or error}; choose another folder"
        ) from error


def our_facts(path: Path) -> dict[str, Any]:
    """Return what a command of ours wrote as RESULT_FILE; empty if there is no such file, or it is broken or another program's."""
    try:
        facts = read_named_values(path)
    except (OSError, ValueError, RecursionError):
        return {}
    if facts.get("program") == PROGRAM:
        return facts
    versions = facts.get("versions")
    is_run = "command" in facts and isinstance(versions, dict) and PROGRAM in versions
    is_scene = {"scene", "projection", "depth_near_m"} <= facts.keys()
    is_ours_of_before = isinstance(facts.get("meaning"), dict) and (is_run or is_scene)  # sets that name no program
    return facts if is_ours_of_before else {}


def facts_beside(path: Path) -> dict[str, Any]:
    """Return what a command of ours wrote about a file; empty if the RESULT_FILE beside it is not ours or does not list it."""
    facts = our_facts(path.with_name(RESULT_FILE))
    return facts if path.name in _listed(facts) else {}


def command_of(facts: Mapping[str, Any]) -> Any:
    """Return the command that wrote a RESULT_FILE of ours."""
    return facts.get("command", SCENE_COMMAND if "scene" in facts else None)


def _listed(facts: Mapping[str, Any], entry: str = "files") -> set[str]:
    """Return the names of a result's files, without those that would lie in another folder."""
    named = facts.get(entry)
    return {name for name in named if isinstance(name, str) and Path(name).name == name} if isinstance(named, list) else set()


def _known(facts: Mapping[str, Any]) -> set[str]:
    """Return the names of a result's files, and of those of earlier results of other commands."""
    return _listed(facts) | _listed(facts, "kept")


def _removable(facts: Mapping[str, Any], command: Any) -> set[str]:
    """Return the files of an earlier result of the same command that have names as our commands write them."""
    if not facts or command_of(facts) != command:
        return set()
    meaning = facts.get("meaning")
    kinds = "|".join(re.escape(name) for name in meaning) if isinstance(meaning, dict) else ""
    names = [r"image\.png", r"scene\.glb", rf"({kinds})(\.png|\.npy|_preview\.png|_uncertainty\.png|_uncertainty\.npy)"]
    pattern = "|".join([*names, *([_DATA_NAME] if command == DATA_COMMAND else ())])
    return {name for name in _listed(facts) if re.fullmatch(pattern, name)}


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)


def _file_id(path: Path) -> FileId | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process or thread writes into the folder; where the system has no such locks, do not wait. Raises: OSError."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _cannot_write_to(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write to output folder {str(folder)!r}: {error.strerror or error}; choose another with -o")


@dataclass(frozen=True)
class _Text:
    content: str

    def write(self, path: Path) -> None:
        """Write UTF-8; bytes of file names that are none become JSON's escapes. Raises: OSError."""
        path.write_text(self.content, encoding="utf-8", errors="backslashreplace")
