"""One process or many, as ``accelerate launch`` or ``torchrun`` started them: who this one is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from jointnet.errors import JointNetError

Result = TypeVar("Result")


def num_processes() -> int:
    """Return the number of processes that this one was launched with."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process among all."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """True in the process that writes; the only one, if there are not several."""
    return rank() == 0


def process_device(device: torch.device) -> torch.device:
    """Return the device of this process: of several, each takes the GPU of its local rank."""
    if device.type == "cpu" or num_processes() == 1:
        return device
    return torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))


def after_all(action: Callable[[], Result]) -> Result:
    """Run something as ``on_main`` does, when all processes have come this far."""
    if num_processes() > 1:
        dist.barrier()
    return on_main(action)


def on_main(action: Callable[[], Result]) -> Result:
    """Run something in the main process only, and return its result, or raise its error, in all of them."""
    if num_processes() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = action()
        except JointNetError as error:
            outcome[1] = error
        except BaseException as error:
            dist.broadcast_object_list([None, JointNetError(f"the main process ended with {type(error).__name__}: {error}")])
            raise
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def summed(values: Tensor) -> Tensor:
    """Return the sum over all processes, on the values' device."""
    if num_processes() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
