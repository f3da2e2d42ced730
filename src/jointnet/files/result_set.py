"""The files of one result: a folder that is checked before the work, and filled so that no half-written file has its final name.

Nothing is replaced or removed but what an earlier command of ours wrote: the RESULT_FILE in the folder has to be ours and to list it with
the content that it has.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from jointnet.errors import OutputError
from jointnet.files.atomic import json_text, replacing_files, write_json
from jointnet.files.fingerprints import of_content
from jointnet.files.lock import waiting_for
from jointnet.files.result_facts import PROGRAM, RESULT_FILE, UNFINISHED, command_of, is_as_written, known_names, our_facts, removable


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
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # unless it was there, and another process has removed it meanwhile
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
        that is not ours, or one of the files and no RESULT_FILE of ours that lists it with that content.
    """
    check_folder(folder)
    paths = [folder / name for name in names]
    result = folder / RESULT_FILE
    for path in (*paths, result):
        if replaces(path, inputs):
            raise OutputError(f"got {str(path)!r} as an input, which the result would replace; choose another folder with -o")
    facts = our_facts(result)
    if os.path.lexists(result) and (not facts or result.is_symlink()):
        raise OutputError(f"got output folder {str(folder)!r} with a {RESULT_FILE} that is not ours; choose another with -o")
    for path in paths:
        if not os.path.lexists(path) or is_as_written(path, facts):
            continue
        if path.name not in known_names(facts):
            raise OutputError(f"got {str(path)!r}, which is not of an earlier result and would be replaced; choose another folder with -o")
        raise OutputError(
            f"got {str(path)!r}, which is not the file of an earlier result any more and would be replaced; "
            "move it away or choose another folder with -o"
        )


def write_result_set(folder: Path, files: Mapping[str, Writable], result: Mapping[str, Any], inputs: Collection[FileId] = ()) -> list[Path]:
    """Write files by their names, and ``result`` with the list of them as RESULT_FILE.

    ``inputs`` are not replaced. No file has its name before all are written. Files of an earlier result of the same command that this one
    does not have are removed; those of another command stay, and RESULT_FILE names them as ``kept``. What a user put in the place of one
    stays too. Processes that write into one folder wait for each other.
    Returns: the paths, RESULT_FILE last.
    Raises: OutputError, also as ``check_result_set``.
    """
    try:
        with filling(folder), waiting_for(folder):
            check_result_set(folder, files, inputs)
            earlier = our_facts(folder / RESULT_FILE)
            held = {name: of_content(folder / name) for name in sorted(known_names(earlier)) if is_as_written(folder / name, earlier)}
            removed = held.keys() & removable(earlier, result.get("command")) - files.keys()
            kept = {name: content for name, content in held.items() if name not in removed and name not in files}
            with replacing_files(folder, [*files, RESULT_FILE]) as temporary:
                for part, path in zip(files.values(), temporary, strict=False):
                    part.write(path)
                written = {name: of_content(path) for name, path in zip(files, temporary, strict=False)}
                listed = {"files": sorted(files), **({"kept": sorted(kept)} if kept else {})}
                facts = {"program": PROGRAM, **result, **listed, "contents": dict(sorted({**kept, **written}.items()))}
                _write_json(temporary[-1], facts)
                _announce(folder, held, written)
                for name in removed:
                    _remove(folder / name)
    except OSError as error:
        raise OutputError(
            f"cannot write {str(folder)!r}: {error.strerror or error}; free space or choose another folder with -o"
        ) from error
    return [folder / name for name in (*files, RESULT_FILE)]


def _announce(folder: Path, held: Mapping[str, str], written: Mapping[str, str]) -> None:
    """Write a RESULT_FILE of no result that knows the earlier and the new content of every file.

    A process that is killed while it renames leaves files of both, which its next run would otherwise take for the user's. Raises: OSError.
    """
    facts = {"program": PROGRAM, "files": [], "kept": sorted(held.keys() | written.keys()), "contents": held, UNFINISHED: written}
    write_json(folder / RESULT_FILE, facts, indent=2)


def remove_numbered_sets(folder: Path, command: str, besides: Iterable[str] = ()) -> None:
    """Remove the result sets of an earlier, longer series of a command; files that are not theirs stay.

    A set belongs to a series if its RESULT_FILE is ours, of that command, and says so (``numbered``). Raises: OutputError.
    """
    kept = set(besides)
    try:
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not place.name.isdecimal() or place.name in kept or place.is_symlink() or not place.is_dir():
                continue
            with waiting_for(place):
                facts = our_facts(place / RESULT_FILE)
                if "numbered" not in facts or command_of(facts) != command:
                    continue
                ours = [name for name in removable(facts, command) if is_as_written(place / name, facts)]
                for name in (*ours, RESULT_FILE):
                    _remove(place / name)
            with suppress(OSError):  # it holds something else
                place.rmdir()
    except OSError as error:
        raise OutputError(
            f"cannot remove the earlier results in {str(folder)!r}: {error.strerror or error}; choose another folder"
        ) from error


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)


def _file_id(path: Path) -> FileId | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _cannot_write_to(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write to output folder {str(folder)!r}: {error.strerror or error}; choose another with -o")


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write UTF-8; bytes of file names that are none become JSON's escapes. Raises: OSError."""
    path.write_text(json_text(facts, indent=2), encoding="utf-8", errors="backslashreplace")
