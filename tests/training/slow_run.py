"""A tiny training with pauses, to be stopped from outside: python -m tests.training.slow_run RUN PAUSE STEPS SAVE_EVERY_MINUTES WORKERS."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from jointnet.training.config import OptimConfig, RunOptions
from jointnet.training.feed import TensorFeed
from jointnet.training.trainer import FunctionObjective, fit

DATA = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))


def read(row: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": DATA[row] + 0.1 * torch.randn(3, generator=generator)}


def train_slowly(run_dir: Path, pause: float, steps: int, save_every_minutes: float, num_workers: int = 0) -> Tensor:
    """Print "step" where each step begins; return the weights."""
    torch.manual_seed(0)
    model = nn.Linear(3, 3)

    def loss_fn(network: nn.Linear, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        print("step", flush=True)
        time.sleep(pause)
        return {"loss": network(batch["x"]).square().mean()}

    config = OptimConfig(lr=1e-2, batch_size=4, steps=steps, ema_decay=0.9)
    options = RunOptions(save_every_minutes=save_every_minutes, num_workers=num_workers)
    fit(FunctionObjective(model, loss_fn), TensorFeed(16, read), config=config, run_dir=run_dir, options=options)
    return model.weight.detach()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    train_slowly(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
