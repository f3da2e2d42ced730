"""Where weights come from, written beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jointnet.checkpoints.index import INDEX_FILE, PROVENANCE_FILE, provenance_of
from jointnet.files.atomic import write_json
from jointnet.machine.origin import code_commit, machine
from jointnet.training.config import OptimConfig, TrainConfig
from jointnet.training.state import Progress


def is_same_depth(earlier: Mapping[str, Any], data: Path, contents: Mapping[str, str]) -> bool:
    """Return True if a model with the provenance ``earlier`` was trained on the depth maps of a data folder, wherever it lay then.

    Models of earlier versions know only the path.
    """
    known = earlier.get("contents", {}).get("data", {}).get("depth")
    if known is not None:
        return known == contents.get("depth")
    return "data" in earlier and Path(earlier["data"]).resolve() == data.resolve()


def write_provenance(folder: Path, recipe: str, config: TrainConfig | OptimConfig, progress: Progress, **facts: Any) -> None:
    """Write recipe, configuration, commit, machine, steps, samples, seconds and the loss curve (<= 100 rows)."""
    every = max(1, -(-len(progress.curve) // 100))
    content = {
        "recipe": recipe,
        "commit": code_commit(),
        "machine": machine(),
        "config": asdict(config),
        "steps": progress.step,
        "samples_seen": progress.samples,
        "seconds": round(progress.seconds),
        "plans": progress.plans,
        **facts,
        "loss_curve": progress.curve[every - 1 :: every],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PROVENANCE_FILE, content)


def holds_result(model_dir: Path, progress: Progress) -> bool:
    """Return True if a model folder is the result of this progress. Raises: ModelFolderError."""
    return (model_dir / INDEX_FILE).is_file() and provenance_of(model_dir).get("steps") == progress.step
