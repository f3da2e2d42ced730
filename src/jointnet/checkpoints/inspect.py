"""What a model folder holds, read from its configurations and the headers of its weights: no weight is loaded, nothing heavy imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jointnet.checkpoints.index import INDEX_FILE, listed_components, read_side_file
from jointnet.checkpoints.weight_files import count_parameters, variant_of, weight_files
from jointnet.errors import ModelFolderError


def read_config(folder: Path, part: str, name: str = "config.json") -> dict[str, Any]:
    """Return a component's configuration; empty if the model has no such component. Raises: ModelFolderError."""
    return read_side_file(folder / part / name) if part in listed_components(read_side_file(folder / INDEX_FILE)) else {}


def parameter_counts(folder: Path) -> dict[str, int]:
    """Return the number of parameters of each network of a model folder. Raises: ModelFolderError if they are not safetensors."""
    variant = variant_of(folder)
    networks = [name for name in listed_components(read_side_file(folder / INDEX_FILE)) if (folder / name / "config.json").is_file()]
    files = {name: weight_files(folder / name, variant) for name in networks}
    for name, paths in files.items():
        if any(path.suffix != ".safetensors" for path in paths):
            raise ModelFolderError(f"cannot count the parameters of {str(folder)!r}: got no weights of {name} as safetensors")
    return {name: sum(map(count_parameters, paths)) for name, paths in files.items()}
