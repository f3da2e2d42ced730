"""The order of rows is a function of (seed, position)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from jointnet.data.order import BatchPlan, RowOrder, permuted, sample_generator


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 257, 1000, 70_000])
def test_permuted_is_a_permutation_that_changes_with_the_seed(count: int) -> None:
    once, other = (permuted(np.arange(count), count, seed) for seed in (1, 2))
    assert np.array_equal(np.sort(once), np.arange(count))
    assert np.array_equal(permuted(np.arange(count)[::-1], count, 1), once[::-1])
    assert count < 7 or not np.array_equal(once, other)


def test_permutations_are_uniform() -> None:
    """Chi-square of (place, item) counts: 6 orders of 3 items are as likely as each other."""
    seen = Counter(tuple(permuted(np.arange(3), 3, seed)) for seed in range(600))
    assert len(seen) == 6
    assert sum((n - 100) ** 2 / 100 for n in seen.values()) < 20.5  # the 99.9 % quantile for 5 degrees of freedom


@pytest.mark.parametrize("blocks", [[10], [3, 4, 3], [1] * 50 + [0, 7]])
def test_every_row_comes_once_an_epoch(blocks: list[int]) -> None:
    order = RowOrder(blocks, seed=3, window_blocks=2)
    size = sum(blocks)
    drawn = order.take(0, 3 * size)
    for epoch in range(3):
        part = drawn[epoch * size : (epoch + 1) * size]
        assert {draw.epoch for draw in part} == {epoch}
        assert sorted(draw.row for draw in part) == list(range(size))
    assert [d.row for d in drawn[:size]] != [d.row for d in drawn[size : 2 * size]]


def test_any_piece_of_the_order_can_be_read_without_the_rest() -> None:
    whole = RowOrder([30, 41, 1, 28], seed=5, window_blocks=2).take(0, 500)
    for first, count in ((0, 500), (7, 1), (99, 3), (131, 250)):
        assert RowOrder([30, 41, 1, 28], seed=5, window_blocks=2).take(first, count) == whole[first : first + count]


def test_rows_of_few_blocks_lie_together() -> None:
    order = RowOrder([100] * 40, seed=0, window_blocks=4)
    rows = [draw.row // 100 for draw in order.take(0, 4000)]
    for window in range(10):
        assert len(set(rows[window * 400 : (window + 1) * 400])) == 4


def test_a_batch_holds_rows_of_one_bucket_and_no_row_comes_twice_before_all_have() -> None:
    buckets = [np.arange(0, 60, 2), np.arange(1, 60, 4), np.arange(3, 60, 4)]  # 30, 15 and 15 rows in two shards
    plan = BatchPlan([25, 35], 5, seed=2, buckets=buckets)
    batches = [[draw.row for draw in plan.batch(step)] for step in range(12)]
    assert all(any(set(batch) <= set(rows.tolist()) for rows in buckets) for batch in batches)
    assert sorted(row for batch in batches for row in batch) == list(range(60))


def test_batches_without_buckets_walk_through_the_order() -> None:
    plan, order = BatchPlan([7, 4], 4, seed=1), RowOrder([7, 4], seed=1)
    for step in range(5):
        assert set(plan.batch(step)) == set(order.take(4 * step, 4))


def test_a_machine_needs_few_shards_of_a_window() -> None:
    """Of 16 shards, two a machine and one at each edge, whose place in the batch varies."""
    machines, batch, blocks = 8, 256, [1000] * 64
    plan, share = BatchPlan(blocks, batch, seed=0), batch // 8
    shards: list[set[int]] = [set() for _ in range(machines)]
    for step in range(62):  # within the first window
        for place, draw in enumerate(plan.batch(step)):
            shards[place // share].add(draw.row // 1000)
    assert len(set().union(*shards)) == 16
    assert max(map(len, shards)) <= 6


def test_draws_of_a_sample_depend_on_seed_epoch_and_id_only() -> None:
    def draw(*of: object) -> list[float]:
        return torch.rand(4, generator=sample_generator(*of)).tolist()  # type: ignore[arg-type] - one of each kind

    assert draw(0, 1, "a/b.png") == draw(0, 1, "a/b.png")
    assert len({tuple(draw(*of)) for of in ((0, 1, "a"), (1, 1, "a"), (0, 2, "a"), (0, 1, "b"), (0, 11, ""), (0, 1, "1"))}) == 6
