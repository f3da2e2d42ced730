"""The figures of the parts that are done: a JSON file beside the page. Several processes may share the parts of one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jointnet.demo.measure.page import load_figures, save_figures
from jointnet.errors import FolderHeldError, OutputError
from jointnet.files.lock import locked, waiting_for
from jointnet.machine.processes import num_processes
from jointnet.reproduction.setting import Budget

Figures = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What is known of a reproduction.

    Attributes:
        path: of the JSON file.
        budget: that all figures in it are of; names: of all parts.
        work: folder where a part is held while a process runs it.
    """

    path: Path
    budget: Budget
    names: Sequence[str]
    work: Path

    def read(self) -> Figures:
        """The file: ``budget``, ``names`` and, by name, ``parts``.

        Raises: OutputError if it is another command's, or of another budget.
        """
        stated = json.loads(json.dumps(asdict(self.budget)))
        try:
            known = load_figures(self.path) or {"budget": stated, "parts": {}}
            earlier = known["budget"], known["parts"].keys()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"got {str(self.path)!r}, which is none of this command's; choose another --output") from error
        if earlier[0] != stated:
            raise OutputError(f"got {str(self.path)!r} of another budget; choose another --output, or the same numbers")
        return {**known, "names": [*self.names]}

    @contextmanager
    def taking(self, name: str) -> Iterator[bool]:
        """Hold a part while it is run; False if another process, that is not of this command, runs it. Raises: OSError."""
        if num_processes() > 1:  # they train together
            yield True
            return
        folder = self.work / "parts" / re.sub(r"[^a-z0-9]+", "-", name.lower())
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(folder))
            except FolderHeldError:
                yield False
                return
            yield True

    @contextmanager
    def adding(self, name: str, figures: Figures) -> Iterator[Figures]:
        """Add a part's figures to those in the file, and hold it while the page is written. Raises: as ``read``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with waiting_for(self.work / "parts"):
            known = self.read()
            known["parts"][name] = figures
            save_figures(known, self.path)
            yield known
