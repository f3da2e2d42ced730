"""What a training step will need, estimated without computing anything."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from jointnet.machine.precision import autocast_type
from jointnet.models.joint_unet import JointUNet
from jointnet.training.config import OptimConfig, RunOptions
from jointnet.training.draws import Draws
from jointnet.training.objective import JointObjective
from jointnet.types import Text

_MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    Attributes:
        weights: of all networks of the pipeline.
        optimizer: the moments of the trained weights.
        average: their moving average.
        step: gradients and activations where they are most.
    """

    weights: int
    optimizer: int
    average: int
    step: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.average + self.step


def estimate_memory(
    objective: JointObjective, others: int, x0: Tensor, text: Text, draws: Draws, config: OptimConfig, options: RunOptions, processes: int
) -> Memory:
    """Estimate what one process needs.

    Args:
        others: bytes of the pipeline's other networks.
        x0, text, draws: a micro-batch; only shapes and types are read.
    """
    network = objective.network
    share = processes if options.is_sharded else 1
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Memory(
        weights=others + bytes_of(network) // share + (0 if objective.teacher is None else bytes_of(objective.teacher)),
        optimizer=trained * _MOMENT_BYTES[config.optimizer] // share,
        average=trained * 4 // share if config.ema_decay is not None else 0,
        step=_peak_of_step(objective, x0, text, draws, config, options),
    )


def bytes_of(network: nn.Module) -> int:
    """Return the bytes of a network's weights and buffers."""
    return sum(value.numel() * value.element_size() for value in (*network.parameters(), *network.buffers()))


def _peak_of_step(objective: JointObjective, x0: Tensor, text: Text, draws: Draws, config: OptimConfig, options: RunOptions) -> int:
    """Run forward and backward on tensors without data, as large as the real ones, and follow what is alive."""
    dtype = autocast_type(config.precision, next(objective.network.parameters()).device.type)
    is_trained = [p.requires_grad for p in objective.network.parameters()]
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = cast(JointUNet, type(objective.network).from_config(objective.network.config))
        for parameter, has_gradient in zip(network.parameters(), is_trained, strict=True):
            parameter.requires_grad_(has_gradient)
        if options.has_gradient_checkpointing:
            network.enable_gradient_checkpointing()
        unreal = JointObjective(network.train(), objective.rule.process, low_res_process=objective.rule.low_res_process)
        inputs = tree_map(_unreal, (x0, text.embeds, text.added, vars(draws)))
        x0, embeds, added, parts = inputs
        levels = type(draws.levels)(*map(_unreal, (draws.levels.t, draws.levels.is_clean)))

        def step() -> None:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = unreal(x0, Text(embeds, added), Draws(**{**parts, "levels": levels}))["loss"]
            loss.backward()

        return peak_bytes(step)


def _unreal(value: Any) -> Any:
    """A tensor without data of the same shape, on the CPU, where no device is asked."""
    return torch.empty(value.shape, dtype=value.dtype) if isinstance(value, Tensor) else value


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes of tensors made by a call that were alive at once."""
    with _Alive() as alive:
        run()
    return alive.peak


class _Alive(TorchDispatchMode):
    """Counts the bytes of every storage that comes into being, until it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(value.untyped_storage()) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and id(value.untyped_storage()) not in given | self._known:
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.now += size

        def gone() -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone).atexit = False
