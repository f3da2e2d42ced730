"""Hashes of many files' contents, kept between runs so that a file that was read once is not read again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jointnet.files.atomic import write_text
from jointnet.files.fingerprints import of_content
from jointnet.files.json_files import read_named_values
from jointnet.files.write_errors import naming_write_errors

INDEX_FILE = "files.json"
_ROW = [str, int, int, int, int, str]
"""Kind, size, times of the last change of content and inode, inode, hash."""

_CLOCK_NS = 2_000_000_000
"""Coarsest step of a file system's clock: a file changed so shortly before it was read may be changed again without a new time."""


class ContentIndex:
    """Hashes of the files below ``folder``, by their path in it; ``path`` keeps them, None only while the process runs.

    A hash is believed while the file's size, inode and times are what they were. Among them is the time of the last change of the inode,
    which the system sets whenever a file is written, replaced or renamed, also where its date is set back. The folder may be moved.
    """

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self.folder, self.path = folder, path
        self.entries: dict[str, list[str | int]] = {}
        self._has_changed = False
        if path is not None:
            try:
                self.entries = {name: row for name, row in read_named_values(path).items() if isinstance(row, list)}
            except (OSError, ValueError):  # a damaged one is made anew
                self.entries = {}

    def hash_of(self, name: str, kind: str, check: Callable[[], object]) -> str:
        """Return the hash of a file's content; a file that was not seen before as of this kind is read and checked.

        Raises: OSError, and what ``check`` raises.
        """
        path = self.folder / name
        facts = _facts(path)
        row = self.entries.get(name)
        if row is not None and row[:-1] == [kind, *facts]:
            return str(row[-1])
        now = time.time_ns()
        content = of_content(path)
        check()
        if _facts(path) == facts and now - facts[2] > _CLOCK_NS:
            self.entries[name] = [kind, *facts, content]
            self._has_changed = True
        return content

    def save(self) -> None:
        """Write what is new. Raises: OutputError."""
        if self.path is None or not self._has_changed:
            return
        with naming_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self.entries, separators=(",", ":")))
        self._has_changed = False


def is_index(entries: Mapping[str, Any]) -> bool:
    """Return True if the content of a JSON file is that of an index."""
    rows = entries.values()
    return bool(entries) and all(isinstance(row, list) and [type(value) for value in row] == _ROW for row in rows)


def _facts(path: Path) -> list[int]:
    """Return size, times of the last change of content and inode, and inode."""
    facts = os.stat(path)
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
