"""A tiny training with pauses, to be stopped from outside: python -m tests.training.slow_run RUN PAUSE STEPS SAVE_EVERY."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from jointnet.training.config import OptimConfig
from jointnet.training.loop import fit


def train_slowly(run_dir: Path, pause: float, steps: int, save_every_minutes: float) -> Tensor:
    """Print "step" where each step begins; return the weights."""
    torch.manual_seed(0)
    model, data = nn.Linear(3, 3), torch.randn(16, 3)

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        print("step", flush=True)
        time.sleep(pause)
        return {"loss": model(data[indices] + torch.randn(4, 3, generator=generator)).square().mean()}

    config = OptimConfig(lr=1e-2, batch_size=4, steps=steps, ema_decay=0.9)
    fit(model, loss_fn, num_samples=16, config=config, run_dir=run_dir, save_every_minutes=save_every_minutes)
    return model.weight.detach()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    train_slowly(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
