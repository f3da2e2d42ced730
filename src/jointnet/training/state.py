"""A run's state on disk: one safetensors file that names the run it belongs to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jointnet.errors import RunFolderError
from jointnet.files.atomic import replacing_file
from jointnet.files.write_errors import is_link_to_nothing, naming_write_errors, reason
from jointnet.training.config import OptimConfig

STATE_FILE = "state.safetensors"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        curve: one row per logged step: {"step", "seconds", "lr", the losses}.
        plans: what may change when a run resumes, one row each time that it did: {"from_step", "steps", "budget_minutes", "device",
            "type"}.
    """

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)

    def share(self, config: OptimConfig, budget_minutes: float | None = None) -> float:
        """Return the share of the run that is behind it, by steps or by the budget; 1 and more where it has ended."""
        share = self.step / config.steps
        return share if budget_minutes is None else max(share, self.seconds / (60 * budget_minutes))

    def plan(self, config: OptimConfig, budget_minutes: float | None, **more: Any) -> None:
        """Note what the next steps are trained by, if it is new."""
        row = {"steps": config.steps, "budget_minutes": budget_minutes, **more}
        if not self.plans or {**self.plans[-1], **row} != self.plans[-1]:
            self.plans.append({"from_step": self.step, **row})


def save_state(
    run_dir: Path,
    model: nn.Module,
    average: list[Tensor] | None,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write weights, weight average, optimizer moments and progress to ``run_dir / STATE_FILE``; the one before stays until it is whole.

    ``facts`` are those that the run is known by. Raises: OutputError.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, value in enumerate(average or ()):
        tensors[f"average.{i}"] = value
    for i, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            tensors[f"optimizer.{i}.{name}"] = torch.as_tensor(value)
    metadata = {"progress": vars(progress), "trained": _trained(model, average), "facts": dict(facts or {})}
    path = run_dir / STATE_FILE
    with naming_write_errors(path):
        run_dir.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary:
            contents = {k: v.detach().contiguous() for k, v in tensors.items()}
            save_file(contents, temporary, metadata={name: json.dumps(value) for name, value in metadata.items()})


def load_state(
    run_dir: Path,
    model: nn.Module,
    average: list[Tensor] | None,
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any] | None = None,
) -> Progress:
    """Restore the state that save_state wrote, in place; return the progress, a new one if nothing was saved.

    Raises: RunFolderError if the state cannot be read, is that of a run with other ``facts``, other parameters were trained, or the weights
    were averaged and are not now (or the other way round).
    """
    with _opened(run_dir) as file:
        if file is None:
            return Progress()
        metadata = file.metadata() or {}
        progress = _checked_progress(run_dir, metadata, facts or {})
        if json.loads(metadata["trained"]) != _trained(model, average):
            raise RunFolderError(
                f"got {str(run_dir / STATE_FILE)!r}, the state of a run that trains other weights; pass another folder, or delete it"
            )
        targets = {f"model.{name}": value for name, value in model.state_dict().items()}
        targets |= {f"average.{i}": value for i, value in enumerate(average or ())}
        for key, target in targets.items():  # one at a time: all of them twice may not fit
            target.copy_(file.get_tensor(key))
        moments: dict[int, dict[str, Tensor]] = {}
        for key in file.keys():  # noqa: SIM118 - not a dict
            if key.startswith("optimizer."):
                _, i, name = key.split(".", 2)
                moments.setdefault(int(i), {})[name] = file.get_tensor(key)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        return progress


def read_progress(run_dir: Path, facts: Mapping[str, Any]) -> Progress:
    """Return how far a run has come, from the head of its state; a new progress if nothing was saved.

    Raises: RunFolderError if the state cannot be read, or is that of a run with other ``facts``.
    """
    with _opened(run_dir) as file:
        return Progress() if file is None else _checked_progress(run_dir, file.metadata() or {}, facts)


@contextmanager
def _opened(run_dir: Path) -> Iterator[Any]:
    """Yield the open state file, None if there is none. Raises: RunFolderError where it is damaged."""
    path = run_dir / STATE_FILE
    if not os.path.lexists(path):
        yield None
        return
    remedy = "put a copy of it in its place, choose another folder, or delete it to train from the start"
    if is_link_to_nothing(path):
        raise RunFolderError(f"got {str(path)!r}, a link to {str(path.readlink())!r}, which is not there; mount it, or {remedy}")
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise RunFolderError(f"got {str(path)!r}, which is no file; {remedy}")
    try:
        with torch.no_grad(), safe_open(path, "pt") as file:
            yield file
    except RunFolderError:
        raise
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"cannot read state {str(path)!r}: {reason(error)}; {remedy}") from error
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunFolderError(f"got {str(path)!r}, which is no whole state of a run; {remedy}") from error


def _checked_progress(run_dir: Path, metadata: Mapping[str, str], facts: Mapping[str, Any]) -> Progress:
    """Raises: RunFolderError."""
    progress = Progress(**json.loads(metadata["progress"]))
    if "facts" not in metadata:
        raise RunFolderError(
            f"got {str(run_dir)!r}, a run of an earlier version, which did not keep its settings; pass another folder, or delete it"
        )
    known, now = _flat(json.loads(metadata["facts"])), _flat(json.loads(json.dumps(dict(facts))))
    other = [f"{name} {known.get(name, 'not known')}, now {value}" for name, value in now.items() if known.get(name) != value]
    if other:
        raise RunFolderError(f"got {str(run_dir)!r}, which holds another run ({'; '.join(other)}); pass another folder, or delete it")
    return progress


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Facts of facts by names with a dot."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return flat


def _trained(model: nn.Module, average: list[Tensor] | None) -> dict[str, Any]:
    """Return the facts that a state's numbers depend on: optimizers know parameters by their place only."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    return {"parameters": [n for n, p in model.named_parameters() if p.requires_grad], "shapes": shapes, "is_averaged": average is not None}
