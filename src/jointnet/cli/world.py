"""Small models that know one world only, such as the bundled ones, and inputs from elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jointnet.cli.beside import scene_facts
from jointnet.cli.sampling import Run
from jointnet.errors import JointNetWarning


def strangers(run: Run, files: Iterable[Path], near_m: float | None) -> list[Path]:
    """Return the files of which nothing says that they are of a small model's world; none if the model is not a small one.

    What our commands wrote of that world (``jointnet demo scene``, and what the model made of its results) has a result.json beside it that
    states the same near distance. Raises: ModelFolderError.
    """
    from jointnet.loading import vocabulary

    if run.base is not None or vocabulary(run.model) is None:
        return []
    return [path for path in files if scene_facts(path).get("depth_near_m", 0) != near_m]


def warn_of_strangers(run: Run, files: Iterable[Path], near_m: float | None) -> bool:
    """Warn, in one line, of files from elsewhere; return True if there are any."""
    names = list(dict.fromkeys(path.name for path in strangers(run, files, near_m)))
    if names:
        listed = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        warnings.warn(
            f"{run.model} knows only the small scenes it was trained on, and nothing says that {listed} shows one: "
            "expect little of the result, whose depth has no unit",
            JointNetWarning,
            stacklevel=2,
        )
    return bool(names)


def without_unit(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a result without the near distance of the model's own world."""
    return {**facts, "depth_near_m": None}
