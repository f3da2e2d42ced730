"""The files of one result: a folder that is checked before the work, and filled so that no half-written file has its final name."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jointnet.errors import OutputError
from jointnet.files.atomic import json_text, replacing_files
from jointnet.files.json_files import read_named_values

RESULT_FILE = "result.json"
"""Facts about a result, with the names of its files; it is renamed last, so that where it lies all the others do."""


class Writable(Protocol):
    """Content that can be written to a file."""

    def write(self, path: Path) -> None:
        """Write to ``path``, which has the suffix of the name that the content is listed under. Raises: OSError, OutputError."""
        ...


def prepare_folder(folder: Path) -> Path:
    """Create an output folder and check that it can be written. Raises: OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to output folder {str(folder)!r}: {error.strerror}; choose another with -o") from error
    return folder


def write_result_set(folder: Path, files: Mapping[str, Writable], result: Mapping[str, Any]) -> list[Path]:
    """Write files by their names, and ``result`` with the list of them as RESULT_FILE.

    No file has its name before all are written; files of an earlier result that this one does not have are removed.
    Returns: the paths, RESULT_FILE last.
    Raises: OutputError.
    """
    prepare_folder(folder)
    content = {**files, RESULT_FILE: _Text(json_text({**result, "files": sorted(files)}, indent=2))}
    paths = [folder / name for name in content]
    try:
        with replacing_files(paths) as temporary:
            for part, path in zip(content.values(), temporary, strict=True):
                part.write(path)
            for name in _earlier_files(folder) - set(content):
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(folder)!r}: {error.strerror}; free space or choose another folder with -o") from error
    return paths


def _earlier_files(folder: Path) -> set[str]:
    """Return the files that an earlier result in the folder lists; none if its RESULT_FILE is not ours, or unreadable."""
    try:
        named = read_named_values(folder / RESULT_FILE).get("files", [])
    except (OSError, ValueError):
        return set()
    return {name for name in named if isinstance(name, str) and Path(name).name == name} if isinstance(named, list) else set()


@dataclass(frozen=True)
class _Text:
    content: str

    def write(self, path: Path) -> None:
        path.write_text(self.content, encoding="utf-8")
