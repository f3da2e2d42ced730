"""What a model folder holds, read from its configurations and the headers of its weights: no weight is loaded, nothing heavy imported."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from jointnet.checkpoints.index import INDEX_FILE, read_side_file
from jointnet.errors import ModelFolderError

_WEIGHTS = ("diffusion_pytorch_model", "model")
_LONGEST_HEADER = 100_000_000
"""Bytes; what safetensors itself takes."""


def read_config(folder: Path, part: str, name: str = "config.json") -> dict[str, Any]:
    """Return a component's configuration; empty if the model has no such component. Raises: ModelFolderError."""
    listed = read_side_file(folder / INDEX_FILE).get(part)
    if not isinstance(listed, list) or listed[:1] == [None]:
        return {}
    config = read_side_file(folder / part / name)
    if not config:
        raise ModelFolderError(f"cannot load the model in {str(folder)!r}: got no {part}/{name}")
    return config


def parameter_counts(folder: Path) -> dict[str, int]:
    """Return the number of parameters of each network of a model folder. Raises: ModelFolderError if weights are missing or damaged."""
    parts = [name for name, listed in read_side_file(folder / INDEX_FILE).items() if isinstance(listed, list) and listed[:1] != [None]]
    networks = [name for name in parts if (folder / name / "config.json").is_file()]
    return {name: sum(_count(path, folder) for path in _weight_files(folder, name)) for name in networks}


def _weight_files(folder: Path, part: str) -> list[Path]:
    """Return the safetensors files of a component, whole or in shards, as diffusers and transformers choose them."""
    for stem in _WEIGHTS:
        whole, index = folder / part / f"{stem}.safetensors", folder / part / f"{stem}.safetensors.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return [folder / part / name for name in sorted(set(read_side_file(index).get("weight_map", {}).values()))]
    variants = sorted((folder / part).glob("*.safetensors"))
    if not variants:
        raise ModelFolderError(f"cannot load the model in {str(folder)!r}: got no weights of {part} as safetensors")
    return variants


def _count(path: Path, folder: Path) -> int:
    """Return the number of values in a safetensors file. Source: the format's own description. Raises: ModelFolderError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("its header is none")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if path.stat().st_size != end:
            raise ValueError(f"it has {path.stat().st_size} bytes, expected {end}")
        return sum(prod(tensor["shape"]) for tensor in header.values())
    except (OSError, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ModelFolderError(f"cannot load the model in {str(folder)!r}: {path.name} is damaged: {error}") from error
