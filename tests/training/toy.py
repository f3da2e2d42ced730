"""A small network on sixteen rows, through the real trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jointnet.training.config import OptimConfig, RunOptions
from jointnet.training.feed import TensorFeed
from jointnet.training.state import Progress, Trained
from jointnet.training.trainer import FunctionObjective, fit


def read(row: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The number of a row, and noise of its own."""
    return {"row": torch.tensor(row), "noise": torch.randn(3, generator=generator)}


def fit_rows(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], dict[str, Tensor]],
    *,
    config: OptimConfig,
    run_dir: Path,
    num_samples: int = 16,
    **more: Any,
) -> Progress:
    """Train on (rows (B,), noise (B, 3)) -> named means; what is left of ``more`` besides fit's arguments are RunOptions."""
    arguments = {name: more.pop(name) for name in ("facts", "budget_minutes", "validate") if name in more}
    objective = FunctionObjective(model, lambda _, batch: loss_fn(batch["row"], batch["noise"]))
    return fit(objective, TensorFeed(num_samples, read), config=config, run_dir=run_dir, options=RunOptions(**more), **arguments)


def trained(seed: int, width: int = 3, average: list[Tensor] | None = None) -> Trained:
    """A small network after one step."""
    torch.manual_seed(seed)
    model = nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(4, width)).square().mean().backward()
    optimizer.step()
    return Trained(model, optimizer, average)
