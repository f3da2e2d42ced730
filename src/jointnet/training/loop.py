"""The only training loop: any network, any loss; saves, resumes, averages weights, stops on a budget."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from jointnet.errors import DivergenceError
from jointnet.training.config import OptimConfig
from jointnet.training.precision import autocast_type
from jointnet.training.run import check_steps, open_run, print_finished, settings_of
from jointnet.training.state import Progress, load_state, save_state
from jointnet.training.stopping import stop_requests

_FOR_STEPS, _FOR_EPOCHS = 0, 1
Losses = dict[str, Tensor]
LossFn = Callable[[Tensor, torch.Generator], Losses]
"""(indices of the batch's samples, the step's generator) -> named losses; "loss" is the one that is minimised."""


def fit(
    model: nn.Module,
    loss_fn: LossFn,
    *,
    num_samples: int,
    config: OptimConfig,
    run_dir: Path,
    facts: Mapping[str, Any] | None = None,
    budget_minutes: float | None = None,
    save_every_minutes: float = 5.0,
    log_every: int = 50,
) -> Progress:
    """Train the parameters of ``model`` that require gradients, from ``run_dir``'s state if there is one.

    With ``budget_minutes`` the run ends when its training time (summed over resumes) reaches the budget, and the learning rate
    decays over the budget instead of over ``config.steps``. At the end ``model`` holds the averaged weights if there are any.
    Every draw of step k comes from a generator seeded by (config.seed, k); batches walk through a new permutation each epoch.
    Ctrl-C and SIGTERM wait for the end of the step and save.

    Args:
        facts: what the run is known by besides its settings and the number of samples, see ``run.claim``.
    Raises: RunFolderError if ``run_dir`` holds another run's state; OutputError if it cannot be written; DivergenceError;
        KeyboardInterrupt, SystemExit.
    """
    known_by = {**settings_of(config), "num_samples": num_samples, **(facts or {})}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    average = [p.detach().clone() for p in parameters] if config.ema_decay is not None else None
    with open_run(run_dir), stop_requests() as stop:
        progress = load_state(run_dir, model, average, optimizer, known_by)
        check_steps(run_dir, progress, config)
        started_at = progress.step
        if progress.share(config, budget_minutes) >= 1:
            print_finished(run_dir, progress)
        else:
            device_type = parameters[0].device.type
            progress.plan(config, budget_minutes, device=device_type, type=str(autocast_type(config.precision, device_type)))
        model.train()
        torch.set_flush_denormal(True)
        clock = saved = time.monotonic()
        log = _Log(log_every)

        while (done := progress.share(config, budget_minutes)) < 1 and stop.signal is None:
            lr = config.lr_at(done, progress.step)
            indices = batch_indices(num_samples, config.batch_size, progress.step, config.seed)
            log.add(_train_step(parameters, optimizer, loss_fn, indices, lr=lr, config=config, step=progress.step))
            if average is not None and config.ema_decay is not None:
                decay = min(config.ema_decay, (1 + progress.step) / (10 + progress.step))
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)

            progress.step += 1
            progress.samples += len(indices)
            now = time.monotonic()
            progress.seconds += now - clock
            clock = now
            log.write(progress, lr)
            if now - saved > 60 * save_every_minutes:
                save_state(run_dir, model, average, optimizer, progress, known_by)
                saved = clock = time.monotonic()

        if progress.step > started_at:
            save_state(run_dir, model, average, optimizer, progress, known_by)
        if stop.signal is not None:
            print(f"stopped after step {progress.step}, saved in {run_dir}; the same command resumes", file=sys.stderr, flush=True)
        stop.leave_if_asked()
    for parameter, value in zip(parameters, average or (), strict=False):
        parameter.data.copy_(value)
    model.eval()
    return progress


def _train_step(
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFn,
    indices: Tensor,
    *,
    lr: float,
    config: OptimConfig,
    step: int,
) -> Losses:
    """One update. Raises: DivergenceError if the gradient is not finite."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    generator = torch.Generator().manual_seed(_mix(_FOR_STEPS, config.seed, step))
    device_type = parameters[0].device.type
    dtype = autocast_type(config.precision, device_type)
    attention = sdpa_kernel(SDPBackend.MATH) if config.has_plain_attention else nullcontext()
    with attention, torch.autocast(device_type, dtype, enabled=dtype != torch.float32):
        losses = loss_fn(indices, generator)
    losses["loss"].backward()
    norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    if not torch.isfinite(norm):
        raise DivergenceError(f"got a gradient norm of {norm.item()} at step {step}; lower the learning rate, or use float32")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return losses


def batch_indices(num_samples: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Sample indices of a step: consecutive pieces of one permutation an epoch, so that a step needs no history."""
    per_epoch = max(num_samples // batch_size, 1)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(_mix(_FOR_EPOCHS, seed, epoch)))
    return order[place * batch_size : (place + 1) * batch_size]


def _mix(*numbers: int) -> int:
    """One seed of several numbers, none of them negative."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


class _Log:
    """Means of the losses since the last row; a row every ``every`` steps goes to the curve and to stderr."""

    def __init__(self, every: int) -> None:
        self.every, self.count, self.sums = every, 0, dict[str, float]()

    def add(self, losses: Losses) -> None:
        self.count += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def write(self, progress: Progress, lr: float) -> None:
        if progress.step % self.every:
            return
        row = {name: value / self.count for name, value in self.sums.items()}
        progress.curve.append({"step": progress.step, "seconds": round(progress.seconds, 1), "lr": lr, **row})
        self.count, self.sums = 0, {}
        shown = "  ".join(f"{k} {v:.4f}" for k, v in row.items())
        print(f"step {progress.step}  {progress.seconds:.0f} s  lr {lr:.2e}  {shown}", file=sys.stderr, flush=True)
