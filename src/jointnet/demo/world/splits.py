"""Which seeds are for training, validation and test: three ranges that never meet."""

from __future__ import annotations

SPLITS = {"train": range(10_000_000), "validation": range(10_000_000, 20_000_000), "test": range(20_000_000, 30_000_000)}


def seeds(split: str, count: int, start: int = 0) -> range:
    """``count`` seeds of a split, from its ``start``-th on.

    Raises: ValueError if the split is unknown or too short.
    """
    if split not in SPLITS:
        raise ValueError(f"got split {split!r}, expected one of {', '.join(SPLITS)}")
    chosen = SPLITS[split][start : start + count]
    if len(chosen) != count:
        raise ValueError(f"got {count} scenes from {start} on, the split {split!r} holds {len(SPLITS[split])}")
    return chosen
