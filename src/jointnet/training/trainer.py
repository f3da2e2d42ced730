"""The only training loop: any network, any loss; one process or many; saves, resumes, averages weights, stops on a budget."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from jointnet.data.order import BatchPlan, seed_of
from jointnet.errors import DivergenceError, MissingPackageError
from jointnet.files.write_errors import naming_write_errors
from jointnet.machine.precision import autocast_type
from jointnet.machine.processes import is_main_process, num_processes, on_main, process_device, summed
from jointnet.training.config import OptimConfig, RunOptions
from jointnet.training.curve import Curve
from jointnet.training.feed import Batch, Batches, Feed, share_of
from jointnet.training.parallel import LOGS, copied, join_processes, new_accelerator, sharded, whole, without_sync
from jointnet.training.run import check_steps, open_run, print_finished, settings_of
from jointnet.training.state import Progress, Trained, load_state, save_state
from jointnet.training.stopping import StopRequest, stop_requests

Losses = dict[str, Tensor]
_SAVING_SHARE = 0.1


class Objective(nn.Module):
    """A network with its loss, as the trainer runs it. The base class suits losses that are means over a batch's samples."""

    def counts(self, batch: Batch) -> Tensor:
        """Return how many samples each of the losses is a mean over, (K,)."""
        return torch.tensor([float(len(next(iter(batch.values()))))])

    def losses(self, batch: Batch) -> Losses:
        """Return named means over the batch; "loss" is the one that is minimised."""
        raise NotImplementedError

    def units(self) -> Iterable[nn.Module]:
        """Parts to shard on their own (FSDP2)."""
        return ()

    def forward(self, batch: Batch, counts: Tensor) -> Losses:
        """Return this batch's part of the losses: its sums, divided by the ``counts`` of all that are taken together."""
        share = (self.counts(batch).to(counts.device) / counts)[0]  # stays there: a number would wait for the device
        return {name: value * share for name, value in self.losses(batch).items()}


class FunctionObjective(Objective):
    """A network and a function (network, batch) -> named means over the batch."""

    def __init__(self, network: nn.Module, loss_fn: Callable[[Any, Batch], Losses]) -> None:
        super().__init__()
        self.network, self.loss_fn = network, loss_fn

    def losses(self, batch: Batch) -> Losses:
        return self.loss_fn(self.network, batch)


def fit(
    objective: Objective,
    feed: Feed,
    *,
    config: OptimConfig,
    run_dir: Path,
    options: RunOptions | None = None,
    facts: Mapping[str, Any] | None = None,
    budget_minutes: float | None = None,
    validate: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train the parameters of ``objective`` that require gradients, from ``run_dir``'s state if there is one.

    With ``budget_minutes`` the run ends when its training time (summed over resumes) reaches the budget, and the learning rate
    decays over the budget instead of over ``config.steps``. At the end ``objective`` holds the averaged weights if there are any.
    Every draw of a sample comes from (config.seed, epoch, its id), the order of the samples from (config.seed, epoch): the number of
    processes and workers may change when a run resumes. Ctrl-C and SIGTERM wait for the end of the step and save.

    Args:
        facts: what the run is known by besides its settings and the number of samples, see ``run.claim``.
        validate: called every ``options.validate_every`` steps in every process, with the averaged weights in place.
    Raises: RunFolderError if ``run_dir`` holds another run's state, or the batch cannot be divided; OutputError if it cannot be written;
        DivergenceError; KeyboardInterrupt, SystemExit.
    """
    options = options or RunOptions()
    device = process_device(next(objective.parameters()).device)
    join_processes(device)
    run = _Run(objective.to(device), feed, config, options, run_dir, device)
    known_by = {**settings_of(config), "num_samples": sum(feed.blocks), **(facts or {})}
    with ExitStack() as stack:
        stack.enter_context(open_run(run_dir) if is_main_process() else nullcontext())
        stop = stack.enter_context(stop_requests())
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        progress = load_state(run_dir, run.trained, known_by)
        check_steps(run_dir, progress, config)
        if run.average is not None:
            run.average.optimization_step = progress.step - progress.skipped
        started_at = run.saved_step = progress.step
        if progress.share(config, budget_minutes) >= 1:
            if is_main_process():
                print_finished(run_dir, progress)
        else:
            progress.plan(config, budget_minutes, device=device.type, type=str(run.dtype), processes=num_processes())
            run.train(progress, budget_minutes, known_by, stop, validate)
        if progress.step > started_at:
            check_learned(progress)
            if run.saved_step < progress.step:
                save_state(run_dir, run.trained, progress, known_by, keep=options.keep_states)
            on_main(lambda: run.curve.save(progress))
        if stop.signal is not None and is_main_process():
            print(f"stopped after step {progress.step}, saved in {run_dir}; the same command resumes", file=sys.stderr, flush=True)
        run.accelerator.end_training() if num_processes() == 1 else None
        stop.leave_if_asked()
    if run.average is not None:
        run.average.copy_to(run.trained.parameters.values())
    objective.eval()
    return progress


class _Run:
    """What does not change while a run goes on."""

    def __init__(
        self, objective: Objective, feed: Feed, config: OptimConfig, options: RunOptions, run_dir: Path, device: torch.device
    ) -> None:
        self.objective, self.feed, self.config, self.options, self.run_dir, self.device = objective, feed, config, options, run_dir, device
        self.dtype = autocast_type(config.precision, device.type)
        self.accelerator: Accelerator = new_accelerator(device, config.precision, trackers=options.trackers, run_dir=run_dir)
        if options.trackers:
            with naming_write_errors(run_dir / LOGS):
                self.accelerator.init_trackers("jointnet", config={k: v for k, v in settings_of(config).items() if v is not None})
        ranks = num_processes()
        self.share = share_of(config.batch_size, options.micro_batch_size, self.accelerator.process_index, ranks)
        is_sharded = options.is_sharded and ranks > 1
        if is_sharded:
            sharded(objective, objective.units(), device, self.dtype)
        self.module = objective if is_sharded else copied(objective, device)
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.optimizer = self.accelerator.prepare_optimizer(new_optimizer(self.parameters, config, is_sharded=is_sharded))
        self.average = None
        if config.ema_decay is not None:
            self.average = EMAModel(self.parameters, decay=config.ema_decay, foreach=not is_sharded)
        averaged = None if self.average is None else self.average.shadow_params
        self.trained = Trained(objective, self.optimizer.optimizer, averaged, self.accelerator.scaler)
        self.saved_step = 0
        self.curve = Curve(run_dir, options.log_every, log=self.accelerator.log if options.trackers else None)

    def train(
        self,
        progress: Progress,
        budget_minutes: float | None,
        known_by: Mapping[str, Any],
        stop: StopRequest,
        validate: Callable[[Progress], None] | None,
    ) -> None:
        """Take steps until the run has ended or is asked to stop."""
        config, options = self.config, self.options
        self.objective.train()
        torch.set_flush_denormal(True)
        plan = BatchPlan(self.feed.blocks, config.batch_size, config.seed, self.feed.buckets)
        batches = Batches(self.feed, plan, self.share, seed=config.seed, num_workers=options.num_workers).from_step(progress.step)
        clock = saved = time.monotonic()
        saving_s, nonfinite = 0.0, 0
        is_stopped = False
        while (done := progress.share(config, budget_minutes)) < 1 and not is_stopped:
            lr = config.lr_at(done, progress.step)
            torch.manual_seed(seed_of("step", config.seed, progress.step, self.share.rank))  # for layers that draw, such as dropout
            waited = time.monotonic()
            micro_batches = next(batches)
            waited = time.monotonic() - waited
            losses, is_finite = self.step(micro_batches, lr)
            nonfinite = 0 if is_finite else nonfinite + 1
            if nonfinite > options.max_nonfinite:
                raise DivergenceError(
                    f"got a loss or gradient that is not finite in {nonfinite} steps in a row, the last of them step {progress.step}; "
                    f"lower the learning rate, or use float32. The state of step {self.saved_step} is kept in {str(self.run_dir)!r}"
                )

            progress.step += 1
            progress.samples += config.batch_size
            progress.skipped += not is_finite
            now = time.monotonic()
            # the main process's clock and wish to save count, and anybody's signal
            wants_to_save = self._is_due(progress.step, now - saved, saving_s)
            is_main = is_main_process()
            told = torch.tensor([(now - clock) * is_main, wants_to_save * is_main, stop.signal is not None], dtype=torch.float64)
            shared = summed(told.to(self.device)) if num_processes() > 1 else told
            progress.seconds += float(shared[0])
            clock, is_stopped = now, bool(shared[2])
            if is_finite:
                self.curve.add(losses, waited)
            self.curve.write(progress, lr, is_shown=is_main)
            if shared[1] and not is_stopped:
                saving_s = -time.monotonic()
                save_state(self.run_dir, self.trained, progress, known_by, keep=options.keep_states)
                saving_s += time.monotonic()
                self.saved_step = progress.step
                clock = saved = time.monotonic()
            if validate is not None and options.validate_every and progress.step % options.validate_every == 0:
                self._validate(validate, progress)
                clock = time.monotonic()

    def step(self, micro_batches: list[Batch], lr: float) -> tuple[Losses, bool]:
        """One update. Returns the losses of the whole batch, and False if something was not finite, so that the weights stayed."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        counts = torch.stack([self.objective.counts(batch).float() for batch in micro_batches]).sum(0)
        counts = summed(counts.to(self.device)) / num_processes()  # gradients are averaged over processes
        attention = sdpa_kernel(SDPBackend.MATH) if self.config.has_plain_attention else nullcontext()
        total: Losses = {}
        for number, batch in enumerate(micro_batches):
            is_last = number == len(micro_batches) - 1
            with nullcontext() if is_last else without_sync(self.module):
                with torch.no_grad():
                    prepared = self.feed.prepare(batch, self.device)
                with attention, self.accelerator.autocast():
                    losses: Losses = self.module(prepared, counts)
                self.accelerator.backward(losses["loss"])
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach().float()
        means = summed(torch.stack(list(total.values()))) / num_processes()
        self.accelerator.unscale_gradients()
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        is_finite = bool(torch.isfinite(norm) & torch.isfinite(means).all())
        if is_finite or self.accelerator.scaler is not None:  # in float16 the scaler skips the step, and lowers its scale
            self.optimizer.step()
        self.optimizer.zero_grad()
        if is_finite and self.average is not None:
            self.average.step(self.parameters)
        return dict(zip(total, means.unbind(), strict=True)), is_finite

    def _is_due(self, step: int, since_s: float, saving_s: float) -> bool:
        every_steps, every_minutes = self.options.save_every_steps, self.options.save_every_minutes
        if every_steps is not None:
            return step - self.saved_step >= every_steps
        return every_minutes is not None and since_s >= max(60 * every_minutes, saving_s / _SAVING_SHARE)

    def _validate(self, validate: Callable[[Progress], None], progress: Progress) -> None:
        """Run it on the averaged weights."""
        self.objective.eval()
        if self.average is not None:
            self.average.store(self.parameters)
            self.average.copy_to(self.parameters)
        try:
            with torch.no_grad():
                validate(progress)
        finally:
            if self.average is not None:
                self.average.restore(self.parameters)
            self.objective.train()


def check_learned(progress: Progress) -> None:
    """Raises: DivergenceError if every step of a run was skipped."""
    if progress.step == progress.skipped:
        raise DivergenceError(
            f"got no finite loss and gradient in all {progress.step} steps, so nothing was learned; check the start, or use float32"
        )


def new_optimizer(parameters: list[nn.Parameter], config: OptimConfig, *, is_sharded: bool = False) -> torch.optim.Optimizer:
    """Return AdamW, in 8 bits if asked. Raises: MissingPackageError without bitsandbytes."""
    if config.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports] - an extra
        except ImportError as error:
            raise MissingPackageError("got optimizer adamw8bit without bitsandbytes; pip install bitsandbytes, or use adamw") from error
        return cast(torch.optim.Optimizer, AdamW8bit(parameters, lr=config.lr, weight_decay=config.weight_decay))
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=not is_sharded)
