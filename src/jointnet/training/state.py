"""A run's state on disk: one safetensors file that names the run it belongs to.

It holds whole weights whatever the number of processes and the way they were divided, so it opens in any other number.
"""

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
from jointnet.machine.processes import is_main_process, on_main
from jointnet.training.config import OptimConfig
from jointnet.training.parallel import fill, whole

STATE_FILE = "state.safetensors"
"""The last state; earlier ones that are kept are "state-STEP.safetensors"."""


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        skipped: steps whose loss or gradient was not finite, so that nothing was learned in them.
        curve: one row per logged step: {"step", "seconds", "lr", the losses}.
        plans: what may change when a run resumes, one row each time that it did: {"from_step", "steps", "budget_minutes", "device",
            "type", "processes"}.
    """

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    skipped: int = 0
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


@dataclass
class Trained:
    """What a state holds: the network's weights but those that stay as they are, their averages, and the optimizer's moments.

    Attributes:
        average: as many tensors as trained parameters; None without an average.
        scaler: of gradients in float16, which has a state of its own.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: list[Tensor] | None = None
    scaler: Any = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained ones, by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """Trained parameters and all buffers, by name."""
        frozen = {name for name, p in self.network.named_parameters() if not p.requires_grad}
        return {name: value for name, value in self.network.state_dict().items() if name not in frozen}

    def facts(self) -> dict[str, Any]:
        """What the numbers of a state depend on."""
        shapes = {name: list(value.shape) for name, value in self.weights().items()}
        return {"parameters": list(self.parameters), "shapes": shapes, "is_averaged": self.average is not None}

    def held(self) -> Iterator[tuple[str, Tensor]]:
        """Yield weights and averages by the names they have in a file."""
        for name, value in self.weights().items():
            yield f"model.{name}", value
        for name, value in zip(self.parameters, self.average or (), strict=False):
            yield f"average.{name}", value

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors by the names they have in a file, whole; every process must go through all of them."""
        for name, value in self.held():
            yield name, whole(value)
        for name, parameter in self.parameters.items():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                yield f"optimizer.{name}.{slot}", whole(torch.as_tensor(value))


def save_state(run_dir: Path, trained: Trained, progress: Progress, facts: Mapping[str, Any] | None = None, *, keep: int = 1) -> None:
    """Write weights, weight average, optimizer moments and progress to ``run_dir / STATE_FILE``; the one before stays until it is whole.

    Every process must call it; the main one writes.

    Args:
        facts: those that the run is known by.
        keep: how many states stay, this one included.
    Raises: OutputError.
    """
    is_main = is_main_process()
    tensors = {name: value.detach().cpu().contiguous() for name, value in trained.gathered() if is_main}
    metadata = {"progress": vars(progress), "trained": trained.facts(), "facts": dict(facts or {})}
    if trained.scaler is not None:
        metadata["scaler"] = trained.scaler.state_dict()

    def write() -> None:
        path = run_dir / STATE_FILE
        with naming_write_errors(path):
            run_dir.mkdir(parents=True, exist_ok=True)
            _keep_earlier(run_dir, keep - 1)
            with replacing_file(path) as temporary:
                save_file(tensors, temporary, metadata={name: json.dumps(value) for name, value in metadata.items()})

    on_main(write)


def _keep_earlier(run_dir: Path, count: int) -> None:
    """Give the last state a name of its own, which takes no room, and delete all but ``count`` of such. Raises: OSError."""
    path = run_dir / STATE_FILE
    if count and path.exists():
        with safe_open(path, "pt") as file:
            step = json.loads((file.metadata() or {})["progress"])["step"]
        earlier = run_dir / f"state-{step:08d}.safetensors"
        if not earlier.exists():
            os.link(path, earlier)
    kept = sorted(run_dir.glob("state-????????.safetensors"))
    for old in kept[: len(kept) - count]:
        old.unlink()


def load_state(run_dir: Path, trained: Trained, facts: Mapping[str, Any] | None = None) -> Progress:
    """Restore the state that save_state wrote, in place; return the progress, a new one if nothing was saved.

    Every process must call it; the main one reads.
    Raises: RunFolderError if the state cannot be read, is that of a run with other ``facts``, other parameters were trained, or the weights
    were averaged and are not now (or the other way round).
    """
    metadata = on_main(lambda: _checked_metadata(run_dir, trained, facts or {}))
    if metadata is None:
        return Progress()
    slots: dict[str, dict[str, Tensor]] = metadata["slots"]
    is_fused = any(group.get("fused") for group in trained.optimizer.param_groups)  # it keeps its step on the device
    targets = dict(trained.held())
    for name, parameter in trained.parameters.items():
        for slot, empty in slots.get(name, {}).items():
            value = (
                torch.zeros_like(parameter.detach(), dtype=empty.dtype)
                if empty.shape == parameter.shape
                else torch.zeros_like(empty, device="cpu" if slot == "step" and not is_fused else trained.device)
            )
            trained.optimizer.state[parameter][slot] = value
            targets[f"optimizer.{name}.{slot}"] = value
    with _opened(run_dir) if is_main_process() else _nothing() as file:
        for key, target in targets.items():  # one at a time: all of them twice may not fit
            fill(target, None if file is None else file.get_tensor(key))
    if trained.scaler is not None and metadata["scaler"] is not None:
        trained.scaler.load_state_dict(metadata["scaler"])
    return Progress(**metadata["progress"])


def _checked_metadata(run_dir: Path, trained: Trained, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Raises: RunFolderError."""
    with _opened(run_dir) as file:
        if file is None:
            return None
        metadata = file.metadata() or {}
        progress = _checked_progress(run_dir, metadata, facts)
        if json.loads(metadata["trained"]) != trained.facts():
            raise RunFolderError(
                f"got {str(run_dir / STATE_FILE)!r}, the state of a run that trains other weights; pass another folder, or delete it"
            )
        missing = {name for name, _ in trained.held()} - set(file.keys())
        if missing:
            raise KeyError(f"no {min(missing)}")
        slots: dict[str, dict[str, Tensor]] = {}
        for key in file.keys():  # noqa: SIM118 - not a dict
            if key.startswith("optimizer."):
                name, slot = key.removeprefix("optimizer.").rsplit(".", 1)
                slots.setdefault(name, {})[slot] = file.get_tensor(key).to("meta")
        return {"progress": vars(progress), "slots": slots, "scaler": json.loads(metadata.get("scaler", "null"))}


def read_progress(run_dir: Path, facts: Mapping[str, Any]) -> Progress:
    """Return how far a run has come, from the head of its state; a new progress if nothing was saved.

    Raises: RunFolderError if the state cannot be read, or is that of a run with other ``facts``.
    """
    with _opened(run_dir) as file:
        return Progress() if file is None else _checked_progress(run_dir, file.metadata() or {}, facts)


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


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


CHOSEN_LATER = {"branch": "full", "teacher_steps": None, "teacher_guidance": None, "predicts_in_one_step": False}
"""Settings that earlier versions had not, as they then were: so they are stated only where they are others."""

_THERE_IF_CHOSEN = (*CHOSEN_LATER, "teacher", "labels")
"""Facts that are known of a run only if they were chosen: one that is gone makes another run, too."""


def _checked_progress(run_dir: Path, metadata: Mapping[str, str], facts: Mapping[str, Any]) -> Progress:
    """Raises: RunFolderError."""
    progress = Progress(**json.loads(metadata["progress"]))
    if "facts" not in metadata:
        raise RunFolderError(
            f"got {str(run_dir)!r}, a run of an earlier version, which did not keep its settings; pass another folder, or delete it"
        )
    known, now = _flat(json.loads(metadata["facts"])), _flat(json.loads(json.dumps(dict(facts))))
    names = [*now, *(name for name in known if name not in now and facts and name.split(".")[0] in _THERE_IF_CHOSEN)]
    other = [f"{name} {known.get(name, 'not known')}, now {now.get(name, 'none')}" for name in names if known.get(name) != now.get(name)]
    if other:
        raise RunFolderError(f"got {str(run_dir)!r}, which holds another run ({'; '.join(other)}); pass another folder, or delete it")
    return progress


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Facts of facts by names with a dot."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return flat
