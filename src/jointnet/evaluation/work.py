"""A folder that an evaluation fills, unit by unit: several processes share the units, and a stopped evaluation goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jointnet.errors import OutputError
from jointnet.files.atomic import json_text, write_json
from jointnet.files.json_files import read_named_values
from jointnet.files.write_errors import naming_write_errors
from jointnet.machine.processes import num_processes, rank

PLAN_FILE, RESULT_FILE = "plan.json", "result.json"


def claim(folder: Path, plan: Mapping[str, Any]) -> None:
    """Note in PLAN_FILE what a folder is filled with; a folder with the same plan is gone on with. Every process may do so.

    A plan of which nothing was done yet gives way to another.
    Raises: OutputError if the folder holds something else.
    """
    path, stated = folder / PLAN_FILE, json.loads(json_text(dict(plan)))
    with naming_write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            earlier = read_named_values(path)
        except ValueError as error:
            raise OutputError(f"got a damaged {str(path)!r}; choose another folder, or remove this one") from error
        if earlier and not any(place.is_file() and place.name != PLAN_FILE for place in folder.rglob("*")):
            write_json(path, stated)
            return
        if earlier and earlier != stated:
            other = sorted(name for name in stated.keys() | earlier.keys() if stated.get(name) != earlier.get(name))
            raise OutputError(f"got {str(folder)!r}, which is of another {', '.join(other)}; choose another folder, or remove it")
        if not earlier:
            others = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
            if others:
                raise OutputError(f"got {str(folder)!r}, which holds {others[0]!r} and is none of ours; choose another folder")
            write_json(path, stated)


@dataclass(frozen=True)
class Units:
    """Rows cut into units of ``size``, each with a JSON file of what was found."""

    folder: Path
    count: int
    size: int

    def mine(self) -> Sequence[int]:
        """Units of this process that are not done."""
        every = range(-(-self.count // self.size))
        return [unit for unit in every[rank() :: num_processes()] if not self._file(unit).exists()]

    def rows(self, unit: int) -> range:
        """Rows of a unit."""
        return range(unit * self.size, min((unit + 1) * self.size, self.count))

    def write(self, unit: int, found: Any) -> None:
        """Keep what was found. Raises: OutputError."""
        path = self._file(unit)
        with naming_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"found": found})

    def read(self) -> list[Any]:
        """What was found in all units, in order. Raises: OutputError if one is not done."""
        return [self._found(unit) for unit in range(-(-self.count // self.size))]

    def _found(self, unit: int) -> Any:
        try:
            return read_named_values(self._file(unit))["found"]
        except (KeyError, ValueError) as error:
            raise OutputError(f"got no {str(self._file(unit))!r}; run the same command again") from error

    def _file(self, unit: int) -> Path:
        return self.folder / f"{unit:06d}.json"
