"""What the trainer reads: items drawn by rows, batched by workers, in the order of ``data.order``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jointnet.data.order import BatchPlan, RowDraw, sample_generator
from jointnet.errors import RunFolderError

Tensors = dict[str, Tensor]
Reader = Callable[[int, torch.Generator], Tensors]
Batch = Any
"""Whatever ``Feed.collate`` returns and the objective takes."""


class Feed(Protocol):
    """A data set, as the trainer reads it. It is sent to the loader's workers."""

    @property
    def blocks(self) -> Sequence[int]:
        """As ``Source.blocks``; their sum is the number of rows."""
        ...

    @property
    def buckets(self) -> Sequence[Any] | None:
        """The rows of each size; None if all have one."""
        ...

    def id_of(self, row: int) -> str:
        """The id of a row's sample."""
        ...

    def item(self, row: int, generator: torch.Generator) -> Any:
        """Read a row and make every draw that concerns it. Runs in a worker."""
        ...

    def collate(self, items: Sequence[Any]) -> Batch:
        """Items of one size -> a batch. Runs in a worker."""
        ...

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """Bring a batch to the device and encode it, without gradients. Runs in the trainer's process."""
        ...


@dataclass(frozen=True)
class Share:
    """This process's share of every batch.

    Attributes:
        micro_batch_size: samples in one forward.
        accumulation: forwards of a process in a step.
    """

    rank: int
    ranks: int
    micro_batch_size: int
    accumulation: int

    def parts(self, drawn: Sequence[RowDraw]) -> Iterator[Sequence[RowDraw]]:
        """Yield this process's parts of a whole batch; together they are neighbours in it."""
        for number in range(self.accumulation):
            start = (self.rank * self.accumulation + number) * self.micro_batch_size
            yield drawn[start : start + self.micro_batch_size]


def share_of(batch_size: int, micro_batch_size: int | None, rank: int, ranks: int) -> Share:
    """Divide a batch among processes; by default each takes its share in one forward.

    Raises: RunFolderError if it cannot be divided evenly.
    """
    micro = micro_batch_size or max(1, batch_size // ranks)
    accumulation, rest = divmod(batch_size, micro * ranks)
    if rest or not accumulation:
        raise RunFolderError(
            f"got a batch of {batch_size} samples for {ranks} processes with {micro} a forward; expected a multiple of {micro * ranks}: "
            "change the number of processes or --micro-batch"
        )
    return Share(rank, ranks, micro, accumulation)


class Batches:
    """This process's micro-batches from a step on, without an end."""

    def __init__(self, feed: Feed, plan: BatchPlan, share: Share, *, seed: int, num_workers: int = 0) -> None:
        self.feed, self.plan, self.share, self.seed, self.num_workers = feed, plan, share, seed, num_workers

    def from_step(self, step: int) -> Iterator[list[Batch]]:
        """Yield the micro-batches of ``step`` and of every later one."""
        loader = DataLoader(
            _Rows(self.feed, self.seed),
            batch_size=None,
            sampler=_Turns(self.plan, self.share, step),  # pyright: ignore[reportArgumentType] - any iterable will do
            num_workers=self.num_workers,
            prefetch_factor=4 if self.num_workers else None,
            pin_memory=False,
            worker_init_fn=_leave_signals_to_the_trainer,
        )
        batches = iter(loader)
        while True:
            yield [next(batches) for _ in range(self.share.accumulation)]


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM go to the whole group of processes: the trainer ends its step first, then its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Turns:
    """A sampler: the readings of every micro-batch."""

    def __init__(self, plan: BatchPlan, share: Share, step: int) -> None:
        self.plan, self.share, self.step = plan, share, step

    def __iter__(self) -> Iterator[Sequence[RowDraw]]:
        step = self.step
        while True:
            yield from self.share.parts(self.plan.batch(step))
            step += 1


class _Rows(Dataset):
    """A data set of batches, indexed by their readings."""

    def __init__(self, feed: Feed, seed: int) -> None:
        self.feed, self.seed = feed, seed

    def __getitem__(self, drawn: Sequence[RowDraw]) -> Batch:
        return self.feed.collate([self._item(draw) for draw in drawn])

    def _item(self, draw: RowDraw) -> Any:
        return self.feed.item(draw.row, sample_generator(self.seed, draw.epoch, self.feed.id_of(draw.row)))


class TensorFeed:
    """A Feed over anything that is read by numbers: ``read(row, generator)`` -> tensors by name, which are stacked.

    Args:
        held: what else a batch has, of tensors that are held on the trainer's device: a function of the stacked ones, with "row" (B,)
            among them, before these are moved.
    """

    buckets = None

    def __init__(self, num: int, read: Reader, held: Callable[[Tensors], Tensors] | None = None) -> None:
        self.num, self.read, self.held = num, read, held

    @property
    def blocks(self) -> Sequence[int]:
        return (self.num,)

    def id_of(self, row: int) -> str:
        return str(row)

    def item(self, row: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"row": torch.tensor(row), **self.read(row, generator)}

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def prepare(self, batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        moved = {name: value.to(device) for name, value in batch.items()}
        return moved if self.held is None else {**moved, **self.held(batch)}
