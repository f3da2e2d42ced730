"""A run's state on disk: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

STATE_FILE = "state.safetensors"


@dataclass
class Progress:
    """Where a run stands. ``curve`` holds one row per logged step: {"step", "seconds", "lr", the losses}."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def save_state(run_dir: Path, model: nn.Module, average: list[Tensor] | None, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write weights, weight average, optimizer moments and progress to ``run_dir / STATE_FILE``, replacing it in one move."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, value in enumerate(average or ()):
        tensors[f"average.{i}"] = value
    for i, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            tensors[f"optimizer.{i}.{name}"] = torch.as_tensor(value)
    run_dir.mkdir(parents=True, exist_ok=True)
    unfinished = run_dir / f".{STATE_FILE}"
    metadata = {"progress": json.dumps(vars(progress))}
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, unfinished, metadata=metadata)
    os.replace(unfinished, run_dir / STATE_FILE)


def load_state(run_dir: Path, model: nn.Module, average: list[Tensor] | None, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what save_state wrote into the given objects; returns the progress, a new one if nothing was saved."""
    path = run_dir / STATE_FILE
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        progress = Progress(**json.loads(file.metadata()["progress"]))
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
