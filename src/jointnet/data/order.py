"""The order in which a training run reads its rows: a function of (seed, position), without any history.

So a resumed run goes on with the next row, whatever the number of processes and workers was before, and nothing grows with the data.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

_MIN_HALF_BITS, _ROUNDS = 2, 8
_WINDOW_BLOCKS = 16


@dataclass(frozen=True)
class RowDraw:
    """One reading of a row: with the sample's id, ``epoch`` decides on all that is random in it."""

    epoch: int
    row: int


class RowOrder:
    """Every row once an epoch, in an order of the epoch's own; epochs follow each other without a gap.

    Blocks (shards) come in random order too, and rows are mixed within windows of ``window_blocks`` of them, so that a remote shard is
    needed for a while and then no more in this epoch. One block is mixed as a whole.
    """

    def __init__(self, blocks: Sequence[int], seed: int, window_blocks: int = _WINDOW_BLOCKS) -> None:
        self.sizes = np.asarray([size for size in blocks if size], np.int64)
        if not len(self.sizes):
            raise ValueError("got no rows; expected at least one")
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.seed, self.window_blocks = seed, window_blocks
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)  # a batch may lie in two epochs

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, first: int, count: int, *, are_neighbours_together: bool = False) -> list[RowDraw]:
        """Return readings ``first`` to ``first + count`` of the endless sequence.

        Args:
            are_neighbours_together: sort those of each window by row, so that processes that divide them read few blocks each.
        """
        drawn: list[RowDraw] = []
        while count > 0:
            epoch, place = divmod(first, len(self))
            here = min(count, len(self) - place)
            rows = self._rows(epoch, place, here)
            if are_neighbours_together:
                rows = [np.sort(of_window) for of_window in rows]
            drawn += [RowDraw(epoch, row) for row in np.concatenate(rows).tolist()]
            first, count = first + here, count - here
        return drawn

    def _rows(self, epoch: int, place: int, count: int) -> list[np.ndarray]:
        """The rows of each window."""
        order, ends = self._epoch(epoch)
        rows: list[np.ndarray] = []
        while count > 0:
            first_block = bisect_right(ends, place) // self.window_blocks * self.window_blocks
            blocks = order[first_block : first_block + self.window_blocks]
            start = int(ends[first_block - 1]) if first_block else 0
            size = int(self.sizes[blocks].sum())
            here = min(count, start + size - place)
            within = permuted(np.arange(place - start, place - start + here), size, seed_of("window", self.seed, epoch, first_block))
            inner = np.cumsum(self.sizes[blocks])
            which = np.searchsorted(inner, within, side="right")
            rows.append(self.starts[blocks[which]] + within - (inner - self.sizes[blocks])[which])
            place, count = place + here, count - here
        return rows

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in this epoch's order, and where each ends."""
        order = permuted(np.arange(len(self.sizes)), len(self.sizes), seed_of("blocks", self.seed, epoch))
        return order, np.cumsum(self.sizes[order])


class BatchPlan:
    """Batches by step: of one bucket each, where rows have several sizes; a bucket comes as often as its rows fill batches.

    Rows of a shard are neighbours in a batch, so that a machine, which takes the same part of each, needs few of a window's shards.

    ``buckets`` holds the rows of each bucket, ascending; None: all rows are of one size.
    """

    def __init__(self, blocks: Sequence[int], batch_size: int, seed: int, buckets: Sequence[np.ndarray] | None = None) -> None:
        self.batch_size, self.seed, self.buckets = batch_size, seed, buckets
        if buckets is None:
            self.orders = [RowOrder(blocks, seed)]
        else:
            edges = np.concatenate([[0], np.cumsum(blocks)])
            self.orders = [
                RowOrder(np.diff(np.searchsorted(rows, edges)).tolist(), seed_of("bucket", seed, k)) for k, rows in enumerate(buckets)
            ]
        self.counts = [max(1, round(len(order) / batch_size)) for order in self.orders]

    def batch(self, step: int) -> list[RowDraw]:
        """Return the readings of a step's batch."""
        round_, place = divmod(step, sum(self.counts))
        ends = np.cumsum(self.counts)
        turns = permuted(np.arange(place + 1), int(ends[-1]), seed_of("turns", self.seed, round_)) if len(self.counts) > 1 else None
        which = 0 if turns is None else int(np.searchsorted(ends, turns[-1], side="right"))
        earlier = place if turns is None else int(((turns[:-1] >= ends[which] - self.counts[which]) & (turns[:-1] < ends[which])).sum())
        number = round_ * self.counts[which] + earlier
        drawn = self.orders[which].take(number * self.batch_size, self.batch_size, are_neighbours_together=True)
        if self.buckets is None:
            return drawn
        return [RowDraw(draw.epoch, int(self.buckets[which][draw.row])) for draw in drawn]


def seed_of(*parts: str | int) -> int:
    """Mix words and numbers into a seed of 63 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, parts)).encode(errors="surrogateescape"), digest_size=8).digest()) >> 1


def sample_generator(seed: int, epoch: int, sample_id: str) -> torch.Generator:
    """Return the generator of every draw of one reading of a sample: crop, caption, text drop, noise level, noise, masks.

    On the CPU, so that a seed means the same on every device.
    """
    return torch.Generator().manual_seed(seed_of("sample", seed, epoch, sample_id))


def permuted(places: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return where a random permutation of ``count`` items takes each place, without the memory of the permutation.

    A Feistel network over the next power of four; what leaves the range goes round again.
    Source: Luby & Rackoff (1988); Black & Rogaway (2002), Sec. 3 (cycle walking).
    """
    half = np.uint64(max(_MIN_HALF_BITS, -(-max(count - 1, 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def rounds(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return left << half | right

    result = rounds(places.astype(np.uint64))
    while len(outside := np.flatnonzero(result >= count)):
        result[outside] = rounds(result[outside])
    return result.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser. Source: Steele et al. (2014), Fig. 17."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
