"""A run's state on disk: one safetensors file, and one JSON file that names the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jointnet.errors import RunFolderError
from jointnet.files.atomic import replacing_file, write_json

STATE_FILE = "state.safetensors"
RUN_FILE = "run.json"


@dataclass
class Progress:
    """Where a run stands. ``curve`` holds one row per logged step: {"step", "seconds", "lr", the losses}."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def claim(run_dir: Path, facts: Mapping[str, Any], **more: Any) -> None:
    """Write ``run_dir / RUN_FILE``: facts by which a run differs from others, and ``more`` about it.

    Raises: RunFolderError if the folder holds the state of a run with other facts.
    """
    path = run_dir / RUN_FILE
    if (run_dir / STATE_FILE).exists() and path.exists():
        known = json.loads(path.read_text())
        other = [f"{name} {known.get(name)}, now {value}" for name, value in facts.items() if known.get(name) != value]
        if other:
            raise RunFolderError(f"got {str(run_dir)!r}, which holds another run ({'; '.join(other)}); pass another folder, or delete it")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(path, {**facts, **more})


def save_state(run_dir: Path, model: nn.Module, average: list[Tensor] | None, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write weights, weight average, optimizer moments and progress to ``run_dir / STATE_FILE``, whole or not at all."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, value in enumerate(average or ()):
        tensors[f"average.{i}"] = value
    for i, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            tensors[f"optimizer.{i}.{name}"] = torch.as_tensor(value)
    run_dir.mkdir(parents=True, exist_ok=True)
    metadata = {"progress": json.dumps(vars(progress)), "trained": json.dumps(_trained(model, average))}
    with replacing_file(run_dir / STATE_FILE) as path:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, path, metadata=metadata)


def load_state(run_dir: Path, model: nn.Module, average: list[Tensor] | None, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore the state that save_state wrote, in place; return the progress, a new one if nothing was saved.

    Raises: RunFolderError if other parameters were trained, or the weights were averaged and are not now (or the other way round).
    """
    path = run_dir / STATE_FILE
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["trained"]) != _trained(model, average):
            raise RunFolderError(f"got {str(path)!r}, the state of a run that trains other weights; pass another folder, or delete it")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        progress = Progress(**json.loads(metadata["progress"]))
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for i, value in enumerate(average or ()):
        value.copy_(tensors[f"average.{i}"])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".", 2)
            moments.setdefault(int(i), {})[name] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "state": moments})
    return progress


def _trained(model: nn.Module, average: list[Tensor] | None) -> dict[str, Any]:
    """Return the facts that a state's numbers depend on: optimizers know parameters by their place only."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    return {"parameters": [n for n, p in model.named_parameters() if p.requires_grad], "shapes": shapes, "is_averaged": average is not None}
