"""One process or many: who runs where, and networks whose weights are copied (DDP) or sharded (FSDP2).

Accelerate starts the processes and knows the devices. It refuses FSDP2 on CPUs, so networks are sharded by torch's own ``fully_shard``,
which the tests run on two CPU processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import ProjectConfiguration
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from jointnet.machine.precision import Precision, autocast_type
from jointnet.machine.processes import num_processes

LOGS = "logs"
"""Of a run's folder: what trackers write."""

_NAMES = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def new_accelerator(
    device: torch.device, precision: Precision, *, trackers: Iterable[str] = (), run_dir: Path | None = None
) -> Accelerator:
    """Return an Accelerator for one run; a process may make one after another, with different precisions.

    Its process group is that of ``accelerate launch`` or ``torchrun``; without them there is one process.
    """
    AcceleratorState._reset_state()  # the process group, PartialState, stays
    GradientState._reset_state()
    return Accelerator(
        mixed_precision=_NAMES[autocast_type(precision, device.type)],
        cpu=device.type == "cpu",
        device_placement=False,
        log_with=list(trackers) or None,  # pyright: ignore[reportArgumentType] - names are admitted
        project_config=None if run_dir is None else ProjectConfiguration(project_dir=str(run_dir), logging_dir=str(run_dir / LOGS)),
    )


def join_processes(device: torch.device) -> None:
    """Let the processes know each other, if there are several."""
    if num_processes() > 1 and not dist.is_initialized():
        new_accelerator(device, "float32")


def copied(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a module whose gradients are averaged over all processes; itself, if there is only one."""
    if num_processes() == 1:
        return module
    return DistributedDataParallel(module, device_ids=None if device.type == "cpu" else [device])


def sharded(root: nn.Module, units: Iterable[nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    """Shard a module's weights over all processes, in place: every unit, then the rest; computed in ``dtype``.

    A unit may be called twice in a forward (a branch's halves; an exchange's input and features). FSDP2 allows that as long as both calls
    go through ``__call__``: it gathers the weights before each and adds up the gradients of both.
    """
    mesh = dist.init_device_mesh(device.type, (num_processes(),))
    policy = MixedPrecisionPolicy() if dtype == torch.float32 else MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(root, mesh=mesh, mp_policy=policy)


@contextmanager
def without_sync(module: nn.Module) -> Iterator[None]:
    """Keep gradients in this process: more of the same step are to come."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
        return
    shards = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in shards:
        part.set_requires_gradient_sync(False, recurse=False)
    try:
        yield
    finally:
        for part in shards:
            part.set_requires_gradient_sync(True, recurse=False)


def whole(value: Tensor) -> Tensor:
    """Return a weight as one tensor, gathered from all processes if it is sharded."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@torch.no_grad()
def fill(target: Tensor, value: Tensor | None) -> None:
    """Copy the main process's value into a weight of every process, sharded or not; others may pass None."""
    if num_processes() == 1:
        assert value is not None
        target.copy_(value)
        return
    local = target.to_local() if isinstance(target, DTensor) else target
    given = torch.empty(target.shape, dtype=target.dtype, device=local.device) if value is None else value.to(local.device, target.dtype)
    dist.broadcast(given, 0)
    target.copy_(distribute_tensor(given, target.device_mesh, target.placements) if isinstance(target, DTensor) else given)
